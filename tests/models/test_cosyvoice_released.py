"""Folders of released CosyVoice 2 and 3: what is wrong with one is said in a line, its codec speaks as a reference, its export is upstream's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Example, Generation, Sampling, Voice
from models.parts.speech_lm import SpeechLM
from models.released.cosyvoice.codec import shortened
from tests import small_cosyvoice
from tests.family_checks import trained_a_little
from tests.small_cosyvoice import Release, codes, noise
from tests.spoil import tensors

LORA = AdaptSettings("lora", 4, 8.0, 0.0, ("q_proj", "v_proj"))
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module", params=[2, 3])
def release(request: pytest.FixtureRequest) -> Release:
    return small_cosyvoice.release(request.param)


@pytest.fixture
def copy(release: Release, tmp_path: Path) -> Path:
    """One that a test may break."""
    for path in release.folder.rglob("*"):
        target = tmp_path / path.relative_to(release.folder)
        target.mkdir(exist_ok=True) if path.is_dir() else target.write_bytes(path.read_bytes())
    return tmp_path


# --- what may be wrong with a folder ------------------------------------------------------------------------------


def swapped(here: str, there: str) -> Callable[[Path, Release], object]:
    return lambda folder, release: (folder / here).write_bytes((folder / there).read_bytes())


GRAPH = "speech_tokenizer_v{version}.onnx"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder, _: (folder / "llm.safetensors").unlink(), "llm.safetensors: not there"),
        (lambda folder, _: (folder / "campplus.onnx").unlink(), "campplus.onnx: not there"),
        (lambda folder, _: (folder / "CosyVoice-BlankEN/merges.txt").unlink(), "merges.txt: not there"),
        (lambda folder, _: (folder / "CosyVoice-BlankEN/config.json").write_text("{}"), "config.json: no vocab_size"),
        (lambda folder, _: (folder / "CosyVoice-BlankEN/vocab.json").write_text("["), "vocab.json, .*: no tokenizer"),
        (swapped("flow.safetensors", "hift.safetensors"), "flow.safetensors: no tensor .*so no flow of CosyVoice"),
        (swapped("hift.safetensors", "flow.safetensors"), "hift.safetensors: no tensor .*so no vocoder of CosyVoice"),
        (swapped("llm.safetensors", "flow.safetensors"), "llm.safetensors: .*another model's file"),
        (tensors("llm.safetensors", lambda state: state.update(epoch=torch.ones(1))), "llm.safetensors: .*unexpected .'epoch'"),
        (tensors("flow.safetensors", lambda state: state.pop("input_embedding.weight")), "flow.safetensors: 1 tensors are missing"),
        (lambda folder, one: (folder / f"speech_tokenizer_v{one.version}.onnx").write_bytes((folder / "campplus.onnx").read_bytes()), "speech_tokenizer.*has .* blocks, this has 0"),
        (lambda folder, one: (folder / "campplus.onnx").write_bytes((folder / f"speech_tokenizer_v{one.version}.onnx").read_bytes()), "campplus.onnx: does not take a filter bank"),
        (lambda folder, _: (folder / "campplus.onnx").write_bytes(b"<html>"), "campplus.onnx: not an ONNX graph"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(release: Release, copy: Path, change: Callable[[Path, Release], object], message: str) -> None:
    change(copy, release)
    with pytest.raises(UserError, match=f"^{re.escape(str(copy))}.*{message}") as raised:
        release.family.check_release(copy)
    assert "\n" not in str(raised.value)


def test_a_whole_release_passes_and_names_of_an_old_vocoder_are_known(release: Release, copy: Path) -> None:
    release.family.check_release(release.folder)
    state = {f"generator.{name}": tensor for name, tensor in load_file(copy / "hift.safetensors").items()}
    save_file(state, copy / "hift.safetensors")
    release.family.check_release(copy)
    take, voice = [codes(3)], release.voice
    np.testing.assert_array_equal(release.family.codec(copy).decode(take, voice)[0], release.codec.decode(take, voice)[0])


# --- the codec ----------------------------------------------------------------------------------------------------


def test_a_batch_gives_bit_for_bit_what_single_clips_and_takes_give(release: Release) -> None:
    codec, voice = release.codec, release.voice
    clips = [noise(seconds, seed) for seed, seconds in enumerate((1.0, 0.05, 1.01, 31.0))]
    for clip, found in zip(clips, codec.encode(clips), strict=True):
        assert found.shape == (int(np.ceil(len(clip) / 960)), 1)
        np.testing.assert_array_equal(found, codec.encode([clip])[0])
    takes = [codes(count, count) for count in (12, 12, 1, 30)]
    for take, wave in zip(takes, codec.decode(takes, voice), strict=True):
        assert wave.dtype == np.float32 and wave.shape == (960 * len(take),) and 0 < np.abs(wave).max() <= 0.99
        np.testing.assert_array_equal(wave, codec.decode([take], voice)[0])
    assert codec.decode([codes(0)], voice)[0].shape == (0,)


def test_codes_are_those_of_the_releases_own_graph_on_long_clips_too(release: Release) -> None:
    share = release.codec.disagreement([noise(1.0), noise(0.05, 1), noise(2.3, 2), noise(31.0, 3)])
    assert share is not None and share < 0.005  # random nets have ties that rounding decides
    weight = release.codec.tokeniser.quantizer._codebook.project_down.weight
    before = weight.clone()
    with torch.no_grad():
        weight.neg_()
        assert release.codec.disagreement([noise(1.0)]) == pytest.approx(1.0, abs=0.05)
        weight.copy_(before)


def test_what_is_too_short_or_too_long_is_refused_in_words(release: Release) -> None:
    with pytest.raises(UserError, match=r"a clip of 240 samples \(0.010 s\) is too short for a code"):
        release.codec.encode([noise(0.01)])
    with pytest.raises(UserError, match=r"a clip of 960 samples \(0.040 s\) is too short for a speaker vector"):
        release.codec.speaker_embedding(noise(0.04))
    assert release.codec.speaker_embedding(noise(0.05)).shape == (192,)
    with pytest.raises(UserError, match="a take of 302 s, its reference included: the decoder speaks 300 s at most"):
        release.codec.flow_noise(2 * 25 * 302, torch.Generator())
    with pytest.raises(UserError, match="voice bob: without a reference recording"):
        release.codec.decode([codes(3)], Voice("bob", release.voice.speaker_embedding))


def test_the_decoder_hears_as_many_codes_as_frames(release: Release) -> None:
    """2.51 s have 125 frames of mel and 63 codes, of which the last is left out: with it everything would shift."""
    told = release.codec.conditions(release.voice.reference, release.voice)
    assert len(release.codec.encode([release.voice.reference])[0]) == 63
    assert told.codes.shape == (62,) and told.mel.shape == (124, 80)


def test_the_other_versions_codes_are_told_apart(release: Release) -> None:
    """Same range, another meaning: only the contract knows."""
    contract = release.codec.contract
    other = replace(contract, tokeniser=f"S3 version {5 - release.version}")
    with pytest.raises(UserError, match=f"made with tokeniser S3 version {5 - release.version}, but this network needs S3 version {release.version}"):
        contract.check(other, "tokens/contract.json")


def test_long_silences_of_version_3_are_shortened_where_they_were_generated(release: Release) -> None:
    silent = np.array([[28]] * 8 + [[9]] + [[1], [2]] * 4, np.int32)
    assert shortened(silent)[:, 0].tolist() == [28] * 5 + [9] + [1, 2, 1, 2, 1]
    take = Generation(silent, "stop", np.zeros(0, np.float32))
    (wave,) = release.codec.render([take], release.voice)
    assert len(wave) == 960 * (11 if release.version == 3 else 17)
    assert len(release.codec.decode([silent], release.voice)[0]) == 960 * 17


# --- the language model -------------------------------------------------------------------------------------------


def test_version_2_clones_its_reference_and_version_3_has_its_instruction(release: Release) -> None:
    network = release.family.network(release.folder)
    prompt = network.prompt("It costs 7", release.voice)
    spoken = network.text_ids("It costs seven.")
    if release.version == 2:
        assert prompt.text == network.text_ids("Hold the two lines.") + spoken and len(prompt.codes) == 62
    else:
        assert prompt.text == spoken and not len(prompt.codes)
        assert network.tokenizer.decode(prompt.text, skip_special_tokens=False).startswith("You are a helpful assistant.<|endofprompt|>It")
    assert prompt.least == 2 * len("It costs seven.")  # a token a byte
    assert network.prompt("It costs 7", Voice("bob", release.voice.speaker_embedding)).text == spoken
    example = Example("a", "It costs 7", "ann", codes(4))
    assert release.family.batch(network, [example])["lengths"].tolist() == [[len(network.text_ids("It costs 7")), 4]]  # as it is written
    with pytest.raises(UserError, match="nothing to say"):
        network.prompt("…", release.voice)


def test_decisions_are_scored_as_they_were_taken(release: Release) -> None:
    network = release.family.network(release.folder)
    sampling = Sampling(1.0, 25, 0.8, repetition_window=10)
    takes = release.family.generate(network, ["Hello.", "Who is it? Say 3."], release.voice, sampling, [1, 2], [40, 40])
    for text, take in zip(("Hello.", "Who is it? Say 3."), takes, strict=True):
        scores = release.family.decision_logprobs(network, text, release.voice, take)
        np.testing.assert_allclose(scores, take.logprobs, atol=1e-4)


# --- from a release to an export ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def merged(release: Release) -> SpeechLM:
    rows = [Example(f"u{n}", "Hello there.", "ann", codes(12, n)) for n in range(2)]
    family = release.family
    state = family.adapter_state(trained_a_little(family, family.network(release.folder), LORA, rows, 0.05), LORA)
    network = family.merged(release.folder, state, LORA, 1.0)
    assert isinstance(network, SpeechLM)
    return network


def test_an_export_is_the_release_with_the_language_model_merged_and_the_speaker_in_it(release: Release, merged: SpeechLM, tmp_path: Path) -> None:
    family, voice, version = release.family, release.voice, release.version
    family.export(merged, voice, release.folder, tmp_path)
    blank = {f"CosyVoice-BlankEN/{name}" for name in ("config.json", "generation_config.json", "vocab.json", "merges.txt", "tokenizer_config.json", "model.safetensors")}
    files = {"llm.pt", "flow.pt", "hift.pt", GRAPH.format(version=version), "campplus.onnx", f"cosyvoice{version}.yaml", "spk2info.pt"} | blank
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == files
    for name in ("llm", "flow", "hift"):
        state, before = torch.load(tmp_path / f"{name}.pt", weights_only=True), load_file(release.folder / f"{name}.safetensors")
        assert {key: (tensor.shape, tensor.dtype) for key, tensor in state.items()} == {key: (tensor.shape, tensor.dtype) for key, tensor in before.items()}
        changed = {key for key in state if not torch.equal(state[key], before[key])}
        assert {key.rsplit(".", 2)[1] for key in changed} == ({"q_proj", "v_proj"} if name == "llm" else set())
    qwen = load_file(tmp_path / "CosyVoice-BlankEN/model.safetensors")
    assert {f"llm.model.{key}" for key in qwen} == {key for key in merged.state_dict() if key.startswith("llm.model.")} - {"llm.model.lm_head.weight"}

    spoken = torch.load(tmp_path / "spk2info.pt", weights_only=True)["ann"]
    text = ("You are a helpful assistant.<|endofprompt|>" if version == 3 else "") + "Hold the two lines."
    ids = merged.tokenizer.encode(text, add_special_tokens=False).ids
    assert spoken["prompt_text"].tolist() == [ids] and spoken["prompt_text_len"].tolist() == [len(ids)]
    for name in ("llm_prompt_speech_token", "flow_prompt_speech_token"):
        assert spoken[name].dtype == torch.int32 and spoken[name].tolist() == [voice.prompts[0].codes[:, 0].tolist()] and spoken[f"{name}_len"].tolist() == [62]
    torch.testing.assert_close(spoken["prompt_speech_feat"][0], release.codec.conditions(voice.reference, voice).mel)
    assert spoken["prompt_speech_feat_len"].tolist() == [124]
    for name in ("llm_embedding", "flow_embedding"):
        np.testing.assert_array_equal(spoken[name][0], voice.speaker_embedding)

    takes = [family.generate(network, ["Hello there."], voice, GREEDY, [1], [20])[0] for network in (merged, family.network(tmp_path))]
    np.testing.assert_array_equal(takes[0].codes, takes[1].codes)
    np.testing.assert_array_equal(family.codec(tmp_path).render(takes[1:], voice)[0], release.codec.render(takes[:1], voice)[0])


def test_an_export_needs_a_reference(release: Release, merged: SpeechLM, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="voice ann: without a reference recording.*spk2info.pt"):
        release.family.export(merged, Voice("ann", release.voice.speaker_embedding), release.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
