"""Released IndexTTS2 against upstream's own code on weights by formula: every part by itself.

What would go wrong without an error ("trap") has a test by its name, and the mistake is made there to see that it is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.indextts2.conditioner import Conditioner
from models.indextts2.generation import generate
from models.indextts2.network import RELEASED, UnifiedVoice
from models.indextts2.released import files, rehearsal, s2mel
from models.indextts2.released.bigvgan import BigVGAN, lowpass
from models.indextts2.released.codec import ReleasedCodec
from models.indextts2.released.dit import DiT
from models.indextts2.released.hearing import Hearing, features
from models.indextts2.released.repcodec import RepCodec
from models.indextts2.released.s2mel import S2Mel
from models.parts.family import Generation, Sampling
from models.parts.weights import check_fit
from models.released import formula
from tests.golden_fixtures import GOLDEN, wave
from tests.released_indextts2 import CLOSE, by_formula, estimator_of, fixture, network_of, repcodec_of, tensor

KEYS = GOLDEN / "indextts2" / "keys"
GREEDY = Sampling(temperature=0)
CACHED = Sampling(temperature=0, positions="cached")
PENALISED = Sampling(temperature=0, positions="cached", repetition_penalty=10.0)


# --- names and shapes of the released files -----------------------------------------------------------------------


def of_file(name: str, prefix: str = "") -> dict[str, torch.Tensor]:
    found = json.loads((KEYS / f"{name}.json").read_text())["keys"]
    return {prefix + key: torch.empty(shape, device="meta") for key, (shape, _) in found.items()}


HELD: dict[str, Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]] = {
    "gpt.pth": lambda: (UnifiedVoice(RELEASED), files.gpt_tensors(of_file("gpt.pth"))),
    "s2mel.pth": lambda: (S2Mel(DiT(**rehearsal.BIG["dit"]), 1024, 512, (1280, 256, 128, 1024)), files.s2mel_tensors(of_file("s2mel.pth"))),
    "w2v-bert": lambda: (Hearing({"hidden_size": 1024}).model, files.hearing_tensors(of_file("hf_cache+w2v-bert-2.0+model.safetensors"))),
    "RepCodec": lambda: (RepCodec(1024, 384, 2048, 12, 8192, 8), files.repcodec_tensors(of_file("hf_cache+semantic_codec_model.safetensors"))),
    "BigVGAN": lambda: (BigVGAN(rehearsal.vocoder_config(1536)), files.vocoder_tensors(of_file("hf_cache+bigvgan+bigvgan_generator.pt", "generator."))),
}  # fmt: skip


@pytest.mark.parametrize("part", HELD)
def test_released_names_and_shapes_are_ours(part: str) -> None:
    with torch.device("meta"):
        module, state = HELD[part]()
    check_fit(module.state_dict(), state, KEYS / part)


# --- what is heard ------------------------------------------------------------------------------------------------


def test_features_of_a_training_clip_are_upstreams() -> None:
    """By its resampler; the last frame is half a one, and what fills it is never heard."""
    _, arrays = fixture("frontend")
    codec = ReleasedCodec.__new__(ReleasedCodec)
    codec.device = torch.device("cpu")
    heard, whole = features(codec._heard(wave(arrays["wave_int16"])))
    assert whole == arrays["training_attention_mask"].sum() == len(heard) - 1
    np.testing.assert_allclose(heard[:whole], arrays["training_input_features"][:whole], atol=CLOSE)


def w2vbert() -> tuple[Hearing, Any]:
    what, arrays = fixture("w2vbert")
    config = {name: value for name, value in what["config"].items() if name != "rest"}
    hearing = Hearing(config)
    formula.fill(hearing.model)
    hearing.mean, hearing.var = tensor(arrays["mean"]), tensor(arrays["var"])
    return hearing.eval().requires_grad_(False), arrays


def points(hearing: Hearing, arrays: Any, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    whole = int(arrays["attention_mask"].sum())
    monkeypatch.setattr("models.indextts2.released.hearing.features", lambda _: (tensor(arrays["input_features"]), whole))
    found: torch.Tensor = hearing(torch.zeros(0))[0]
    return found


def test_trap_the_seventeenth_layer_is_heard_by_its_mean_and_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the sixteenth, and the statistics hold a variance, not a deviation."""
    hearing, arrays = w2vbert()
    np.testing.assert_allclose(points(hearing, arrays, monkeypatch), arrays["feat"], atol=CLOSE)
    hearing.var = hearing.var.square()
    assert np.abs(points(hearing, arrays, monkeypatch) - arrays["feat"]).max() > 1e-3
    hearing, arrays = w2vbert()
    hearing.model.encoder.layers = hearing.model.encoder.layers[:16]
    assert np.abs(points(hearing, arrays, monkeypatch) - arrays["feat"]).max() > 1e-3


@pytest.fixture(scope="module")
def repcodec() -> RepCodec:
    return repcodec_of(fixture("repcodec")[0]["config"])


