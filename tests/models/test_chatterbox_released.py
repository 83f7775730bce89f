"""A folder of released Chatterbox: what is wrong with one is said in a line, its codec speaks as a reference, its export is upstream's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.chatterbox import Chatterbox
from models.chatterbox.codec import ChatterboxCodec
from models.chatterbox.network import T3
from models.chatterbox.released import rehearsal
from models.chatterbox.released.codec import ReleasedCodec
from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Example, Sampling, Voice
from stages import tokenise
from stages.common.shards import Clip, Shards, write_shards
from stages.common.tokens import read_voice, write_voice
from tests.family_checks import trained_a_little
from tests.spoil import tensors

FAMILY = Chatterbox()
LORA = AdaptSettings("lora", 4, 8.0, 0.0, ("q_proj", "v_proj"))
GREEDY = Sampling(temperature=0, guidance=0.5, min_p=0.05, repetition_penalty=1.2)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(24000 * seconds))).astype(np.float32)


def codes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 6561, (count, 1)).astype(np.int32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    FAMILY.write_release(folder, "small")
    return folder


@pytest.fixture
def release(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def codec(whole: Path) -> ReleasedCodec:
    found = FAMILY.codec(whole)
    assert isinstance(found, ReleasedCodec)
    return found


@pytest.fixture(scope="module")
def voice(codec: ReleasedCodec) -> Voice:
    clip = noise(2.5)
    prompt = Example("ref", "Hold the line.", "ann", codec.prompt(clip))
    return Voice("ann", 0.7 * codec.speaker_embedding(clip), (prompt,), clip, 24000)  # a mean of several is shorter than 1


# --- what may be wrong with a folder ------------------------------------------------------------------------------


T3_FILE, S3GEN, VE = "t3_cfg.safetensors", "s3gen.safetensors", "ve.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / T3_FILE).unlink(), f"{T3_FILE}: not there"),
        (lambda folder: (folder / S3GEN).unlink(), f"{S3GEN}: not there"),
        (lambda folder: (folder / VE).unlink(), f"{VE}: not there"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: the tokenizer is missing"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json: no tokenizer"),
        (lambda folder: (folder / VE).write_bytes((folder / T3_FILE).read_bytes()), f"{VE}: .*another model's file"),
        (lambda folder: (folder / T3_FILE).write_bytes((folder / VE).read_bytes()), f"{T3_FILE}: not Chatterbox's T3"),
        (lambda folder: (folder / S3GEN).write_bytes((folder / VE).read_bytes()), f"{S3GEN}: no tensor .*English Chatterbox"),
        (tensors(T3_FILE, lambda state: state.update({"patched_model.norm.weight": torch.ones(2)})), f"{T3_FILE}: .*unexpected .'patched_model"),
        (tensors(S3GEN, lambda state: state.pop("flow.encoder_proj.weight")), f"{S3GEN}: 1 tensors are missing .'flow.encoder_proj.weight'"),
        (tensors(S3GEN, lambda state: state.update({"flow.decoder.estimator.time_embed_mixer.weight": torch.ones(2)})), f"{S3GEN}: .*unexpected .'flow.*mixer"),
        (tensors(S3GEN, lambda state: state.update({"mel2wav.conv_pre.bias": state["mel2wav.conv_pre.bias"].half()})), f"{S3GEN}: mel2wav.conv_pre.bias is F16"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(release: Path, change: Callable[[Path], object], message: str) -> None:
    FAMILY.check_release(release)
    change(release)
    with pytest.raises(UserError, match=f"^{re.escape(str(release))}.*{message}") as raised:
        FAMILY.check_release(release)
    assert "\n" not in str(raised.value)


def test_tables_that_follow_from_the_code_may_be_in_the_file_or_not(release: Path, codec: ReleasedCodec) -> None:
    tensors(S3GEN, lambda state: state.update({"tokenizer._mel_filters": torch.ones(128, 201), "tokenizer.window": torch.ones(400)}))(release)
    FAMILY.check_release(release)
    np.testing.assert_array_equal(FAMILY.codec(release).encode([noise(1)])[0], codec.encode([noise(1)])[0])


def test_a_folder_without_the_released_codec_has_the_tiny_one() -> None:
    assert isinstance(FAMILY.codec(Path("models/chatterbox/tiny")), ChatterboxCodec)


# --- the codec ----------------------------------------------------------------------------------------------------


def test_a_batch_gives_bit_for_bit_what_single_clips_and_takes_give(codec: ReleasedCodec, voice: Voice) -> None:
    clips = [noise(seconds, seed) for seed, seconds in enumerate((1.0, 1.0, 0.05, 2.01, 31.0))]
    for clip, found in zip(clips, codec.encode(clips), strict=True):
        assert found.dtype == np.int32 and found.shape == (int(np.ceil(len(clip) / 960)), 1)
        np.testing.assert_array_equal(found, codec.encode([clip])[0])
    takes = [codes(count, count) for count in (12, 12, 1, 30)]
    for take, wave in zip(takes, codec.decode(takes, voice), strict=True):
        assert wave.dtype == np.float32 and wave.shape == (960 * len(take),) and np.abs(wave).max() <= 1
        np.testing.assert_array_equal(wave, codec.decode([take], voice)[0])
        assert not wave[:480].any() and wave[480:].any()


def test_a_take_without_codes_is_silence_and_a_voice_without_a_reference_is_refused(codec: ReleasedCodec, voice: Voice) -> None:
    assert codec.decode([codes(0)], voice)[0].shape == (0,)
    with pytest.raises(UserError, match="voice bob: without a reference recording.*run the tokenise stage again"):
        codec.decode([codes(3)], Voice("bob", voice.speaker_embedding))


def test_what_is_too_short_is_refused_in_words(codec: ReleasedCodec, voice: Voice) -> None:
    with pytest.raises(UserError, match=r"a clip of 240 samples \(0.010 s\) is too short for a code"):
        codec.encode([noise(0.01)])
    with pytest.raises(UserError, match="a reference of 0.030 s is too short"):
        codec.decode([codes(3)], replace(voice, reference=noise(0.03)))
    assert codec.speaker_embedding(noise(0.005)).shape == (256,)


def test_the_reference_is_heard_for_ten_seconds_in_whole_codes(codec: ReleasedCodec, voice: Voice) -> None:
    told = codec.conditions(noise(12.0), voice)
    assert told.mel.shape == (500, 80) and told.codes.shape == (250,) and told.vector.shape == (192,)
    assert codec.prompt(noise(12.0)).shape == (150, 1)
    assert codec.conditions(noise(1.23), voice).mel.shape == (2 * 30, 80)


def test_another_reference_is_another_voice(codec: ReleasedCodec, voice: Voice) -> None:
    here = codec.decode([codes(10)], voice)[0]
    there = codec.decode([codes(10)], replace(voice, reference=noise(2.0, seed=9)))[0]
    assert np.abs(here - there).max() > 0.01
    np.testing.assert_array_equal(codec.decode([codes(10)], voice)[0], here)


def test_tokenise_takes_the_longest_whole_clip_that_is_not_clipped_as_reference(codec: ReleasedCodec, voice: Voice, tmp_path: Path) -> None:
    """Ten seconds are heard. A voice on disk is the same voice."""
    clips = {"short": noise(0.5), "good": noise(1.5), "clipped": (4 * noise(2.0)).clip(-0.2, 0.2), "long": noise(10.5)}
    write_shards(tmp_path, (Clip(name, 24000, audio) for name, audio in clips.items()))
    train = [Example(name, f"This is {name}.", "ann", np.zeros((round(25 * len(audio) / 24000), 1), np.int32)) for name, audio in clips.items()]
    found = tokenise.with_reference(voice, codec, train, Shards(tmp_path))
    assert [prompt.text for prompt in found.prompts] == ["This is good."] and found.reference_rate == 24000
    np.testing.assert_allclose(found.reference, clips["good"], atol=1e-6)
    np.testing.assert_array_equal(found.prompts[0].codes, codec.prompt(found.reference))
    assert tokenise.with_reference(voice, codec, train[2:], Shards(tmp_path)).prompts[0].id == "long"

    write_voice(tmp_path, found)
    read = read_voice(tmp_path)
    np.testing.assert_array_equal(read.reference, found.reference)
    assert (read.speaker, read.reference_rate, read.prompts[0].text) == ("ann", 24000, "This is good.")
    np.testing.assert_array_equal(codec.decode([codes(5)], read)[0], codec.decode([codes(5)], found)[0])


def test_the_contract_is_the_tokenisers_alone(codec: ReleasedCodec, release: Path) -> None:
    """CosyVoice 2's sets fit it: the codes are the same."""
    contract = codec.contract
    assert (contract.tokeniser, contract.sample_rate, contract.token_rate, contract.vocabulary) == ("S3 version 2", 24000, 25.0, (6561,))

    def changed(tensor: str) -> str:
        tensors(S3GEN, lambda state: state.update({tensor: state[tensor] + 1}))(release)
        return FAMILY.codec(release).contract.tokeniser_sha256

    assert changed("mel2wav.conv_pre.bias") == contract.tokeniser_sha256
    assert changed("tokenizer.encoder.conv1.bias") != contract.tokeniser_sha256


