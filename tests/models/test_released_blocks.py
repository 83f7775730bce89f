"""The blocks that CosyVoice 2, CosyVoice 3 and Chatterbox share give what upstream's own code gave on weights by formula."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.parts.errors import UserError
from models.released import formula, s3
from models.released.campplus import CAMPPlus, filter_bank
from models.released.fixed_noise import flow_table, vocoder_noise
from models.released.flow import Flow
from models.released.flow2 import Estimator, Flow2
from models.released.flow3 import DiT, Flow3
from models.released.flow_loss import Draws, draw, flow_loss
from models.released.hift import HiFT, Noise, framed_sines, plain_sines
from models.released.mel import LogMel
from tests.golden_fixtures import GOLDEN, golden, outputs, wave

KEYS = GOLDEN / "cosyvoice" / "keys"
VERSIONS = {2: "CosyVoice2-0.5B", 3: "Fun-CosyVoice3-0.5B-2512"}


def by_formula(module: nn.Module, keys: dict[str, list[int]] | None = None) -> nn.Module:
    """With a fixture's weights, once its keys and shapes are known to be ours."""
    if keys is not None:
        found = {name: [] if name.endswith("tracked") else list(tensor.shape) for name, tensor in module.state_dict().items()}
        assert found == {name: [] if name.endswith("tracked") else shape for name, shape in keys.items()}
    formula.fill(module)
    return module.eval().requires_grad_(False)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.int64 if array.dtype == np.int32 else np.float32))


def released_flow(version: int) -> Flow:
    return Flow2() if version == 2 else Flow3()


def released_hift(version: int) -> HiFT:
    return HiFT(framed_sines("linear" if version == 2 else "nearest"), causal=version == 3)


# --- the released sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("part", ["flow.pt", "hift.pt", "speech_tokenizer", "campplus"])
def test_released_names_and_shapes_are_ours(version: int, part: str) -> None:
    """CAM++ is one file for both; the ONNX lists have the names of the modules that the graphs were made from."""
    if part == "campplus":
        version = 3
    file = {"speech_tokenizer": f"speech_tokenizer_v{version}.onnx", "campplus": "campplus.onnx"}.get(part, part)
    keys = json.loads((KEYS / VERSIONS[version] / f"{file}.json").read_text())["keys"]
    with torch.device("meta"):
        modules = {"flow.pt": released_flow, "hift.pt": released_hift, "speech_tokenizer": lambda v: s3.S3Tokeniser(blocks=s3.BLOCKS[v])}
        module = CAMPPlus() if part == "campplus" else modules[part](version)
        module.load_state_dict({name: torch.empty(shape) for name, (shape, _) in keys.items()}, strict=True)


# --- codes --------------------------------------------------------------------------------------------------------


