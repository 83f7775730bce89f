"""A folder of released IndexTTS2: what is wrong with one is said in a line, its codec hears and speaks, its export is upstream's."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from models.indextts2 import IndexTTS2
from models.indextts2.codec import IndexCodec
from models.indextts2.network import UnifiedVoice
from models.indextts2.released import rehearsal
from models.indextts2.released.codec import ReleasedCodec
from models.indextts2.released.files import FILES, NEWER_TENSOR
from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Example, Generation, Sampling, Voice
from stages import tokenise
from stages.common import licences
from stages.common.params import load_params
from stages.common.shards import Clip, Shards, write_shards
from stages.common.tokens import read_voice, write_voice
from stages.train.plan import Device, longest_clips, plan
from stages.weights import release as releases
from stages.weights.convert import PICKLES, convert, converted
from tests.family_checks import trained_a_little
from tests.spoil import tensors

FAMILY = IndexTTS2()
LORA = AdaptSettings("lora", 4, 8.0, 0.0, ("c_attn", "c_proj"))
GREEDY = Sampling(temperature=0, repetition_penalty=10.0)
GPT_FILE, S2MEL_FILE = "gpt.safetensors", "s2mel.safetensors"
REPCODEC_FILE, HEARING_FILE = "hf_cache/semantic_codec_model.safetensors", "hf_cache/w2v-bert-2.0/model.safetensors"


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(24000 * seconds))).astype(np.float32)


def take(count: int, seed: int = 0) -> Generation:
    random = np.random.default_rng(seed)
    latents = random.standard_normal((count, 128)).astype(np.float32)
    return Generation(random.integers(0, 8192, (count, 1)).astype(np.int32), "stop", np.zeros(0, np.float32), latents)


def brought(source: Path, target: Path) -> Path:
    """The release of a folder as `make weights` leaves it."""
    for name in FILES:
        path = target / converted(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if Path(name).suffix in PICKLES:
            convert(source / name, name, path)
        else:
            shutil.copyfile(source / name, path)
    return target


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("raw")
    FAMILY.write_release(raw, "small")
    return brought(raw, tmp_path_factory.mktemp("release"))


@pytest.fixture
def release(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="module")
def codec(whole: Path) -> ReleasedCodec:
    found = FAMILY.codec(whole)
    assert isinstance(found, ReleasedCodec)
    return found


@pytest.fixture(scope="module")
def voice(codec: ReleasedCodec) -> Voice:
    clip = noise(2.5)
    return Voice("ann", codec.voice_embedding(np.zeros(0, np.float32), clip), (), clip, 24000)


# --- what may be wrong with a folder ------------------------------------------------------------------------------


def config(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        said = yaml.safe_load((folder / "config.yaml").read_text())
        change(said)
        (folder / "config.yaml").write_text(yaml.safe_dump(said))

    return apply


def vocoder(name: str, value: object) -> Callable[[Path], object]:
    path = "hf_cache/bigvgan/config.json"
    return lambda folder: (folder / path).write_text(json.dumps(json.loads((folder / path).read_text()) | {name: value}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.yaml").write_text("a: [b"), "config.yaml: can't be read"),
        (lambda folder: (folder / "config.yaml").write_text("gpt: 1"), "config.yaml: no blocks gpt and s2mel"),
        (config(lambda said: said["gpt"].update(condition_type="perceiver")), "config.yaml: gpt: condition_type is perceiver"),
        (config(lambda said: said["s2mel"]["preprocess_params"]["spect_params"].update(fmax=8000)), "config.yaml: .*fmax is 8000, and only 'None' is read"),
        (config(lambda said: said["gpt"].update(number_mel_codes=8200)), "config.yaml: .*number_mel_codes 8200"),
        (config(lambda said: said.update(emo_num=[3])), "feat1.safetensors: tensor is .73, 192., .*3, 192"),
        (vocoder("use_bias_at_final", True), "bigvgan/config.json: use_bias_at_final is True, and only False is read; take bigvgan_v2"),
        (lambda folder: (folder / "bpe.model").unlink(), "bpe.model: not there"),
        (lambda folder: (folder / "bpe.model").write_bytes(b"nothing"), "bpe.model: not a SentencePiece model"),
        (lambda folder: (folder / "feat2.safetensors").unlink(), "feat2.safetensors: not there"),
        (lambda folder: (folder / HEARING_FILE).unlink(), "w2v-bert-2.0/model.safetensors: not there"),
        (lambda folder: shutil.copyfile(folder / S2MEL_FILE, folder / REPCODEC_FILE), f"{REPCODEC_FILE}: not the part of IndexTTS2"),
        (lambda folder: shutil.copyfile(folder / REPCODEC_FILE, folder / GPT_FILE), f"{GPT_FILE}: no tensor 'perceiver_encoder.latents'"),
        (tensors(GPT_FILE, lambda state: state.pop("gpt.h.1.attn.c_attn.bias")), f"{GPT_FILE}: .*missing .'gpt.h.1.attn.c_attn.bias'"),
        (tensors(S2MEL_FILE, lambda state: state.pop("net.cfm.estimator.wavenet.in_layers.0.conv.conv.bias")), f"{S2MEL_FILE}: .*missing .*in_layers.0"),
        (tensors(S2MEL_FILE, lambda state: state.update({"net.gpt_layer.3.weight": torch.ones(2)})), f"{S2MEL_FILE}: .*unexpected .'gpt_layer.3.weight'"),
        (tensors(REPCODEC_FILE, lambda state: state.update({"encoder.1.bias": state["encoder.1.bias"].half()})), f"{REPCODEC_FILE}: encoder.1.bias is F16"),
        (config(lambda said: said["gpt"].update(number_text_tokens=201)), "gpt.safetensors: text_embedding.weight is .201, 128."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(release: Path, change: Callable[[Path], object], message: str) -> None:
    change(release)
    with pytest.raises(UserError, match=f"^{re.escape(str(release))}.*{message}") as raised:
        FAMILY.check_release(release)
    assert "\n" not in str(raised.value)


def test_a_whole_folder_passes(whole: Path) -> None:
    FAMILY.check_release(whole)


def test_files_of_two_releases_are_refused(release: Path) -> None:
    rehearsal.write_pieces(release / "bpe.model", 150)
    with pytest.raises(UserError, match="bpe.model: has 150 pieces, and the language model's are 200; the files do not belong together"):
        FAMILY.check_release(release)


@pytest.mark.parametrize(
    "change",
    [
        config(lambda said: said.update(version=2.5)),
        tensors(GPT_FILE, lambda state: state.update({NEWER_TENSOR: torch.ones(2, 2)})),
    ],
)  # fmt: skip
def test_trap_another_models_codes_have_another_rate(release: Path, change: Callable[[Path], object]) -> None:
    """IndexTTS 2.5: 25 codes a second. Upstream loads the one into the other and logs what is wrong."""
    change(release)
    with pytest.raises(UserError, match="this is IndexTTS 2.5, another model and no newer checkpoint: 25 codes a second"):
        FAMILY.check_release(release)


def test_a_folder_of_the_newer_model_is_known_by_its_codec(tmp_path: Path) -> None:
    (tmp_path / "codec.pth").write_bytes(b"")
    with pytest.raises(UserError, match="codec.pth: this is IndexTTS 2.5, another model"):
        releases.check_kind(FAMILY.card, tmp_path)


def test_what_training_and_generation_leave_in_a_file_is_no_fault(release: Path, whole: Path) -> None:
    """Aliases of the network, one name above all of it, and the name that parallel training puts in front."""
    tensors(GPT_FILE, lambda state: state.update({"gpt.wte.weight": torch.ones(1), "inference_model.lm_head.1.bias": torch.ones(3)}))(release)
    tensors(GPT_FILE, lambda state: [state.update({f"model.{name}": state.pop(name)}) for name in [*state]])(release)
    part = "net.length_regulator."
    tensors(S2MEL_FILE, lambda state: [state.update({name.replace(part, f"{part}module."): state.pop(name)}) for name in [*state] if name.startswith(part)])(release)
    tensors(S2MEL_FILE, lambda state: state.update({"optimizer.state.0.exp_avg": torch.ones(3)}))(release)
    FAMILY.check_release(release)
    found, wanted = FAMILY.network(release).state_dict(), FAMILY.network(whole).state_dict()
    assert set(found) == set(wanted) and all(torch.equal(found[name], wanted[name]) for name in wanted)
    FAMILY.codec(release)


def test_a_folder_without_the_release_has_the_tiny_codec() -> None:
    assert isinstance(FAMILY.codec(Path("models/indextts2/tiny")), IndexCodec)


def test_commercial_use_is_told_what_is_disputed(capsys: pytest.CaptureFixture[str]) -> None:
    card = FAMILY.card["licence"]["weights"]
    licences.check("research", {"indextts2": card})
    assert not capsys.readouterr().out
    licences.check("commercial", {"indextts2": card})
    assert capsys.readouterr().out.startswith("params.yaml: intended_use: commercial: indextts2: MaskGCT's codec")


# --- the codec ----------------------------------------------------------------------------------------------------


def test_a_batch_gives_bit_for_bit_what_single_clips_and_takes_give(codec: ReleasedCodec, voice: Voice) -> None:
    clips = [noise(seconds, seed) for seed, seconds in enumerate((1.0, 1.0, 0.13, 2.01, 16.0))]
    for clip, (codes, vector) in zip(clips, codec.prepared(clips), strict=True):
        frames = 1 + (round(len(clip) * 2 / 3) - 400) // 160  # of 10 ms
        assert codes.dtype == np.int32 and codes.shape == (-(-frames // 2), 1)
        np.testing.assert_array_equal(codes, codec.encode([clip])[0])
        np.testing.assert_array_equal(vector, codec.speaker_embedding(clip))
        assert vector.shape == ((4 + 1) * 128,) and vector.dtype == np.float32
    takes = [take(n, n) for n in (1, 3, 40)]
    for one, wave in zip(takes, codec.render(takes, voice), strict=True):
        assert wave.dtype == np.float32 and wave.shape == (256 * int(1.72 * len(one.codes)),) and np.abs(wave).max() <= 1
        np.testing.assert_array_equal(wave, codec.render([one], voice)[0])


def test_a_clip_is_passed_over_once(codec: ReleasedCodec) -> None:
    """Codes, condition and emotion come of it; of a clip longer than a prompt, its first 15 s are heard besides."""
    heard: list[int] = []
    hook = codec.hearing.register_forward_pre_hook(lambda _, given: heard.append(len(given[0])))
    codec.prepared([noise(2.0), noise(16.0)])
    hook.remove()
    assert sorted(heard) == [32000, 240000, 256000]


def test_a_prompt_is_cut_at_15_seconds_wherever_it_is_heard(codec: ReleasedCodec, voice: Voice) -> None:
    long = noise(15.7)
    np.testing.assert_array_equal(codec.speaker_embedding(long), codec.speaker_embedding(long[: 15 * 24000]))
    known = codec.conditions(long)
    assert known.mel.shape == (80, 15 * 22050 // 256) and len(known.told) == known.mel.shape[1]


def test_the_decoder_hears_codes_states_and_the_recording(codec: ReleasedCodec, voice: Voice) -> None:
    one = take(20)
    alone, said = codec.decode([one.codes], voice)[0], codec.render([one], voice)[0]
    assert alone.shape == said.shape and np.abs(alone - said).max() > 1e-3
    np.testing.assert_array_equal(codec.render([replace(one, latents=None)], voice)[0], alone)
    other = codec.render([one], replace(voice, reference=noise(2.0, seed=9)))[0]
    assert np.abs(other - said).max() > 1e-3
    np.testing.assert_array_equal(codec.render([one], voice)[0], said)


def test_a_take_without_codes_is_silence_and_a_voice_without_a_reference_is_refused(codec: ReleasedCodec, voice: Voice) -> None:
    assert codec.decode([take(0).codes], voice)[0].shape == (0,)
    with pytest.raises(UserError, match="voice bob: without a reference recording.*run the tokenise stage again"):
        codec.decode([take(3).codes], Voice("bob", voice.speaker_embedding))


@pytest.mark.parametrize(("seconds", "message"), [(0.01, "a clip of 0.010 s is too short for a code"), (0.06, "a clip of 0.04 s is too short to be a prompt")])
def test_what_is_too_short_is_refused_in_words(codec: ReleasedCodec, seconds: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        codec.prepared([noise(seconds)])


def test_a_voice_is_what_upstream_hears_in_its_recording(codec: ReleasedCodec, voice: Voice, tmp_path: Path) -> None:
    """Not the mean over clips: an export is spoken with that recording."""
    clips = {"short": noise(0.5), "good": noise(3.0, 1), "long": noise(15.5)}
    write_shards(tmp_path, (Clip(name, 24000, audio) for name, audio in clips.items()))
    train = [Example(name, f"This is {name}.", "ann", np.zeros((round(50 * len(audio) / 24000), 1), np.int32)) for name, audio in clips.items()]
    found = tokenise.with_reference(replace(voice, speaker_embedding=np.zeros(640, np.float32)), codec, train, Shards(tmp_path))
    assert found.prompts[0].id == "good"
    np.testing.assert_array_equal(found.speaker_embedding, codec.voice_embedding(np.zeros(0, np.float32), found.reference))
    assert np.abs(found.speaker_embedding - codec.speaker_embedding(found.reference)).max() > 0  # a training clip is read otherwise
    write_voice(tmp_path, found)
    np.testing.assert_array_equal(codec.render([take(5)], read_voice(tmp_path))[0], codec.render([take(5)], found)[0])


def test_the_contract_is_of_what_hears_a_clip(codec: ReleasedCodec, release: Path) -> None:
    contract = codec.contract
    assert (contract.sample_rate, contract.token_rate, contract.codebooks, contract.vocabulary) == (24000, 50.0, 1, (8192,))

    def changed(file: str, tensor: str) -> str:
        tensors(file, lambda state: state.update({tensor: state[tensor] + 1}))(release)
        return FAMILY.codec(release).contract.tokeniser_sha256

    assert changed(S2MEL_FILE, "net.gpt_layer.0.bias") == contract.tokeniser_sha256
    assert changed(REPCODEC_FILE, "encoder.1.bias") != contract.tokeniser_sha256


# --- from a release to an export ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def targets(whole: Path, codec: ReleasedCodec) -> list[Example]:
    clips = codec.prepared([noise(0.6, seed) for seed in range(2)])
    return FAMILY.prepare([Example(f"u{n}", "Hold the line.", "ann", codes, vector) for n, (codes, vector) in enumerate(clips)], whole)


@pytest.fixture(scope="module")
def merged(whole: Path, targets: list[Example]) -> UnifiedVoice:
    state = FAMILY.adapter_state(trained_a_little(FAMILY, FAMILY.network(whole), LORA, targets, 0.05), LORA)
    network = FAMILY.merged(whole, state, LORA, 1.0)
    assert isinstance(network, UnifiedVoice)
    return network


def test_a_set_is_written_and_read_back(whole: Path, targets: list[Example], tmp_path: Path) -> None:
    """Its text ids are the release's; the decoder takes no vector of a clip's own."""
    FAMILY.write(targets, tmp_path)
    for wanted, found in zip(targets, FAMILY.read(tmp_path), strict=True):
        for name, value in vars(wanted).items():
            np.testing.assert_array_equal(getattr(found, name), value)
    network = FAMILY.network(whole)
    FAMILY.batch(network, targets)
    FAMILY.check_shapes(network, FAMILY.codec(whole).contract)


def test_an_export_is_the_release_with_its_language_model_merged(whole: Path, merged: UnifiedVoice, codec: ReleasedCodec, voice: Voice, tmp_path: Path) -> None:
    out = tmp_path / "out"
    FAMILY.export(merged, voice, whole, out)
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {*FILES, "NOTICE"}
    assert "are not endorsed, warranted, or guaranteed by the original" in (out / "NOTICE").read_text()

    state, before = torch.load(out / "gpt.pth", weights_only=True), FAMILY.network(whole).state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {name: tensor.shape for name, tensor in before.items()}
    assert not torch.equal(state["gpt.h.0.attn.c_attn.weight"], before["gpt.h.0.attn.c_attn.weight"])
    parts = torch.load(out / "s2mel.pth", weights_only=True)["net"]  # as upstream's loader walks it
    assert set(parts) == {"cfm", "length_regulator", "gpt_layer"} and "estimator.wavenet.in_layers.0.conv.conv.weight_g" in parts["cfm"]
    assert set(torch.load(out / "hf_cache/bigvgan/bigvgan_generator.pt", weights_only=True)) == {"generator"}
    assert torch.load(out / "feat1.pt", weights_only=True).shape == (73, 192)
    assert set(torch.load(out / "wav2vec2bert_stats.pt", weights_only=True)) == {"mean", "var"}

    # As a base, brought in again and as it is, it says the same codes, which sound the same.
    again = brought(out, tmp_path / "again")
    FAMILY.check_release(again)
    (said,) = FAMILY.generate(merged, ["Hold the line."], voice, GREEDY, [1], [20])
    for folder in (again, out):
        (found,) = FAMILY.generate(FAMILY.network(folder), ["Hold the line."], voice, GREEDY, [1], [20])
        np.testing.assert_array_equal(found.codes, said.codes)
        there = FAMILY.codec(folder)
        np.testing.assert_array_equal(there.render([found], voice)[0], codec.render([said], voice)[0])
        np.testing.assert_array_equal(there.encode([noise(1)])[0], codec.encode([noise(1)])[0])


def test_an_export_needs_every_file_and_writes_nothing_without(release: Path, merged: UnifiedVoice, voice: Voice, tmp_path: Path) -> None:
    (release / "feat2.safetensors").unlink()
    with pytest.raises(UserError, match="feat2.safetensors: not there; run `make weights MODEL=indextts2` again"):
        FAMILY.export(merged, voice, release, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_planning_reads_no_weight(whole: Path) -> None:
    block = load_params().families["indextts2"]["full"].model_copy(update={"weights": whole})
    found = plan(FAMILY, block, True, lambda network: longest_clips(FAMILY, network, block.train.batch_frames, 10.0))
    assert found.parameters > 1e6 and found.total > found.weights and found.table("indextts2", Device("a GPU", 1, True))


