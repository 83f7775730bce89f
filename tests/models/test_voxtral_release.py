"""Voxtral's folder: what is wrong with one is said in a line, its voices are what the network reads, an export is a release again."""

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
from safetensors import safe_open
from safetensors.torch import load_file

from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Example, Sampling, Voice
from models.voxtral import Voxtral
from models.voxtral.config import RELEASED
from models.voxtral.network import VoxtralNetwork
from models.voxtral.released import rehearsal
from models.voxtral.released.codec import ReleasedCodec
from models.voxtral.released.decoder import CodecConfig
from models.voxtral.released.export import write
from models.voxtral.released.files import FILES
from models.voxtral.released.rehearsal import VOICES
from stages.common.params import load_params
from stages.common.weights import FOLDER
from stages.train import selfcheck
from stages.train.plan import Device, longest_clips, plan
from stages.weights import bring as weights
from tests import toy_voxtral as toy
from tests.conftest import ROOT
from tests.family_checks import trained_a_little
from tests.spoil import field, tensors

FAMILY = Voxtral()
WOMAN, MAN = VOICES
HER = Voice(WOMAN, np.zeros(0, np.float32))
GREEDY = Sampling(temperature=0.0, guidance=0.2, euler_steps=7)
LORA = AdaptSettings("lora", 4, 8.0, 0.0, ("q_proj", "v_proj", "down_proj", "wq", "w2"))
TEXTS = ["Hello there, how are you today?", "No."]
FILE, NORM, BLOCK = "consolidated.safetensors", "norm.weight", "audio_tokenizer.decoder_blocks.1.layers.0.attention_scale"
SPOKEN = f"voice_embedding/{WOMAN}.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small release as `make weights` leaves it."""
    return toy.release(tmp_path_factory.mktemp("release"))


