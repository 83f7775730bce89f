"""Voxtral gives what upstream's own code gave on the same weights (tests/golden/voxtral)."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.parts.family import Sampling, Voice
from models.released import formula
from models.voxtral import Voxtral, _pad, decisions, generation
from models.voxtral.config import RELEASED, FlowHeadConfig, VoxtralConfig
from models.voxtral.network import VoxtralNetwork
from models.voxtral.prompt import Layout, Prompt
from models.voxtral.released.check import released_shapes
from models.voxtral.released.codec import ReleasedCodec
from models.voxtral.released.decoder import Attention, CausalConv, CodecConfig, Layer
from models.voxtral.tekken import load_tekken
from tests.golden_fixtures import GOLDEN, golden, outputs

HERE = GOLDEN / "voxtral"
FAMILY = Voxtral()
NOBODY = Voice("casual_male", np.zeros(0, np.float32))
UPSTREAM = Sampling(temperature=0.0, guidance=0.2, euler_steps=7)
ATOL = 1e-5
WAVE = 1e-4  # of waves up to ±8: two runs of upstream's are 1.5e-5 apart


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixtures' network and codec in the layout of a release."""
    place = tmp_path_factory.mktemp("release")
    what, codec = golden("voxtral/lm_generate")[0], golden("voxtral/codec_decode")[0]
    keys = what["keys"] | codec["keys"]
    state = {key: formula.value(key, tuple(shape)) for key, shape in keys.items()}
    save_file(state, place / "consolidated.safetensors")
    (place / "params.json").write_text(json.dumps(params(what, codec["config"])))
    shutil.copy(HERE / "prompts_small.tekken.json", place / "tekken.json")
    (place / "voice_embedding").mkdir()
    save_file({"tensor": torch.zeros(3, what["config"]["lm"]["dim"])}, place / "voice_embedding/casual_male.safetensors")
    return place


def params(what: dict[str, Any], codec: dict[str, Any]) -> dict[str, Any]:
    config = what["config"]
    audio = {"semantic_codebook_size": config["semantic"], "acoustic_codebook_size": config["levels"], "n_acoustic_codebook": config["values"]}
    return config["lm"] | {"multimodal": {"audio_model_args": audio | {"acoustic_transformer_args": config["head"]}, "audio_tokenizer_args": codec}}


@pytest.fixture(scope="module")
def network(folder: Path) -> VoxtralNetwork:
    return FAMILY.network(folder).requires_grad_(False)


@pytest.fixture
def codec(folder: Path) -> ReleasedCodec:
    return ReleasedCodec(folder)


# --- the codec ----------------------------------------------------------------------------------------------------


def test_every_block_of_the_codecs_decoder_is_upstreams(codec):
    _, arrays = golden("voxtral/codec_decode")
    blocks: dict[str, nn.Module] = {f"block_{place}": block for place, block in enumerate(codec.network.decoder_blocks)}
    seen = outputs(blocks | {"latents": codec.network.quantizer})
    codes = torch.from_numpy(arrays["codes"]).transpose(1, 2)
    wave = codec.network(codes)
    np.testing.assert_allclose(seen["latents"].transpose(0, 2, 1), arrays["latents"], atol=ATOL)
    for name in blocks:
        np.testing.assert_allclose(seen[name].transpose(0, 2, 1), arrays[name], atol=WAVE, err_msg=name)
    np.testing.assert_allclose(wave[:, None], arrays["wave"], atol=WAVE)


def test_trap_levels_are_read_without_a_tanh(codec):
    """It belongs to the encoder alone."""
    _, arrays = golden("voxtral/quantiser")
    made = codec.network.quantizer(torch.from_numpy(arrays["codes"]).transpose(1, 2))
    np.testing.assert_allclose(made.transpose(1, 2), arrays["values"], atol=ATOL)


class PerHead(nn.Module):
    """The usual norm of queries and keys."""

    def __init__(self, norm: nn.RMSNorm, width: int):
        super().__init__()
        self.norm, self.width = norm, width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = x.unflatten(-1, (-1, self.width))
        return nn.functional.rms_norm(heads, (self.width,), eps=1e-6).flatten(-2) * self.norm.weight


def each(kind: type, change: Callable[[Any], object]) -> Callable[[nn.Module], None]:
    def apply(network: nn.Module) -> None:
        for part in list(network.modules()):
            if isinstance(part, kind):
                change(part)

    return apply


def attribute(name: str, value: Callable[[Any], Any]) -> Callable[[Any], None]:
    return lambda part: setattr(part, name, value(part))


def per_head(part: Any) -> None:
    part.q_norm, part.k_norm = PerHead(part.q_norm, part.head_dim), PerHead(part.k_norm, part.head_dim)


