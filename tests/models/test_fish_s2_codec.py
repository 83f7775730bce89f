"""S2's released codec: the same codes and waves as upstream's own code on the same weights (tests/golden/fish_s2)."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from models.fish_s2.released import dac
from models.fish_s2.released.codec import BUFFERS, ReleasedCodec
from models.fish_s2.released.dac import DAC, Sizes
from models.parts.errors import UserError
from models.parts.family import Contract, Voice
from models.parts.weights import load_network
from models.released import formula
from models.released.fold import fold
from stages.weights.convert import convert
from tests.golden_fixtures import GOLDEN, golden, outputs

NOBODY = Voice("nobody", np.zeros(0, np.float32))
KEYS = GOLDEN / "fish_s2/keys"
FRAME = 192  # samples, of the fixtures' codec


def shapes_of(keys: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, (shape, _) in keys.items()}


def unfolded() -> Any:
    """The fixtures' codec as its weights are stored."""
    what, _ = golden("fish_s2/codec_encode")
    made = DAC(replace(Sizes.of(what["keys"]), window=what["config"]["window"])).eval()
    assert {key: list(tensor.shape) for key, tensor in made.state_dict().items()} == what["keys"]
    formula.fill(made)
    return made


@cache
def network() -> Any:
    made = unfolded()
    fold(made)
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That codec as `make weights` leaves it, tables and masks among its weights."""
    folder = tmp_path_factory.mktemp("release")
    state: dict[str, torch.Tensor] = OrderedDict(unfolded().state_dict())
    for place in ("encoder.block.4.block.5", "quantizer.pre_module", "quantizer.post_module"):
        state |= {f"{place}.freqs_cis": torch.ones(8, 32, 2).bfloat16(), f"{place}.causal_mask": torch.ones(8, 8).bool()}
    torch.save(state, folder / "codec.pth")
    convert(folder / "codec.pth", "codec.pth", folder / "codec.safetensors")
    return folder


@pytest.fixture(scope="module")
def codec(weights: Path) -> ReleasedCodec:
    return ReleasedCodec(weights)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def batched(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64) if array.dtype == np.int32 else array)[None]


def before_tanh(module: Any, codes: np.ndarray) -> np.ndarray:
    """With weights by formula the wave itself is near ±1 nearly everywhere."""
    return module.decoder.model[:-1](module.quantizer.decode(batched(codes)))[0, 0].numpy()


def assert_near(found: np.ndarray, wanted: np.ndarray, share: float, name: str = "") -> None:
    """Within `share` of the largest value."""
    np.testing.assert_allclose(found, wanted, atol=share * np.abs(wanted).max(), rtol=0, err_msg=name)


def assert_blocks(module: Any, seen: dict[str, np.ndarray], arrays: Mapping[str, np.ndarray], way: str, share: float) -> None:
    """Every module's output that a fixture has, of which it keeps the first and last columns."""
    checked = 0
    for name, wanted in arrays.items():
        match = re.fullmatch(rf"{way}/([\w.]+)\[:, (:n|-n:)\]", name)
        if match and match[1] in seen:
            columns = slice(None, wanted.shape[1]) if match[2] == ":n" else slice(-wanted.shape[1], None)
            assert_near(seen[match[1]][0][:, columns], wanted, share, name)
            checked += 1
    assert checked == 2 * len(seen)


def watched(module: Any, arrays: Mapping[str, np.ndarray], way: str) -> dict[str, np.ndarray]:
    modules = dict(module.named_modules())
    names = {name.removeprefix(f"{way}/").partition("[")[0] for name in arrays if name.startswith(f"{way}/")}
    return outputs({name: modules[name] for name in names if name in modules})


# --- against upstream ---------------------------------------------------------------------------------------------


def test_codes_and_every_block_of_the_encoder_are_upstreams() -> None:
    module, (_, arrays) = network(), golden("fish_s2/codec_encode")
    seen = watched(module, arrays, "encode")
    looked_up = outputs({str(n): book.in_proj for n, book in enumerate(module.quantizer.codebooks)})
    audio = batched(arrays["audio"])
    codes = module.quantizer.encode(module.encoder.block(nn.functional.pad(audio, (0, -audio.shape[-1] % FRAME))[:, None]))
    np.testing.assert_array_equal(codes[0], arrays["codes"])
    assert_blocks(module, seen, arrays, "encode", 3e-5)
    assert_near(np.concatenate([looked_up[str(n)][0] for n in range(4)]), arrays["encode/latents_before_vq"], 3e-5)
    z = module.quantizer.decode(codes)[0].numpy()
    assert_near(z[:, : arrays["encode/quantizer_forward_z[:, :n]"].shape[1]], arrays["encode/quantizer_forward_z[:, :n]"], 3e-5)


