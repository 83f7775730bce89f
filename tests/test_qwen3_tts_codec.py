"""The released 12 Hz codec and speaker encoder: the same codes, vectors and waves as upstream's own code."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.parts import formula
from models.parts.errors import UserError
from models.parts.family import Contract, Voice
from models.qwen3_tts import Qwen3TTS
from models.qwen3_tts.released import rehearsal
from models.qwen3_tts.released.codec import ReleasedCodec, SpeechTokenizer
from models.qwen3_tts.released.mel import log_mel
from models.qwen3_tts.speaker import SpeakerEncoder
from tests.golden_fixtures import golden, outputs, wave

NOBODY = Voice("nobody", np.zeros(0, np.float32))
TIE = 1e-4  # margin of two entries that are equally near but for rounding


@cache
def tokenizer(name: str) -> SpeechTokenizer:
    """With a fixture's configuration and weights."""
    what, _ = golden(f"qwen3_tts/{name}")
    made = SpeechTokenizer(what["config"], Path("config.json")).eval()
    assert {key: list(tensor.shape) for key, tensor in made.state_dict().items()} == what["keys"]
    formula.fill(made, what["after_fill"])
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    rehearsal.write(folder, "small")
    return folder


@pytest.fixture(scope="module")
def codec(weights: Path) -> ReleasedCodec:
    return ReleasedCodec(weights)


def assert_same_codes(found: np.ndarray, codes: np.ndarray, margin: np.ndarray) -> None:
    """Equal, except from a tie on: the semantic codebook and the residual ones are two chains."""
    assert found.shape == codes.shape
    for chain in (slice(0, 1), slice(1, None)):
        differs = found[:, chain] != codes[:, chain]
        first = differs & (differs.cumsum(1) == 1)
        assert (margin[:, chain][first] < TIE).all(), f"frames {np.flatnonzero(differs.any(1))}"


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def random_codes(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2048, (frames, 16)).astype(np.int32)


# --- against upstream ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", range(5))
def test_codes_are_upstreams(clip: int) -> None:
    """Clip 4 has 12 s: with Mimi's window of 10 s its last 25 frames differ. 1, 13 and 16 frames are no whole ones."""
    _, arrays = golden("qwen3_tts/codec_encode")
    codes = tokenizer("codec_encode").encoder(torch.from_numpy(wave(arrays[f"wave_{clip}"]))[None])
    assert_same_codes(codes[0].numpy(), arrays[f"codes_{clip}"], arrays[f"margin_{clip}"])