# --- from a release to an export ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def merged(whole: Path, voice: Voice) -> T3:
    rows = [Example(f"u{n}", "Hello there.", "ann", codes(12, n), voice.speaker_embedding, codes(20, n + 5)) for n in range(2)]
    state = FAMILY.adapter_state(trained_a_little(FAMILY, FAMILY.network(whole), LORA, rows, 0.05), LORA)
    network = FAMILY.merged(whole, state, LORA, 1.0)
    assert isinstance(network, T3)
    return network


def test_an_export_is_the_release_with_t3_merged_and_the_voice_in_it(whole: Path, merged: T3, codec: ReleasedCodec, voice: Voice, tmp_path: Path) -> None:
    FAMILY.export(merged, voice, whole, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {T3_FILE, S3GEN, VE, "tokenizer.json", "conds.pt"}
    for name in (S3GEN, VE, "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    state, before = load_file(tmp_path / T3_FILE), load_file(whole / T3_FILE)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()} == {name: (tensor.shape, tensor.dtype) for name, tensor in before.items()}
    assert not torch.equal(state["tfmr.layers.0.self_attn.q_proj.weight"], before["tfmr.layers.0.self_attn.q_proj.weight"])
    FAMILY.check_release(tmp_path)

    spoken = torch.load(tmp_path / "conds.pt", weights_only=True)
    shapes = {f"{half}.{name}": value if value is None else (tuple(value.shape), value.dtype) for half in spoken for name, value in spoken[half].items()}
    assert shapes == {  # what upstream's prepare_conditionals gives for a clip of 2.48 s
        "t3.speaker_emb": ((1, 256), torch.float32), "t3.clap_emb": None, "t3.cond_prompt_speech_tokens": ((1, 63), torch.int64),
        "t3.cond_prompt_speech_emb": None, "t3.emotion_adv": ((1, 1, 1), torch.float32), "gen.prompt_token": ((1, 62), torch.int64),
        "gen.prompt_token_len": ((1,), torch.int64), "gen.prompt_feat": ((1, 124, 80), torch.float32), "gen.prompt_feat_len": None,
        "gen.embedding": ((1, 192), torch.float32),
    }  # fmt: skip
    assert spoken["t3"]["speaker_emb"].norm().item() == pytest.approx(1)
    np.testing.assert_array_equal(spoken["t3"]["cond_prompt_speech_tokens"][0], voice.prompts[0].codes[:, 0])

    takes = [FAMILY.generate(network, ["Hello there."], voice, GREEDY, [1], [20])[0] for network in (merged, FAMILY.network(tmp_path))]
    np.testing.assert_array_equal(takes[0].codes, takes[1].codes)
    np.testing.assert_array_equal(FAMILY.codec(tmp_path).render(takes[1:], voice)[0], codec.render(takes[:1], voice)[0])


def test_an_export_needs_a_reference(whole: Path, merged: T3, voice: Voice, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="voice ann: without a reference recording.*conds.pt"):
        FAMILY.export(merged, Voice("ann", voice.speaker_embedding, voice.prompts), whole, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_rehearsals_tokenizer_has_the_releases_ids() -> None:
    """Those that the facts of the release name."""
    made = rehearsal.tokenizer()
    assert made.get_vocab_size() == 704
    assert made.encode("[START]The 7[SPACE]cats.[STOP]", add_special_tokens=False).ids[:3] == [255, 277 + 19, 14 + 7]
    assert {token: made.token_to_id(token) for token in ("[STOP]", "[UNK]", "[SPACE]", "a", "z", "0", "A")} == {
        "[STOP]": 0, "[UNK]": 1, "[SPACE]": 2, "a": 14, "z": 39, "0": 263, "A": 277,
    }  # fmt: skip