def test_waves_and_every_block_of_the_decoder_are_upstreams() -> None:
    module, (_, arrays) = network(), golden("fish_s2/codec_decode")
    seen = watched(module, arrays, "decode")
    wave = module.decoder.model(module.quantizer.decode(batched(arrays["codes"])))[0, 0].numpy()
    assert_blocks(module, seen, arrays, "decode", 2e-4)
    assert_near(before_tanh(module, arrays["codes"]), arrays["before_tanh"], 2e-4)
    np.testing.assert_allclose(wave, arrays["audio"], atol=1e-2)
    np.testing.assert_allclose(module.decoder(batched(arrays["z_soft"]))[0, 0], arrays["audio_of_z_soft"], atol=1e-4)


@pytest.mark.parametrize("samples", [1, 191, 192, 193, 1933])
def test_a_clip_of_any_length_has_as_many_frames_as_upstreams(samples: int) -> None:
    frames, _, decoded = golden("fish_s2/codec_encode")[0]["samples_in -> [frames, lengths entry, samples decoded]"][str(samples)]
    codes = network().encode(batched(noise(samples)))
    assert codes.shape == (1, 4, frames) and network().decode(codes).shape == (1, decoded)


def test_codes_and_waves_are_upstreams_at_the_released_size() -> None:
    """1.6 GB of weights; codes are exact where two entries are not equally near but for rounding."""
    _, arrays = golden("fish_s2/codec_real")
    shapes = {name: shape for name, shape in shapes_of(json.loads((KEYS / "codec.pth.json").read_text())).items() if not name.endswith(BUFFERS)}
    released = load_network(lambda: DAC(Sizes.of(shapes)), KEYS, read=lambda _: {n: formula.value(n, s) for n, s in shapes.items()})
    fold(released)
    released.requires_grad_(False)
    codes = released.encode(batched(arrays["audio"]))[0].numpy()
    differs = codes != arrays["codes"]
    first = differs & (differs.cumsum(0) == 1)  # what follows from another entry is another rest
    assert (arrays["code_margins"][first] < 1e-3).all() and differs.mean() < 0.05
    assert_near(released.quantizer.decode(batched(arrays["decode/codes"]))[0, :, :8].numpy(), arrays["decode/z[:, :8]"], 1e-4)
    assert_near(before_tanh(released, arrays["decode/codes"]), arrays["decode/before_tanh"], 1e-4)


def test_released_names_and_shapes_are_ours() -> None:
    """All 541 of codec.pth: 535 are the network's, and six tables and masks are not."""
    keys = shapes_of(json.loads((KEYS / "codec.pth.json").read_text()))
    with torch.device("meta"):
        network = DAC(Sizes.of(keys))
        state = {name: torch.empty(shape) for name, shape in keys.items() if not name.endswith(BUFFERS)}
        network.load_state_dict(state, strict=True)
    assert (len(keys), len(state)) == (541, 535)
    assert sum(tensor.numel() for tensor in network.parameters()) == 391_430_530
    assert (network.sizes.frame, network.sizes.entries) == (2048, (4096, *[1024] * 9))


