"""Released Chatterbox against upstream's own code on weights by formula: T3, the voice encoder, the codec as a whole, the text."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.chatterbox.config import RELEASED, T3Config
from models.chatterbox.generation import generate
from models.chatterbox.network import T3
from models.chatterbox.released.codec import COMPUTED, ReleasedCodec, S3Gen
from models.chatterbox.released.voice_encoder import VoiceEncoder, cut, powers
from models.chatterbox.script import normalise
from models.parts.family import Sampling, Voice
from models.released import formula
from models.released.hift import Noise
from models.released.s3_codec import S3Codec
from tests.golden_fixtures import GOLDEN, golden, wave

KEYS = GOLDEN / "chatterbox" / "keys"
NOBODY = Voice("nobody", np.zeros(0, np.float32))


def keys(file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((KEYS / f"{file}.safetensors.json").read_text())
    return {name: shape for name, (shape, _) in found.items()}


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.int64 if array.dtype == np.int32 else np.float32))


@pytest.mark.parametrize("file", ["t3_cfg", "s3gen", "ve"])
def test_released_names_and_shapes_are_ours(file: str) -> None:
    wanted = {name: shape for name, shape in keys(file).items() if name not in COMPUTED}
    with torch.device("meta"):
        module = {"t3_cfg": lambda: T3(RELEASED), "s3gen": lambda: S3Gen(wanted, KEYS), "ve": VoiceEncoder}[file]()
        module.load_state_dict({name: torch.empty(shape) for name, shape in wanted.items()}, strict=True)


# --- T3 -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def t3() -> T3:
    what, _ = golden("chatterbox/t3_small")
    llama = {name: value for name, value in what["llama"].items() if name != "rest"}
    sizes = {name: value for name, value in what["hp"].items() if name in T3Config.__dataclass_fields__}
    network = T3(T3Config(llama=RELEASED.llama | llama, perceiver_queries=what["perceiver"]["queries"], **sizes))
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == what["keys"]
    formula.fill(network)
    return network.eval().requires_grad_(False)


def batch(network: T3, arrays: Any, codes: np.ndarray) -> dict[str, torch.Tensor]:
    """One row; `text` of the fixture has its start and stop."""
    start, stop = network.config.start_speech_token, network.config.stop_speech_token
    text, prompt = tensor(arrays["text"])[None], tensor(arrays["prompt"])[None]
    speech = torch.cat([torch.tensor([start, start]), tensor(codes)])[None]
    made = {"speaker": tensor(arrays["speaker"])[None], "prompt": prompt, "text": text, "speech": speech}
    made |= {f"{name}_length": torch.tensor([made[name].shape[1]]) for name in ("prompt", "text", "speech")}
    made["text_labels"] = nn.functional.pad(text[:, 1:], (0, 1), value=-100)
    return made | {"speech_labels": torch.cat([torch.tensor([[-100]]), speech[:, 2:], torch.tensor([[stop]])], 1)}


def test_embeddings_and_decisions_are_upstreams(t3: T3) -> None:
    _, arrays = golden("chatterbox/t3_small")
    rows = batch(t3, arrays, arrays["codes"])
    for without_text in (False, True):
        embeds, _ = t3.embed(rows, torch.tensor([without_text]))
        np.testing.assert_allclose(embeds[0], arrays["embeds"][int(without_text)], atol=1e-5)
    text_logits, _, logits, chosen = t3.logits(rows, torch.tensor([False]))
    np.testing.assert_allclose(text_logits, arrays["text_logits"][: len(text_logits)], atol=1e-4)
    np.testing.assert_allclose(logits, arrays["speech_logits_told"], atol=1e-4)
    np.testing.assert_allclose(t3.logits(rows, torch.tensor([True]))[2], arrays["speech_logits_untold"], atol=1e-4)
    np.testing.assert_allclose(logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0], arrays["speech_logprobs"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "sampling"),
    [
        ("plain", Sampling(temperature=0)), ("guided", Sampling(temperature=0, guidance=0.5)),
        ("default", Sampling(temperature=0, guidance=0.5, repetition_penalty=1.2, min_p=0.05)),
    ],
)  # fmt: skip
def test_greedy_codes_are_upstreams(t3: T3, name: str, sampling: Sampling) -> None:
    """With its guidance and its penalty; without the penalty the tenth code is another."""
    _, arrays = golden("chatterbox/t3_small")
    (take,) = generate(t3, batch(t3, arrays, arrays["codes"][:0]), sampling, [1], [24])
    np.testing.assert_array_equal(take.codes[:, 0], arrays[f"greedy_{name}"][: len(take.codes)])
    assert len(take.codes) >= 23


def test_text_reaches_t3_as_upstream_writes_it() -> None:
    what = json.loads((GOLDEN / "chatterbox/text.json").read_text())
    for text, wanted in zip(what["texts"], what["normalised"], strict=True):
        if text:  # upstream has a sentence of its own for no text, here it is refused
            assert normalise(text) == wanted


# --- who speaks ---------------------------------------------------------------------------------------------------


def test_speaker_vectors_are_upstreams() -> None:
    what, arrays = golden("chatterbox/voice_encoder")
    encoder = VoiceEncoder().eval().requires_grad_(False)
    assert {name: list(value.shape) for name, value in encoder.state_dict().items()} == what["keys"]
    formula.fill(encoder)
    np.testing.assert_allclose(powers(torch.from_numpy(wave(arrays["wave_y_int16"]))), arrays["mel_y"], atol=1e-5)
    for clip in "xy":
        np.testing.assert_allclose(encoder.embed(wave(arrays[f"wave_{clip}_int16"])), arrays[f"embed_{clip}"], atol=1e-6)
    for frames, (count, needed) in zip(arrays["frames"], arrays["windows"], strict=True):
        windows = cut(torch.arange(int(frames)).float()[:, None].expand(-1, 40) + 1)
        assert len(windows) == count and windows[-1, :, 0].max() <= needed


# --- the codec ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec() -> ReleasedCodec:
    """Of the released size: a quarter of a billion weights."""
    wanted = {name: shape for name, shape in keys("s3gen").items() if name not in COMPUTED}
    parts, encoder = S3Gen(wanted, KEYS).eval().requires_grad_(False), VoiceEncoder().eval().requires_grad_(False)
    formula.fill(parts)
    formula.fill(encoder)
    made = ReleasedCodec.__new__(ReleasedCodec)  # of a folder it would read 1 GB
    S3Codec.__init__(made, 2, parts.tokenizer, parts.flow, parts.mel2wav)
    made.speaker_encoder, made.voice_encoder = parts.speaker_encoder, encoder
    return made


def test_codes_become_upstreams_wave(codec: ReleasedCodec) -> None:
    """The reference has half a code too many: its mel has 61 frames, its codes are 30."""
    _, arrays = golden("chatterbox/s3gen_full")
    told = codec.of_reference(torch.from_numpy(wave(arrays["wave_int16"])))
    np.testing.assert_array_equal(told.codes, arrays["prompt_token"])
    np.testing.assert_allclose(told.mel, arrays["prompt_feat"], atol=1e-5)
    np.testing.assert_allclose(told.vector, arrays["embedding"], atol=1e-6)
    mel = codec.flow(tensor(arrays["codes"]), told.vector, told.codes, told.mel, tensor(arrays["flow_noise"][0]))
    np.testing.assert_allclose(mel.T, arrays["mel"], atol=1e-4)
    noise = Noise(tensor(arrays["source_noise"][0].T), tensor(arrays["source_phase"][0, :, 0]))
    np.testing.assert_allclose(codec.begun(codec.vocoder(mel, noise)), arrays["wave"], atol=2e-4)


def test_a_reference_becomes_what_upstream_keeps_of_it(codec: ReleasedCodec) -> None:
    """Two resamplers and two crops: 6 s for T3, 10 s for the decoder, all of it for the vector."""
    _, arrays = golden("chatterbox/prepare_conditionals")
    reference = wave(arrays["wave_int16"])
    np.testing.assert_allclose(codec.speaker_embedding(reference), arrays["speaker_emb"], atol=1e-6)
    np.testing.assert_array_equal(codec.prompt(reference)[:, 0], arrays["cond_prompt_speech_tokens"])
    told = codec.conditions(reference, NOBODY)
    np.testing.assert_array_equal(told.codes, arrays["prompt_token"])
    np.testing.assert_allclose(told.mel[::8], arrays["prompt_feat_every_8th"], atol=1e-5)
    np.testing.assert_allclose(told.vector, arrays["embedding"], atol=1e-6)


def test_t3_hears_what_librosa_resamples(codec: ReleasedCodec) -> None:
    _, arrays = golden("chatterbox/resample")
    np.testing.assert_allclose(codec.heard(wave(arrays["wave_int16"])), arrays["prepare_16k"], atol=1e-7)