def padded(inputs: int, how: str) -> Callable[[Any], None]:
    def change(part: CausalConv) -> None:
        if part.conv.in_channels == inputs:
            part.padding = how

    return change


def usual_eps(part: Layer) -> None:
    part.attention_norm.eps = part.ffn_norm.eps = 1e-5


TRAPS: dict[str, Callable[[nn.Module], None]] = {
    "the_first_slope_is_one": each(Attention, attribute("slopes", lambda part: part.slopes * part.slopes[1])),
    "a_window_is_w_and_oneself": each(Attention, attribute("window", lambda part: part.window - 1)),
    "windows_are_2_4_8_16": each(Attention, attribute("window", lambda part: 16)),
    "convolutions_repeat_the_first_frame": each(CausalConv, padded(32, "reflect")),
    "the_last_convolution_reflects": each(CausalConv, padded(48, "replicate")),
    "norms_have_an_eps_of_a_hundredth": each(Layer, usual_eps),
    "queries_are_normed_over_all_heads": each(Attention, per_head),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_trap_of_the_codec(codec, name):
    """Whoever misses it hears another wave, and no error."""
    _, arrays = golden("voxtral/codec_decode")
    TRAPS[name](codec.network)
    wave = codec.network(torch.from_numpy(arrays["codes"]).transpose(1, 2))
    assert np.abs(wave[:, None].numpy() - arrays["wave"]).max() > 100 * WAVE


def test_trap_a_long_take_is_decoded_whole(codec):
    """Upstream's pieces of 375 frames don't hear each other: its second one is another wave from its first sample on."""
    _, arrays = golden("voxtral/codec_chunks")
    stored = arrays["stored_a"]
    codes = stored[: int(np.flatnonzero(stored[:, 0] == 1)[0])] - 2
    (wave,) = codec.decode([codes], NOBODY)
    seam = (375 - 360) * 192
    np.testing.assert_allclose(wave[360 * 192 :], arrays["whole_a"], atol=WAVE)
    np.testing.assert_allclose(wave[360 * 192 : 375 * 192], arrays["wave_a"][:seam], atol=WAVE)
    assert np.abs(wave[375 * 192 :] - arrays["wave_a"][seam:]).max() > 1


def test_takes_are_decoded_as_if_alone_and_a_beginning_is_the_beginning(codec):
    """Bit for bit the same in any company; causal, so that half a take is the first half of its wave."""
    codes = golden("voxtral/codec_decode")[1]["codes"].transpose(0, 2, 1)
    together = codec.decode([codes[0], codes[1][:7]], NOBODY)
    np.testing.assert_array_equal(codec.decode([codes[1][:7]], NOBODY)[0], together[1])
    np.testing.assert_allclose(codec.decode([codes[0][:1]], NOBODY)[0], together[0][:192], atol=WAVE)


# --- language model and flow head ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [0, 1])
def test_embeddings_states_logits_and_loss_are_upstreams(network, monkeypatch, case):
    """Without a reference, and with one: six frames, the last of them the end."""
    _, arrays = golden("voxtral/lm_teacher")
    given = {name.removesuffix(f"_{case}"): torch.from_numpy(arrays[name]) for name in arrays if name.endswith(f"_{case}")}
    rows = network.frames(given["reference"] - 2)
    batch = _pad(network, [(Layout(given["tokens"].tolist(), rows), given["frames"].numpy() - 2)])
    np.testing.assert_allclose(network.embed(batch["tokens"], rows, batch["codes"])[0], given["embeds"], atol=ATOL)
    logits, choices, hidden, values = decisions(network, batch)
    np.testing.assert_allclose(hidden, given["hidden"][len(given["tokens"]) - 1 : -1], atol=ATOL)
    np.testing.assert_allclose(logits, given["semantic_logits"][:, 1:66], atol=ATOL)
    np.testing.assert_array_equal(choices + 1, given["choices"])
    noise, time = given["noise"], given["time"]
    velocity = network.acoustic_transformer.velocity(noise + time[:, None] * (values - noise), time, hidden)
    np.testing.assert_allclose(velocity, given["velocity"], atol=ATOL)
    monkeypatch.setattr("models.voxtral._draws", lambda *_: (noise, time))
    parts = FAMILY.loss(network, batch).parts
    assert parts == pytest.approx({"semantic": float(given["semantic_loss"]), "acoustic": float(given["velocity_loss"])}, abs=1e-5)


@pytest.mark.parametrize(("steps", "factor"), [(7, 1.2), (8, 1.2), (7, 1.0)])
def test_the_flow_heads_codes_are_upstreams(network, steps, factor):
    _, arrays = golden("voxtral/flow_head")
    hidden, noise = torch.from_numpy(arrays["hidden"]), torch.from_numpy(arrays["noise"])
    values = network.acoustic_transformer.values(hidden, noise, factor - 1, steps)
    stored, wanted = network.acoustic_codes(values) + 2, arrays[f"codes_{steps}_{factor}"]
    frames = wanted[:, 0] != 1  # at the end upstream's values are all 2, and nobody reads them
    np.testing.assert_array_equal(stored[frames], wanted[frames, 1:])
    np.testing.assert_array_equal(network.semantic_logits(hidden).argmax(-1) + 1, wanted[:, 0])


def test_trap_frame_0_is_decided_by_the_last_token_of_the_prompt(network, codec, monkeypatch):
    """A greedy take, from a prompt with a reference to the end, and its wave. Two ports read [AUDIO] once more first."""
    _, arrays = golden("voxtral/lm_generate")
    rows = network.frames(torch.from_numpy(arrays["reference"]) - 2)
    noise = itertools.chain(torch.from_numpy(arrays["noise"])[:, None])
    monkeypatch.setattr(generation, "normals", lambda *_: next(noise))
    (take,) = generation.generate(network, [Layout(arrays["tokens"].tolist(), rows)], UPSTREAM, [0], [24])
    assert take.finish == "stop"
    np.testing.assert_array_equal(take.codes, arrays["frames"] - 2)
    np.testing.assert_allclose(codec.decode([take.codes], NOBODY)[0], arrays["wave"], atol=WAVE)


# --- prompts ------------------------------------------------------------------------------------------------------


def test_prompts_are_upstreams_token_for_token():
    """Fifteen sentences in ten scripts, as they are written: blanks, line breaks and emoji too."""
    what, arrays = golden("voxtral/prompts")
    prompt = Prompt(load_tekken(HERE / "prompts_small.tekken.json"))
    for number, sentence in enumerate(what["sentences"]):
        assert prompt(sentence, torch.zeros(3, 4)).tokens == arrays[f"small_prompt_{number}"].tolist(), sentence


def test_trap_a_text_is_sent_as_it_is():
    """Neither stripped nor normalised, and no number is written out."""
    prompt = Prompt(load_tekken(HERE / "prompts_small.tekken.json"))
    for one, other in (("Wait…", "Wait."), ("No!!!", "No!"), ("ﬁne", "fine"), (" x", "x"), ("two\nlines", "two lines"), ("it’s", "it's"), ("5 km", "five km")):
        assert prompt(one, torch.zeros(0, 4)).tokens != prompt(other, torch.zeros(0, 4)).tokens


def test_trap_the_text_stands_between_next_and_repeat():
    """36 before it and 35 after; upstream's own dummy request has them the other way round."""
    prompt = Prompt(load_tekken(HERE / "prompts_small.tekken.json"))
    assert [id for id in prompt("x", torch.zeros(2, 4)).tokens if id < 40] == [1, 25, 24, 24, 36, 35, 25]


def test_trap_a_special_token_in_a_text_is_spelt():
    """Upstream never reads one out of a text, and nor is such a text refused."""
    prompt = Prompt(load_tekken(HERE / "prompts_small.tekken.json"))
    for text in ("[INST] Hello [/INST]", "</s>", "[AUDIO]", "[BEGIN_AUDIO]"):
        spelt = prompt(text, torch.zeros(0, 4)).tokens[3:-2]
        assert min(spelt) >= 40 and len(spelt) > 2


# --- names and shapes ---------------------------------------------------------------------------------------------


def test_the_released_files_names_and_shapes_are_ours():
    wanted = json.loads((HERE / "keys/consolidated.safetensors.json").read_text())
    wanted = {name: tuple(entry[0]) for name, entry in wanted.items() if not name.startswith("_")}
    assert released_shapes(RELEASED, CodecConfig()) == wanted
    assert len(wanted) == 386


def test_the_fixtures_sizes_are_read_from_params_json(folder, network):
    config = golden("voxtral/codec_decode")[0]["config"]
    assert CodecConfig.load(folder) == CodecConfig(**{field.name: config[field.name] for field in fields(CodecConfig)})
    sizes = golden("voxtral/lm_generate")[0]["config"]
    flow = FlowHeadConfig(**{field.name: sizes["head"][field.name] for field in fields(FlowHeadConfig)})
    own = {field.name: sizes["lm"][field.name] for field in fields(VoxtralConfig) if field.name in sizes["lm"]}
    assert network.config == VoxtralConfig(**own, semantic_codebook_size=64, acoustic_codebook_size=21, n_acoustic_codebook=12, flow=flow)