def test_long_clips_and_takes_pass_in_pieces_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece hears as much before it as the layers look back; with a little less it would be another wave."""
    module, (_, clip), (_, take) = network(), golden("fish_s2/codec_encode"), golden("fish_s2/codec_decode")
    wave, codes = batched(clip["audio"]), batched(take["codes"])
    latents = module.quantizer.decode(codes)
    monkeypatch.setattr(dac, "PIECE", 10)
    np.testing.assert_array_equal(module.encode(wave)[0], clip["codes"])
    inner = module.decoder.model[:-1]
    pieces = dac.in_pieces(inner, latents, 10, module.decoder.context)
    assert_near(pieces[0, 0].numpy(), take["before_tanh"], 2e-4)
    torch.testing.assert_close(module.decode(codes), module.decoder.model(latents)[:, 0], atol=1e-2, rtol=0)
    short = dac.in_pieces(inner, latents, 10, module.decoder.context - 2)
    assert (short - inner(latents)).abs().max() > 10 * (pieces - inner(latents)).abs().max()


# --- what would go wrong in silence -------------------------------------------------------------------------------


def test_trap_rotary_tables_are_rounded_to_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    _, arrays = golden("fish_s2/codec_decode")
    honest = torch.Tensor.bfloat16
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor)
    exact = before_tanh(network(), arrays["codes"])
    monkeypatch.setattr(torch.Tensor, "bfloat16", honest)
    away = np.abs(exact - arrays["before_tanh"]).max() / np.abs(arrays["before_tanh"]).max()
    assert away > 1e-2  # so the fixtures would show it


def test_trap_the_encoders_window_is_512_frames_whatever_the_configuration() -> None:
    assert network().encoder.block[4].block[5].window == 512 and network().quantizer.pre_module.window == 16
    _, arrays = golden("fish_s2/codec_encode")
    wave = batched(arrays["audio"])
    transformer = network().encoder.block[4].block[5]
    try:
        transformer.window = 16
        assert (network().encode(wave)[0].numpy() != arrays["codes"]).mean() > 0.01
    finally:
        transformer.window = dac.ENCODER_WINDOW


def test_trap_entries_go_to_out_proj_as_they_are_stored() -> None:
    """Their directions decide which one is taken, and nothing else."""
    book = network().quantizer.codebooks[0]
    table = book.codebook.weight.clone()
    rest = torch.randn(1, 128, 5, generator=torch.Generator().manual_seed(0))
    codes, said = book.nearest(rest), book(torch.arange(4)[None])
    try:
        book.codebook.weight.mul_(3.0)
        torch.testing.assert_close(book.nearest(rest), codes)
        torch.testing.assert_close(book(torch.arange(4)[None]) - book.out_proj.bias[:, None], 3 * (said - book.out_proj.bias[:, None]))
    finally:
        book.codebook.weight.copy_(table)


def test_trap_both_spellings_of_weight_norm_are_magnitude_times_direction() -> None:
    """Of a transposed convolution, the magnitudes are of the input channels: 64 here, of 32 outputs."""
    stored, folded = unfolded().state_dict(), network().state_dict()
    for name, axes in (("encoder.block.0.conv", (1, 2)), ("decoder.model.1.block.1.conv", (1, 2))):
        size, direction = (stored[f"{name}.parametrizations.weight.original{n}"] for n in (0, 1))
        torch.testing.assert_close(folded[f"{name}.weight"], size * direction / direction.norm(dim=axes, keepdim=True))
    assert stored["decoder.model.1.block.1.conv.parametrizations.weight.original0"].shape == (64, 1, 1)
    projection = network().quantizer.codebooks[1].out_proj
    x = torch.randn(1, 8, 3, generator=torch.Generator().manual_seed(1))
    direction = projection.weight_v / projection.weight_v.norm(dim=(1, 2), keepdim=True)
    expected = (projection.weight_g * direction)[..., 0] @ x[0] + projection.bias[:, None]
    torch.testing.assert_close(projection(x)[0], expected)
    assert not any("parametrizations" in name for name in folded)


def test_trap_codes_beyond_a_residual_codebook_mean_its_last_entry(codec: ReleasedCodec) -> None:
    """Upstream's language model may write 1024 to 4095 there."""
    _, arrays = golden("fish_s2/codec_decode")
    too_large = arrays["codes_too_large"]
    assert (too_large >= np.array([[64], [32], [32], [32]])).any()
    np.testing.assert_allclose(network().decode(batched(too_large))[0], arrays["audio_of_codes_too_large"], atol=1e-2)
    kept = too_large.T.copy()
    (wave,) = codec.decode([kept], NOBODY)
    np.testing.assert_array_equal(kept, too_large.T)  # upstream clamps its caller's own array
    np.testing.assert_array_equal(wave, codec.decode([np.minimum(kept, np.array([64, 32, 32, 32]) - 1)], NOBODY)[0])