def test_every_block_of_the_encoder_is_upstreams() -> None:
    _, arrays = golden("qwen3_tts/codec_encode")
    encoder = tokenizer("codec_encode").encoder
    convolutions = [int(name[-2:]) for name in arrays if name.startswith("step_seanet_")]
    seen = outputs(
        {f"seanet_{n:02}": encoder.encoder.layers[n] for n in convolutions}
        | {f"transformer_{n + 1}": layer for n, layer in enumerate(encoder.encoder_transformer.layers)}
        | {"downsampled": encoder.downsample}
    )
    codes = encoder(torch.from_numpy(wave(arrays["steps_wave"]))[None])
    seen["transformer_0"] = seen["seanet_14"].transpose(0, 2, 1)
    steps = {name.removeprefix("step_"): arrays[name] for name in arrays if name.startswith("step_")}
    assert seen.keys() == steps.keys()
    for name, step in steps.items():
        np.testing.assert_allclose(seen[name], step, atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(codes[0], arrays["steps_codes"])


@pytest.mark.parametrize("take", range(4))
def test_waves_are_upstreams(take: int) -> None:
    what, arrays = golden("qwen3_tts/codec_decode")
    raw = tokenizer("codec_decode").decoder(torch.from_numpy(arrays[f"codes_{take}"]).long()[None])[0]
    tolerance = 2 * what["float32_against_float64"][take]  # neither is exact
    np.testing.assert_allclose(raw, arrays[f"raw_{take}"], atol=tolerance, rtol=0)


def test_every_block_of_the_decoder_is_upstreams() -> None:
    _, arrays = golden("qwen3_tts/codec_decode")
    decoder = tokenizer("codec_decode").decoder
    modules: dict[str, torch.nn.Module] = {"quantized": decoder.quantizer, "pre_conv": decoder.pre_conv, "pre_transformer": decoder.pre_transformer}
    modules |= {f"pre_transformer_layer_{n}": layer for n, layer in enumerate(decoder.pre_transformer.layers)}
    for n, stage in enumerate(decoder.upsample):
        modules |= {f"upsample_{n}_{part}": block for part, block in zip(("conv", "convnext"), stage.children(), strict=True)}
    seen = outputs(modules | {f"decoder_{n}": block for n, block in enumerate(decoder.decoder)})
    decoder(torch.from_numpy(arrays["steps_codes"]).long()[None])
    steps = {name.removeprefix("step_"): arrays[name] for name in arrays if name.startswith("step_")}
    assert seen.keys() == steps.keys()
    for name, step in steps.items():  # the last blocks are loud: up to 102
        np.testing.assert_allclose(seen[name], step, atol=5e-5 * max(1, np.abs(step).max()), rtol=0, err_msg=name)


def test_a_long_take_has_upstreams_seams() -> None:
    """330 frames: chunks of 300 with 25 of context. In one piece the wave differs by up to 0.28."""
    what, arrays = golden("qwen3_tts/codec_decode")
    codes, tolerance = torch.from_numpy(arrays["long_codes"]).long()[None], 2 * max(what["float32_against_float64"])
    raw = tokenizer("codec_decode").decoder.chunked(codes)[0].numpy()
    np.testing.assert_allclose(raw[::97], arrays["long_raw_every_97th"], atol=tolerance, rtol=0)
    np.testing.assert_allclose(raw[299 * 1920 : 302 * 1920], arrays["long_raw_around_300"], atol=tolerance, rtol=0)


def test_codes_and_waves_are_upstreams_at_the_released_size() -> None:
    _, arrays = golden("qwen3_tts/codec_released")
    released = tokenizer("codec_released")
    codes = released.encoder(torch.from_numpy(wave(arrays["wave"]))[None])[0].numpy()
    assert_same_codes(codes, arrays["codes"], arrays["margin"])
    raw = released.decoder(torch.from_numpy(arrays["decode_codes"]).long()[None])[0]
    np.testing.assert_allclose(raw, arrays["raw"], atol=3e-4, rtol=0)  # a batch of three differs by 2e-4 from single takes
    tokenizer.cache_clear()


@pytest.mark.parametrize(("name", "clip"), [("speaker", 0), ("speaker", 1), ("speaker", 2), ("speaker_released", 0), ("speaker_released", 1)])
def test_speaker_vectors_are_upstreams(name: str, clip: int) -> None:
    what, arrays = golden(f"qwen3_tts/{name}")
    encoder = SpeakerEncoder(what["config"]).eval().requires_grad_(False)
    formula.fill(encoder)
    modules = dict(encoder.named_modules())
    modules |= {"blocks.0.activation": encoder.blocks[0]}
    steps = {k.removeprefix("step_"): arrays[k] for k in arrays if k.startswith("step_")} if not clip else {}
    seen = outputs({step: modules[step] for step in steps})
    mel = log_mel(torch.from_numpy(wave(arrays[f"wave_{clip}"]))[None])
    if f"mel_{clip}" in arrays:
        np.testing.assert_allclose(mel[0], arrays[f"mel_{clip}"], atol=1e-5)
    np.testing.assert_allclose(encoder(mel)[0], arrays[f"vector_{clip}"], atol=2 * what["float32_against_float64"][clip])
    for step, array in steps.items():
        np.testing.assert_allclose(seen[step], array, atol=1e-5, err_msg=step)


# --- as a codec ---------------------------------------------------------------------------------------------------


def test_a_batch_of_clips_gives_what_single_clips_give(codec: ReleasedCodec) -> None:
    """Upstream pads a batch, which changes the last frame of most shorter clips."""
    clips = [noise(samples, seed) for seed, samples in enumerate((24000, 24000, 30011, 1, 1919, 1920, 1921, 5 * 1920))]
    together = codec.encode(clips)
    assert [len(codes) for codes in together] == [-(-len(clip) // 1920) for clip in clips]
    for clip, codes in zip(clips, together, strict=True):
        assert codes.dtype == np.int32 and codes.shape[1] == 16
        np.testing.assert_array_equal(codes, codec.encode([clip])[0])


def test_a_batch_of_takes_gives_bit_for_bit_what_single_takes_give(codec: ReleasedCodec) -> None:
    takes = [random_codes(frames, frames) for frames in (12, 12, 1, 40, 310)]
    for codes, samples in zip(takes, codec.decode(takes, NOBODY), strict=True):
        assert samples.dtype == np.float32 and samples.shape == (1920 * len(codes),)
        np.testing.assert_array_equal(samples, codec.decode([codes], NOBODY)[0])
        assert np.abs(samples).max() <= 1 and np.mean(np.abs(samples) == 1) < 0.1  # formula weights are loud, not broken


def test_the_contract_names_what_decides_codes_and_vectors(codec: ReleasedCodec, weights: Path, tmp_path: Path) -> None:
    assert codec.contract == Contract(
        "Qwen3-TTS-Tokenizer-12Hz", codec.contract.tokeniser_sha256, 24000, 12.5, 16, (2048,) * 16
    )

    def changed(file: str, tensor: str) -> str:
        for path in weights.rglob("*"):
            target = tmp_path / path.relative_to(weights)
            target.mkdir(exist_ok=True) if path.is_dir() else target.write_bytes(path.read_bytes())
        state = load_file(tmp_path / file)
        state[tensor] = state[tensor] + 1
        save_file(state, tmp_path / file)
        return ReleasedCodec(tmp_path).contract.tokeniser_sha256

    speaker = changed("model.safetensors", "speaker_encoder.fc.bias")
    codes = changed("speech_tokenizer/model.safetensors", "encoder.encoder.layers.0.conv.bias")
    assert len({codec.contract.tokeniser_sha256, speaker, codes}) == 3
    assert changed("model.safetensors", "talker.model.norm.weight") == codec.contract.tokeniser_sha256  # as in a fine-tune


def test_a_vector_comes_from_the_speaker_encoder_of_the_main_file(codec: ReleasedCodec, weights: Path) -> None:
    stored = load_file(weights / "model.safetensors")
    encoder = SpeakerEncoder(json.loads((weights / "config.json").read_text())["speaker_encoder_config"]).eval()
    names = [name for name in stored if name.startswith("speaker_encoder.")]
    encoder.load_state_dict({name.removeprefix("speaker_encoder."): stored[name].float() for name in names})
    clip = noise(30011)
    with torch.no_grad():
        expected = encoder(log_mel(torch.from_numpy(clip)[None]))[0]
    np.testing.assert_allclose(codec.speaker_embedding(clip), expected, atol=1e-5)
    assert codec.speaker_embedding(noise(1280)).dtype == np.float32


def test_clips_that_are_too_short_are_refused_in_words(codec: ReleasedCodec) -> None:
    with pytest.raises(UserError, match="a clip of 1279 samples is too short.*1280.*corpus.min_seconds"):
        codec.speaker_embedding(noise(1279))
    with pytest.raises(UserError, match="without samples"):
        codec.encode([noise(0)])


def test_a_release_without_a_speaker_encoder_still_has_a_codec(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "speech_tokenizer").symlink_to(weights / "speech_tokenizer")
    config = json.loads((weights / "config.json").read_text()) | {"tts_model_type": "custom_voice"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    codec = Qwen3TTS().codec(tmp_path)
    assert len(codec.encode([noise(1920)])[0]) == 1
    with pytest.raises(UserError, match="only a Base release"):
        codec.speaker_embedding(noise(24000))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"model_type": "qwen3_tts_tokenizer_25hz"}, "25hz, not qwen3_tts_tokenizer_12hz"), ({"decoder_config": {}}, "no 'latent_dim'")],
)
def test_another_codecs_configuration_is_refused(weights: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "speech_tokenizer").mkdir()
    config = json.loads((weights / "speech_tokenizer/config.json").read_text()) | change
    (tmp_path / "speech_tokenizer/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"speech_tokenizer/config.json.*{message}"):
        ReleasedCodec(tmp_path)