def test_codes_are_upstreams(repcodec: RepCodec) -> None:
    _, arrays = fixture("repcodec")
    codes = repcodec.codes(tensor(arrays["feat"]))
    np.testing.assert_array_equal(codes, arrays["codes"])
    np.testing.assert_allclose(repcodec.vectors(codes), arrays["quantized"], atol=CLOSE)


def test_trap_vectors_are_of_codebook_rows_as_they_are_stored(repcodec: RepCodec) -> None:
    _, arrays = fixture("repcodec")
    codes = tensor(arrays["some_codes"])
    np.testing.assert_allclose(repcodec.vectors(codes), arrays["vq2emb_some"], atol=CLOSE)
    quantiser = repcodec.quantiser
    normalised = quantiser.out_project(F.normalize(quantiser.codebook(codes)).T[None])[0].T
    assert np.abs(normalised.numpy() - arrays["vq2emb_some"]).max() > 1e-2


def test_trap_padding_a_clip_changes_its_last_codes(repcodec: RepCodec) -> None:
    """Why a clip is heard alone."""
    _, arrays = fixture("repcodec")
    heard = tensor(arrays["feat"])
    padded = repcodec.codes(F.pad(heard, (0, 0, 0, 40), value=3.0))
    assert len(padded) > len(heard) and not np.array_equal(padded[: len(heard)], arrays["codes"])


def test_trap_a_padded_prompt_is_heard_as_if_alone() -> None:
    """Upstream's padding leaks through the gate of its convolutions: 0.008 in this row."""
    what, arrays = fixture("gpt_conditioner")
    conditioner = Conditioner(RELEASED | what["config"]).eval().requires_grad_(False)
    formula.fill(conditioner, kept=["pos_enc.pe"])
    heard, other = tensor(arrays["feat_second"]), torch.randn(41, 1024, generator=torch.Generator().manual_seed(1))
    rows = nn.utils.rnn.pad_sequence([other, heard], batch_first=True)
    condition, emotion = conditioner.condition(rows, torch.tensor([41, len(heard)]))
    np.testing.assert_allclose(condition[1], arrays["condition_second_alone"], atol=CLOSE)
    np.testing.assert_allclose(emotion[1], arrays["emotion_second_alone"], atol=CLOSE)


# --- the language model -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> UnifiedVoice:
    return network_of(fixture("gpt_teacher")[0]["config"])


@pytest.mark.parametrize("row", [0, 1])
def test_decisions_and_hidden_states_are_upstreams(network: UnifiedVoice, row: int) -> None:
    _, arrays = fixture("gpt_teacher")
    ids = tensor(arrays["text"][row, : arrays["text_lengths"][row]])
    codes = tensor(arrays["codes"][row, : arrays["code_lengths"][row]])
    text, speech = F.pad(F.pad(ids, (1, 0)), (0, 1), value=1), torch.cat([torch.tensor([64]), codes])
    lengths = torch.tensor([[len(text), len(speech)]])
    embedded = network.embed(tensor(arrays["condition"][row])[None], tensor(arrays["emotion"][row])[None], text[None], speech[None], lengths)
    hidden = network.hidden(embedded)[0]
    first = network.prompt_length + len(text)
    # Upstream scores one position more of each, which decides nothing.
    np.testing.assert_allclose(network.text_head(hidden[network.prompt_length : first]), arrays[f"text_logits_{row}"][: len(text)], atol=1e-4)
    np.testing.assert_allclose(network.mel_head(hidden[first:]), arrays[f"speech_logits_{row}"][: len(speech)], atol=1e-4)
    np.testing.assert_allclose(hidden[first : first + len(codes)], arrays[f"latents_{row}"], atol=CLOSE)


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize(("name", "sampling"), [("contiguous_positions", GREEDY), ("plain", CACHED), ("penalty_10", PENALISED)])
def test_greedy_codes_are_upstreams(network: UnifiedVoice, row: int, name: str, sampling: Sampling) -> None:
    """With the positions of training, and with those of its cache, which leaves one out; with its penalty too."""
    _, arrays = fixture("gpt_generate")
    wanted = arrays[f"codes_{row}_{name}"]
    take = spoken(network, arrays, row, sampling)
    assert take.finish == ("stop" if wanted[-1] == 65 else "length")
    np.testing.assert_array_equal(take.codes[:, 0], wanted[wanted != 65])


def spoken(network: UnifiedVoice, arrays: Any, row: int, sampling: Sampling) -> Generation:
    ids = [0, *arrays[f"text_{row}"].tolist(), 1]
    (take,) = generate(network, [ids], tensor(arrays["condition"]), tensor(arrays["emotion"]), sampling, [1], [40])
    return take