def test_trap_no_mask_or_table_stays_in_memory(codec: ReleasedCodec) -> None:
    """Upstream builds four masks of a gigabyte."""
    assert not [name for name, _ in codec.network.named_buffers()]


def test_trap_the_codec_is_float32_whatever_the_network_runs_in(codec: ReleasedCodec, weights: Path) -> None:
    """In bfloat16, as upstream's command line encodes, some codes of every book are others."""
    clip = noise(100 * FRAME)
    assert {parameter.dtype for parameter in codec.network.parameters()} == {torch.float32}
    half = ReleasedCodec(weights).network.bfloat16().encode(batched(clip).bfloat16())[0].numpy()
    assert (half != codec.encode([clip])[0].T).any(1).all()


# --- as a codec ---------------------------------------------------------------------------------------------------


def test_a_batch_of_clips_gives_bit_for_bit_what_single_clips_give(codec: ReleasedCodec) -> None:
    clips = [noise(samples, seed) for seed, samples in enumerate((4800, 4800, 6011, 1, 191, 192, 193))]
    together = codec.encode(clips)
    assert [codes.shape for codes in together] == [(-(-len(clip) // FRAME), 4) for clip in clips]
    for clip, codes in zip(clips, together, strict=True):
        assert codes.dtype == np.int32
        np.testing.assert_array_equal(codes, codec.encode([clip])[0])
    for codes, wave in zip(together, codec.decode(together, NOBODY), strict=True):
        assert wave.dtype == np.float32 and wave.shape == (FRAME * len(codes),) and np.abs(wave).max() <= 1
        np.testing.assert_array_equal(wave, codec.decode([codes], NOBODY)[0])


def test_nothing_looks_ahead() -> None:
    """So what stands behind a clip changes none of its codes, and half a take's codes are half of its wave."""
    long, short = noise(50 * FRAME), noise(50 * FRAME)
    short[30 * FRAME :] = 0
    np.testing.assert_array_equal(network().encode(batched(long))[..., :30], network().encode(batched(short))[..., :30])
    codes = network().encode(batched(long))
    whole, half = network().decode(codes), network().decode(codes[..., :20])
    torch.testing.assert_close(whole[:, : 20 * FRAME], half, atol=1e-2, rtol=0)


def test_the_contract_names_the_file_that_decides_the_codes(codec: ReleasedCodec, weights: Path, tmp_path: Path) -> None:
    sha = codec.contract.tokeniser_sha256
    assert codec.contract == Contract("Fish-S2-Pro-codec", sha, 44100, 44100 / FRAME, 4, (64, 32, 32, 32))
    assert codec.output_sample_rate == 44100 and codec.speaker_embedding(noise(500)).shape == (0,)
    state = load_file(weights / "codec.safetensors")
    state["encoder.block.0.conv.bias"] += 1
    save_file(state, tmp_path / "codec.safetensors")
    assert ReleasedCodec(tmp_path).contract.tokeniser_sha256 != sha


def test_a_clip_without_samples_is_refused_in_words(codec: ReleasedCodec) -> None:
    with pytest.raises(UserError, match="without samples"):
        codec.encode([noise(0)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("decoder.model.0.conv.bias"), "not S2's codec .*decoder.model.0.conv.bias"),
        (lambda state: state.pop("quantizer.post_module.norm.weight"), "missing .*quantizer.post_module.norm.weight"),
        (lambda state: state.update(more=torch.ones(1)), "unexpected .*more"),
        (lambda state: state.update({"encoder.block.5.alpha": torch.ones(1, 3, 1)}), r"encoder.block.5.alpha is \(1, 3, 1\)"),
    ],
)  # fmt: skip
def test_a_file_that_is_another_codecs_is_refused(weights: Path, tmp_path: Path, change: Any, message: str) -> None:
    state = load_file(weights / "codec.safetensors")
    change(state)
    save_file(state, tmp_path / "codec.safetensors")
    with pytest.raises(UserError, match=f"codec.safetensors: {message}|codec.safetensors: .*{message}"):
        ReleasedCodec(tmp_path)


def test_a_used_codec_can_be_copied() -> None:
    """Which torch's older weight norm does not allow."""
    used = network()
    network().encode(batched(noise(FRAME)))
    assert deepcopy(used).state_dict().keys() == used.state_dict().keys()