@pytest.fixture
def release(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return shutil.copytree(whole, tmp_path / "release")


def said(count: int = 2, speaker: str = WOMAN) -> list[Example]:
    random = np.random.default_rng(1)
    codes = [np.concatenate([random.integers(0, 8192, (6, 1)), random.integers(0, 21, (6, 36))], 1) for _ in range(count)]
    return [Example(f"u{n}", text, speaker, codes[n].astype(np.int32)) for n, text in enumerate(TEXTS[:count])]


# --- what may be wrong with a folder ------------------------------------------------------------------------------


def test_a_whole_release_passes(whole: Path) -> None:
    FAMILY.check_release(whole)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(release: Path, name: str) -> None:
    (release / name).unlink()
    with pytest.raises(UserError, match=f"{name}: not there"):
        FAMILY.check_release(release)


CODEC, VOICE = "multimodal/audio_tokenizer_args", f"audio/voice_num_audio_tokens/{WOMAN}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (field("params.json", "dim", None), "params.json: not Voxtral TTS's configuration"),
        (field("params.json", CODEC, None), "params.json: audio_tokenizer_args are not those of Voxtral's codec"),
        (field("params.json", f"{CODEC}/decoder_convs_strides_str", "2,2,2"), "params.json: audio_tokenizer_args are not those"),
        (field("params.json", f"{CODEC}/causal", False), "params.json: audio_tokenizer_args: causal is not True"),
        (field("params.json", f"{CODEC}/acoustic_dim", 12), "params.json: .*speak of other codebooks"),
        (field("params.json", f"{CODEC}/voice/gruff_male", 2), "gruff_male.pt: not there, but params.json lists the voice"),
        (field("tekken.json", "vocab", None), "tekken.json: not a tekken tokenizer"),
        (field("tekken.json", "audio", None), "tekken.json: does not say how long the voices are"),
        (field("tekken.json", VOICE, None), f"tekken.json: knows no voice {WOMAN}"),
        (field("tekken.json", VOICE, 8), rf"{SPOKEN}: \(7, 64\), where tekken.json and params.json make it \(8, 64\)"),
        (lambda folder: shutil.rmtree(folder / "voice_embedding"), "voice_embedding: no voice there"),
        (tensors(SPOKEN, lambda state: state.update(more=torch.ones(1))), f"{SPOKEN}: .*take the files as they were released"),
        (tensors(FILE, lambda state: state.pop(NORM)), rf"1 tensors are missing \['{NORM}'\]"),
        (tensors(FILE, lambda state: state.pop(BLOCK)), rf"1 tensors are missing \['{BLOCK}'\]"),
        (tensors(FILE, lambda state: state.update({BLOCK: torch.ones(3).bfloat16()})), rf"{BLOCK} is \(3,\), config.json makes it \(64,\)"),
        (tensors(FILE, lambda state: state.update({NORM: torch.ones(64)})), f"{NORM} is F32, not BF16"),
        (tensors(FILE, lambda state: state.update({"audio_tokenizer.input_proj.conv.weight": torch.ones(1).bfloat16()})), "1 unexpected"),
        (lambda folder: (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-1]), f"{FILE}: .* bytes, but its header speaks of"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(release: Path, change: Callable[[Path], object], message: str) -> None:
    change(release)
    with pytest.raises(UserError, match=f"^{re.escape(str(release))}.*{message}") as raised:
        FAMILY.check_release(release)
    assert "\n" not in str(raised.value)


# --- the rehearsal, and the voices --------------------------------------------------------------------------------


def test_a_small_rehearsals_parts_fit_each_other(whole: Path) -> None:
    codec, network = FAMILY.codec(whole), FAMILY.network(whole)
    FAMILY.check_shapes(network, codec.contract)
    assert (codec.contract.sample_rate, codec.contract.token_rate) == (24000, 12.5)
    assert FAMILY.loss(network, FAMILY.batch(network, said())).labels == 14
    takes = FAMILY.generate(network, TEXTS, HER, GREEDY, [1, 2], [12] * 2)
    for wave, take in zip(codec.render(takes, HER), takes, strict=True):
        assert len(wave) == 1920 * len(take.codes) and np.isfinite(wave).all()


def test_trap_the_codec_runs_in_float32(whole: Path) -> None:
    """Its file is bfloat16, in which upstream runs it: three hundredths of the wave away."""
    codec = ReleasedCodec(whole)
    (wave,) = codec.decode([said(1)[0].codes], HER)
    assert wave.dtype == np.float32
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = codec.network(torch.from_numpy(said(1)[0].codes).long()[None])[0].float().numpy()
    assert 1e-3 < np.sqrt(((rounded - wave) ** 2).mean() / (wave**2).mean()) < 0.2


def test_training_scores_the_decisions_that_generation_makes_after_a_reference(whole: Path) -> None:
    network = FAMILY.network(whole)
    selfcheck.alignment(FAMILY, network, TEXTS[0], HER, 3)
    free = Sampling(temperature=1.0, top_k=0, top_p=1.0)
    for text, take in zip(TEXTS, FAMILY.generate(network, TEXTS, HER, free, [1, 2], [12, 12]), strict=True):
        np.testing.assert_allclose(FAMILY.decision_logprobs(network, text, HER, take), take.logprobs, atol=1e-4)


def test_a_batch_of_two_voices_is_each_by_itself(whole: Path) -> None:
    """Of unequal length: the rows of one must not stand in the other's prompt."""
    network, (one, other) = FAMILY.network(whole), said()
    other = replace(other, speaker=MAN)
    alone = [FAMILY.loss(network, FAMILY.batch(network, [row])).parts["semantic"] for row in (one, other)]
    together = FAMILY.loss(network, FAMILY.batch(network, [one, other])).parts["semantic"]
    assert together == pytest.approx(np.mean(alone), abs=1e-5)


def test_another_voice_is_another_take(whole: Path) -> None:
    network, him = FAMILY.network(whole), Voice(MAN, np.zeros(0, np.float32))
    (hers,), (his,) = (FAMILY.generate(network, TEXTS[:1], who, GREEDY, [1], [12]) for who in (HER, him))
    assert not np.array_equal(hers.codes[:3], his.codes[:3])


def test_trap_the_released_network_is_never_asked_without_a_voice(whole: Path) -> None:
    """Upstream refuses such a request, so nobody knows how it speaks: neither trained nor spoken without."""
    network = FAMILY.network(whole)
    with pytest.raises(UserError, match=f"'ann' is none of the release's voices, which are {WOMAN}, {MAN}; set corpus.speaker"):
        FAMILY.batch(network, said(speaker="ann"))
    with pytest.raises(UserError, match="'ann' is none of the release's voices"):
        FAMILY.generate(network, TEXTS, Voice("ann", np.zeros(0, np.float32)), GREEDY, [1, 2], [5, 5])


def test_a_preset_is_found_by_its_name(whole: Path) -> None:
    assert FAMILY.preset(whole, MAN).speaker == MAN
    with pytest.raises(UserError, match=f"no voice 'Ann'; there are {WOMAN}, {MAN}"):
        FAMILY.preset(whole, "Ann")
    with pytest.raises(UserError, match="not released weights, .* set profile: full"):
        FAMILY.preset(ROOT / "models/voxtral/tiny", WOMAN)


# --- export -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def merged(whole: Path) -> VoxtralNetwork:
    state = FAMILY.adapter_state(trained_a_little(FAMILY, FAMILY.network(whole), LORA, said(), 0.05), LORA)
    network = FAMILY.merged(whole, state, LORA, 0.5)
    assert isinstance(network, VoxtralNetwork)
    return network


@pytest.fixture(scope="module")
def exported(whole: Path, merged: VoxtralNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    FAMILY.export(merged, HER, whole, folder)
    return folder


def test_an_export_is_the_release_with_its_network_rewritten(whole: Path, exported: Path, merged: VoxtralNetwork) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before, after = files(whole), files(exported)
    assert after.keys() == before.keys() | {f"voice_embedding/{name}.pt" for name in VOICES}
    assert {name for name in before if before[name] != after[name]} == {FILE}
    old, new = load_file(whole / FILE), load_file(exported / FILE)
    assert list(new) == list(old) and {tensor.dtype for tensor in new.values()} == {torch.bfloat16}
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert {"layers.0.attention.wq.weight", "layers.1.feed_forward.w2.weight", "acoustic_transformer.layers.0.attention.wq.weight"} <= changed
    assert not {name for name in changed if name.startswith(("audio_tokenizer.", "mm_audio_embeddings."))}
    with safe_open(exported / FILE, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_an_exports_voices_are_the_pickles_that_upstream_reads(whole: Path, exported: Path) -> None:
    for name, rows in VOICES.items():
        voice = torch.load(exported / f"voice_embedding/{name}.pt", weights_only=True)
        assert voice.dtype == torch.bfloat16 and voice.shape == (rows, 64)
        assert torch.equal(voice, load_file(whole / f"voice_embedding/{name}.safetensors")["tensor"])


def test_an_export_brought_in_as_a_base_speaks_the_same_codes(exported: Path, whole: Path, merged: VoxtralNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command, `make weights FROM=`; and its codes are the release's, so that the same takes train it."""
    for name in ("params.yaml", "weights.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    weights.main(["--model", "voxtral", "--from", str(exported)])
    base = FOLDER / "voxtral"
    rounded = FAMILY.network(whole)
    rounded.load_state_dict({name: tensor.bfloat16().float() for name, tensor in merged.state_dict().items()})
    wanted = FAMILY.generate(rounded, TEXTS, HER, GREEDY, [1, 1], [12, 12])
    for folder in (base, exported):
        for take, other in zip(FAMILY.generate(FAMILY.network(folder), TEXTS, HER, GREEDY, [1, 1], [12, 12]), wanted, strict=True):
            np.testing.assert_array_equal(take.codes, other.codes)
            np.testing.assert_allclose(take.logprobs, other.logprobs, atol=1e-5)
    assert FAMILY.codec(base).contract == FAMILY.codec(whole).contract


@pytest.mark.parametrize("name", FILES)
def test_a_base_without_a_file_of_the_release_is_no_export(release: Path, merged: VoxtralNetwork, tmp_path: Path, name: str) -> None:
    (release / name).unlink()
    with pytest.raises(UserError, match=f"{name}: not there"):
        write(release, merged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- planning -----------------------------------------------------------------------------------------------------


def test_the_released_size_is_planned_from_its_configuration_alone(tmp_path: Path) -> None:
    """As `make plan MODEL=voxtral GPU=24`: 3.85 billion parameters in bfloat16, the longest voice before every clip."""
    (tmp_path / "params.json").write_text(json.dumps(rehearsal.params(RELEASED, CodecConfig())))
    (tmp_path / "tekken.json").write_text(json.dumps(rehearsal.tekken()))
    block = load_params(ROOT / "params.yaml").families["voxtral"]["full"].model_copy(update={"weights": tmp_path})
    made = plan(FAMILY, block, True, lambda network: longest_clips(FAMILY, network, block.train.batch_frames, 30.0))
    assert made.parameters == pytest.approx(3850.8e6, rel=1e-3) and 0 < made.trainable < 100e6
    assert 7.6e9 < made.weights < 8.0e9 and made.total < Device("a GPU", 24 * 2**30, True).memory