def test_hidden_states_are_those_of_the_second_pass_wherever_codes_stood(network: UnifiedVoice) -> None:
    _, arrays = fixture("gpt_generate")
    for sampling in (GREEDY, CACHED):
        take = spoken(network, arrays, 1, sampling)
        text, speech = torch.tensor([[0, *arrays["text_1"].tolist(), 1]]), torch.cat([torch.tensor([64]), tensor(take.codes[:, 0])])[None]
        lengths = torch.tensor([[text.shape[1], speech.shape[1]]])
        hidden = network.hidden(network.embed(tensor(arrays["condition"])[None], tensor(arrays["emotion"])[None], text, speech, lengths))[0]
        first = network.prompt_length + text.shape[1]
        assert take.latents is not None
        np.testing.assert_allclose(take.latents, hidden[first : first + len(take.codes)], atol=CLOSE)


# --- the flow -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flow() -> s2mel.Flow:
    what, _ = fixture("s2mel_flow")
    made = s2mel.Flow(estimator_of(what["config"]))
    holder = nn.ModuleDict({"cfm": made})  # the names that say which weights are normed begin with it
    by_formula(holder, "models.")
    return made


def velocity(flow: s2mel.Flow, arrays: Any) -> np.ndarray:
    heard = arrays["reference_mel"].shape[1]
    noise = tensor(arrays["noise"])
    x, prompt = F.pad(noise[:, heard:], (heard, 0)), F.pad(tensor(arrays["reference_mel"]), (0, noise.shape[1] - heard))
    given = (tensor(arrays["condition"])[None], tensor(arrays["style"])[None], torch.zeros(1))
    found: np.ndarray = flow.estimator(x[None], prompt[None], *given)[0].numpy()
    return found


def test_velocity_is_upstreams(flow: s2mel.Flow) -> None:
    _, arrays = fixture("s2mel_flow")
    np.testing.assert_allclose(velocity(flow, arrays), arrays["velocity_0_conditional"], atol=CLOSE)


@pytest.mark.parametrize(("steps", "name"), [(6, "mel_guided"), (25, "mel_guided_25_steps")])
def test_a_mel_is_upstreams(flow: s2mel.Flow, steps: int, name: str) -> None:
    _, arrays = fixture("s2mel_flow")
    made = flow(*(tensor(arrays[part]) for part in ("condition", "reference_mel", "style", "noise")), steps)
    np.testing.assert_allclose(made, arrays[name][:, arrays["reference_mel"].shape[1] :], atol=5e-5)


def test_trap_skips_come_back_last_first(flow: s2mel.Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    _, arrays = fixture("s2mel_flow")

    def first_first(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        network = flow.estimator.transformer
        skips: list[torch.Tensor] = []
        for place, layer in enumerate(network.layers):
            x = layer(x, time, skips.pop(0) if place > 2 else None)
            if place < 2:
                skips.append(x)
        return network.norm(x, time)

    monkeypatch.setattr(flow.estimator.transformer, "forward", first_first)
    assert np.abs(velocity(flow, arrays) - arrays["velocity_0_conditional"]).max() > 1e-3


def test_trap_the_final_layer_hears_the_first_time_embedding(flow: s2mel.Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    _, arrays = fixture("s2mel_flow")
    final = flow.estimator.final_layer.forward
    monkeypatch.setattr(flow.estimator.final_layer, "forward", lambda x, time: final(x, flow.estimator.t_embedder2(torch.zeros(1))))
    assert np.abs(velocity(flow, arrays) - arrays["velocity_0_conditional"]).max() > 1e-3


def test_trap_the_wavenet_reflects_its_edges(flow: s2mel.Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    _, arrays = fixture("s2mel_flow")
    for module in flow.estimator.wavenet.modules():
        if isinstance(module, nn.Conv1d) and module.kernel_size[0] > 1:
            monkeypatch.setattr(module, "padding_mode", "zeros")
    found = velocity(flow, arrays)
    assert np.abs(found - arrays["velocity_0_conditional"])[:, :4].max() > 1e-3
    np.testing.assert_allclose(found[:, 20:60], arrays["velocity_0_conditional"][:, 20:60], atol=CLOSE)  # the middle does not notice


def test_trap_the_references_frames_are_zero_before_every_step(flow: s2mel.Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    _, arrays = fixture("s2mel_flow")
    seen: list[float] = []
    flow.estimator.register_forward_pre_hook(lambda _, given: seen.append(float(given[0][..., : arrays["reference_mel"].shape[1]].abs().max())))
    flow(*(tensor(arrays[part]) for part in ("condition", "reference_mel", "style", "noise")), 6)
    assert seen == [0.0] * 6
    flow.estimator._forward_pre_hooks.clear()


# --- the vocoder --------------------------------------------------------------------------------------------------


def test_a_wave_is_upstreams() -> None:
    what, arrays = fixture("bigvgan_blocks")
    vocoder = BigVGAN(what["config"])
    by_formula(vocoder)
    np.testing.assert_allclose(lowpass()[0, 0], arrays["upsample_filter"], atol=1e-7)
    np.testing.assert_allclose(vocoder(tensor(arrays["mel"])), arrays["wave"], atol=1e-4)