def test_codes_and_mels_are_upstreams() -> None:
    what, arrays = golden("cosyvoice/s3_v2")
    network = s3.S3Tokeniser(128, 2)
    by_formula(network, what["keys"])
    modules = dict(network.named_modules())
    seen = outputs({f"block/{step}": modules[f"encoder.{step}"] for step in ("blocks.0.attn", "blocks.0")} | {"block/project_down": network.quantizer._codebook.project_down})
    np.testing.assert_allclose(s3.log_mel(tensor(arrays["wave_0"])), arrays["mel_0"], atol=1e-6)
    for clip in (2, 1, 0):
        np.testing.assert_array_equal(network.encode(tensor(arrays[f"wave_{clip}"])), arrays[f"codes_{clip}"])
    for name, step in seen.items():
        np.testing.assert_allclose(step[0], arrays[name] if name.endswith("down") else arrays[name][0], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("seconds", ["31.7", "52.4", "53.6"])
def test_long_clips_have_upstreams_codes_and_do_not_lose_their_end(seconds: str) -> None:
    """s3tokenizer 0.3.0 drops up to 2 s where its last window is short: 52.4 s gave 1260 codes, 53.6 s 1290."""
    what, arrays = golden("cosyvoice/s3_v2")
    network = by_formula(s3.S3Tokeniser(128, 2))
    assert isinstance(network, s3.S3Tokeniser)
    samples = int(16000 * float(seconds))
    codes = network.encode(torch.from_numpy(formula.tensor(f"wave{seconds}", (samples,)) * 0.1 - 0.1)).numpy()
    theirs = arrays[f"codes_of_{seconds}_s"]
    assert len(codes) == what["long"][seconds]["expected"]
    np.testing.assert_array_equal(codes[: len(theirs)], theirs)


def test_a_padded_batch_has_the_codes_of_single_clips() -> None:
    _, arrays = golden("chatterbox/s3_tokenizer")
    network = by_formula(s3.S3Tokeniser(128, 3))
    assert isinstance(network, s3.S3Tokeniser)
    mels = [s3.log_mel(tensor(wave(arrays[f"wave_{name}_int16"]))) for name in "ab"]
    lengths = torch.tensor([mel.shape[1] for mel in mels])
    batch = nn.utils.rnn.pad_sequence([mel.T for mel in mels], batch_first=True).transpose(1, 2)
    together = network(batch, lengths).numpy()
    np.testing.assert_array_equal(together[0], arrays["codes_a"])
    np.testing.assert_array_equal(together[1, : len(arrays["codes_b"])], arrays["codes_b"])
    np.testing.assert_array_equal(network.encode_mel(mels[1]), arrays["codes_b"])
    np.testing.assert_array_equal(network.encode_mel(mels[0][:, :40]), arrays["codes_a_max10"])  # the floor is the whole wave's


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9000))
def test_every_clip_has_a_code_for_every_four_frames(frames: int) -> None:
    """However its windows fall."""

    class Counting(s3.S3Tokeniser):
        def forward(self, mel: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return mel[:, 0, ::4].long()  # a code says which frame it stands for

    mel = torch.arange(frames).float().expand(128, -1)
    np.testing.assert_array_equal(Counting(64, 1).encode_mel(mel), range(0, frames, 4))


@pytest.mark.parametrize("version", [2, 3])
def test_a_graph_of_onnx_is_read_whole(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(s3.BLOCKS, version, 1)  # the stand-in's
    path, arrays = GOLDEN / f"cosyvoice/standin_speech_tokenizer_v{version}.onnx", np.load(GOLDEN / f"cosyvoice/standin_speech_tokenizer_v{version}.npz")
    network = s3.from_onnx(path, version)
    for name, value in network.state_dict().items():
        np.testing.assert_allclose(value, formula.tensor(name, tuple(value.shape)), atol=1e-7, err_msg=name)
    np.testing.assert_array_equal(network.encode_mel(tensor(arrays["mel"])), arrays["codes"])


def test_another_versions_or_another_nets_graph_is_refused(tmp_path: Path) -> None:
    """s3tokenizer reads an unrelated graph as version 3 without a word, and every weight stays random."""
    graph = GOLDEN / "cosyvoice/standin_speech_tokenizer_v2.onnx"
    with pytest.raises(UserError, match="standin_speech_tokenizer_v2.onnx: an S3 tokeniser of version 3 has 12 blocks, this has 1;"):
        s3.from_onnx(graph, 3)
    (tmp_path / "cut.onnx").write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(UserError, match="cut.onnx: not an ONNX graph"):
        s3.from_onnx(tmp_path / "cut.onnx", 2)
    with pytest.raises(UserError, match="none.onnx: No such file"):
        s3.from_onnx(tmp_path / "none.onnx", 2)


# --- who speaks ---------------------------------------------------------------------------------------------------


def test_speaker_vectors_are_upstreams() -> None:
    what, arrays = golden("cosyvoice/campplus")
    network = CAMPPlus()
    by_formula(network, what["keys"])
    steps = {name: name.removeprefix("block/") for name in arrays if name.startswith("block/")}
    modules = dict(network.named_modules())
    seen = outputs({name: modules["head" if step == "head" else f"xvector.{step}"] for name, step in steps.items()})
    for clip in (1, 2):
        bands = filter_bank(tensor(arrays[f"wave_{clip}"]))
        np.testing.assert_allclose(bands, arrays[f"fbank_{clip}"], atol=1e-4)
        np.testing.assert_allclose(network(bands[None])[0], arrays[f"embedding_{clip}"], atol=1e-6)
    for name, step in seen.items():
        np.testing.assert_allclose(step, arrays[name], atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("version", "high"), [(2, 8000), (3, 12000)])
def test_mels_are_upstreams(version: int, high: float) -> None:
    _, arrays = golden("cosyvoice/mel_24k")
    mel = LogMel(rate=24000, bands=80, window=1920, hop=480, high=high)
    np.testing.assert_allclose(mel(tensor(arrays["wave"])[None])[0].T, arrays[f"mel_v{version}"], atol=1e-5)
    if version == 3:
        np.testing.assert_allclose(mel(tensor(arrays["wave"][:12311])[None])[0].T, arrays["mel_v3_of_the_first_12311_samples"], atol=1e-5)


# --- codes to mel -------------------------------------------------------------------------------------------------


def fixture_flow(version: int) -> tuple[Flow, dict[str, np.ndarray]]:
    what, arrays = golden(f"cosyvoice/flow_v{version}")
    flow: Flow = Flow2(1, 256, Estimator(64, 2, 1, 64, 32)) if version == 2 else Flow3(96, DiT(192, 3))
    by_formula(flow, what["keys"])
    return flow, arrays


@pytest.mark.parametrize("version", [2, 3])
def test_mels_out_of_codes_are_upstreams(version: int) -> None:
    flow, arrays = fixture_flow(version)
    codes, prompt, speaker, noise = (tensor(arrays[name]) for name in ("token", "prompt_token", "embedding", "noise"))
    np.testing.assert_allclose(flow.encode(torch.cat([prompt, codes])[None])[0], arrays["mu"], atol=1e-4)
    mel = flow(codes, speaker, prompt, tensor(arrays["prompt_feat"]), noise)
    np.testing.assert_allclose(mel, arrays["mel"], atol=1e-4)
    alone = flow(codes, speaker, prompt[:0], torch.zeros(0, 80), noise[:, : 2 * len(codes)])
    np.testing.assert_allclose(alone, arrays["mel_without_prompt"], atol=1e-4)


@pytest.mark.parametrize("version", [2, 3])
def test_velocities_are_upstreams_where_a_row_is_padded(version: int) -> None:
    flow, arrays = fixture_flow(version)
    given = [tensor(arrays[f"est/{name}"]) for name in ("x", "mu", "spks", "cond", "t")]
    velocity = flow.decoder.estimator(*given, tensor(arrays["est/mask"])[:, 0] > 0)
    np.testing.assert_allclose(velocity, arrays["est/output"], atol=1e-4)


def test_the_loss_of_the_flow_is_upstreams() -> None:
    """Of a padded batch, one row of which is told nothing and the other how it begins; its gradient too."""
    flow, arrays = fixture_flow(3)
    assert isinstance(flow, Flow3)
    codes, lengths, mel, speaker = (tensor(arrays[f"loss/{name}"]) for name in ("token", "lengths", "feat", "embedding"))
    draws = Draws(tensor(arrays["loss/t"]).flatten(), tensor(arrays["loss/z"]), tensor(arrays["loss/keep"]) > 0, tensor(arrays["loss/prompt_frames"]))
    flow.requires_grad_(True)
    loss = flow_loss(flow, codes, lengths, mel.transpose(1, 2), speaker, draws)
    assert loss.item() == pytest.approx(arrays["loss/loss"].item(), rel=1e-5)
    loss.backward()
    norms = torch.stack([parameter.grad.norm() for parameter in flow.parameters() if parameter.grad is not None])
    assert norms.norm().item() == pytest.approx(arrays["loss/grad_norm"].item(), rel=1e-4)


def test_the_loss_of_a_padded_batch_is_that_of_its_rows() -> None:
    flow, _ = fixture_flow(3)
    assert isinstance(flow, Flow3)
    lengths, source = torch.tensor([9, 4, 7]), torch.Generator().manual_seed(1)
    codes, mel, speaker = torch.randint(0, 6561, (3, 9), generator=source), torch.randn(3, 80, 18, generator=source), torch.randn(3, 192, generator=source)
    draws = draw(2 * lengths, 18, source)
    alone = []
    for row, length in enumerate(lengths.tolist()):
        own = Draws(draws.times[row : row + 1], draws.noise[row : row + 1, :, : 2 * length], draws.told[row : row + 1], draws.prompts[row : row + 1])
        alone.append(flow_loss(flow, codes[row : row + 1, :length], lengths[row : row + 1], mel[row : row + 1, :, : 2 * length], speaker[row : row + 1], own))
    together = flow_loss(flow, codes, lengths, mel, speaker, draws)
    assert together.item() == pytest.approx(float((torch.stack(alone) * lengths).sum() / lengths.sum()), rel=1e-4)


def test_times_are_drawn_evenly_and_prompts_and_silence_as_often_as_upstream() -> None:
    """What was trained with warped times (before 2026-01-19) made noise."""
    frames = torch.full((4000,), 100)
    draws = draw(frames, 1, torch.Generator().manual_seed(3))
    quarters = torch.histc(draws.times, 4, 0, 1) / 4000
    assert (quarters - 0.25).abs().max() < 0.03
    assert draws.told.float().mean().item() == pytest.approx(0.8, abs=0.03)
    begun = draws.prompts[draws.prompts > 0]
    assert len(begun) / 4000 == pytest.approx(0.5 * 30 / 31, abs=0.03) and set(begun.tolist()) == set(range(1, 31))


def test_the_noise_that_upstream_draws_at_its_start_is_ours() -> None:
    """To the last bit, and a caller's own random numbers stay what they would have been."""
    _, arrays = golden("cosyvoice/released_noise_v3")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    table, noise = flow_table().numpy(), vocoder_noise(2084).samples.numpy()
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(table[:, :8], arrays["rand_noise_first_8_columns"])
    np.testing.assert_array_equal(table[:, -1], arrays["rand_noise_last_column"])
    np.testing.assert_array_equal(noise[:64], arrays["sine_waves_first_64"])
    np.testing.assert_array_equal(noise[1_000_000:1_000_016], arrays["sine_waves_from_1000000"])
    np.testing.assert_array_equal(vocoder_noise(3).samples, noise[: 3 * 480])


# --- mel to wave --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_waves_are_upstreams(version: int) -> None:
    what, arrays = golden(f"cosyvoice/hift_v{version}")
    vocoder = HiFT(framed_sines("linear" if version == 2 else "nearest"), version == 3, 64, 48)
    by_formula(vocoder, what["keys"])
    vocoder.double_pitch()
    seen = outputs({"block/conv_pre": vocoder.conv_pre, "block/ups.0": vocoder.ups[0], "block/conv_post": vocoder.conv_post})
    mel, noise = tensor(arrays["mel"]), Noise(tensor(arrays["sine_noise"]), torch.zeros(9))
    np.testing.assert_allclose(vocoder.pitch(tensor(arrays["f0_mel"])), arrays["f0"], rtol=1e-5)
    source = vocoder.m_source(tensor(arrays["f0_track"]), noise, vocoder.sines)
    np.testing.assert_allclose(source, arrays["source"], atol=1e-6)
    np.testing.assert_allclose(vocoder.spoken(mel, source), arrays["wave_before_the_limit"], atol=2e-4)
    np.testing.assert_allclose(vocoder.decode(mel, source), arrays["wave"], atol=1e-4)
    for name, step in seen.items():
        np.testing.assert_allclose(step, arrays[name], atol=1e-4, err_msg=name)
    if version == 3:
        np.testing.assert_allclose(vocoder(mel, noise), arrays["inference_wave"], atol=1e-4)


def test_chatterbox_has_another_source_and_the_same_vocoder() -> None:
    what, arrays = golden("chatterbox/hift")
    vocoder = HiFT(plain_sines, False, 64, 32)
    by_formula(vocoder, what["keys"])
    noise = Noise(tensor(arrays["noise"][0].T), tensor(arrays["phase"][0, :, 0]))
    source = vocoder.m_source(tensor(arrays["f0"][0]), noise, vocoder.sines)
    np.testing.assert_allclose(source, arrays["source"][0, 0], atol=1e-6)
    np.testing.assert_allclose(vocoder.decode(tensor(arrays["mel"][0]), source), arrays["wave"][0], atol=1e-4)
