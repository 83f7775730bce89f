"""Resampling: the exact length, the same sound, and no clip that is wrong leaves the stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.parts.errors import UserError
from stages import resample
from stages.common import audio, licences
from stages.common.shards import Clip, Shards, write_shards
from stages.corpus import __main__ as corpus
from tests.small_corpus import RATE, ROOT, corpus_params, rows_of, write_folder

RATES = st.sampled_from([8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/corpus of 12 clips at 24 kHz."""
    root = tmp_path_factory.mktemp("corpus")
    params = corpus_params(write_folder(root / "recordings", 12), validation=0.0, test=0.0)
    corpus.build(params, root / "corpus", root / "report")
    return root / "corpus"


def tone(frequency: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(RATES, RATES, st.integers(1, 3000))
def test_length_is_the_exact_ratio(rate: int, target: int, samples: int) -> None:
    made = audio.resample(np.zeros(samples, np.float32) + 0.1, rate, target)
    assert abs(len(made) - samples * target / rate) <= 1 and made.dtype == np.float32 and np.isfinite(made).all()


@pytest.mark.parametrize(("rate", "target"), [(16000, 24000), (16000, 44100), (44100, 24000), (24000, 16000)])
def test_a_tone_stays_the_same_tone(rate: int, target: int) -> None:
    middle = slice(target // 10, -target // 10)
    np.testing.assert_allclose(
        audio.resample(tone(440, rate), rate, target)[middle], tone(440, target)[middle], atol=1e-6
    )


def test_nothing_is_mirrored_at_the_band_edge() -> None:
    """What a codec hears above the old Nyquist rate, or folded down from above the new one, was never recorded."""
    up = audio.resample(tone(7000, 16000), 16000, 24000)
    spectrum = 20 * np.log10(np.abs(np.fft.rfft(up * np.blackman(len(up)))) + 1e-12)
    assert spectrum[8500:].max() < spectrum.max() - 110
    down = audio.resample(tone(9500, 24000), 24000, 16000)
    assert np.abs(down[800:-800]).max() < 0.5 * 10 ** (-100 / 20)


def test_the_same_rate_is_a_copy_bit_for_bit(data: Path, tmp_path: Path) -> None:
    resample.build(data, tmp_path / "same", RATE)
    for before, after in zip(Shards(data), Shards(tmp_path / "same"), strict=True):
        assert (before.id, before.sample_rate) == (after.id, after.sample_rate)
        np.testing.assert_array_equal(before.audio, after.audio)


def test_the_stage_writes_every_clip_and_an_index(data: Path, tmp_path: Path) -> None:
    made = [tmp_path / name for name in ("one", "two")]
    for target in made:
        metrics = resample.build(data, target, 16000)
    rows = rows_of(data / "manifest.jsonl")
    shards = Shards(made[0])
    assert shards.ids() == [row["id"] for row in rows]
    for row in rows:
        clip = shards[row["id"]]
        assert clip.sample_rate == 16000 and abs(len(clip.audio) - row["samples"] * 16000 / RATE) <= 1
    index = json.loads((made[0] / "index.json").read_text())
    assert (index["sample_rate"], index["clips"]) == (16000, 12)
    assert metrics["upsampled_clips"] == 0 and metrics["source_sample_rates"] == [RATE]
    for path in made[0].iterdir():
        assert path.read_bytes() == (made[1] / path.name).read_bytes()


BREAKAGES: dict[str, tuple[Callable[[Clip], Clip], str]] = {
    "rate": (lambda clip: Clip(clip.id, 22050, clip.audio), "is at 22050 Hz, not at 24000 Hz"),
    "length": (lambda clip: Clip(clip.id, clip.sample_rate, clip.audio[:-2]), "samples, not"),
    "content": (lambda clip: Clip(clip.id, clip.sample_rate, clip.audio * 0.5), "differs from the corpus"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_wrong_clip_is_named(data: Path, tmp_path: Path, name: str) -> None:
    damage, said = BREAKAGES[name]
    write_shards(tmp_path, (damage(clip) if clip.id == "clip05" else clip for clip in Shards(data)))
    with pytest.raises(UserError, match=f"clip clip05 .clip05.wav.: .*{said}"):
        resample.verify(tmp_path, rows_of(data / "manifest.jsonl"), RATE)


def test_samples_that_are_not_numbers_are_named(data: Path) -> None:
    row = rows_of(data / "manifest.jsonl")[0]
    clip = Shards(data)[row["id"]]
    clip.audio[7] = np.nan
    with pytest.raises(UserError, match="clip clip00 .*not numbers"):
        resample.check(clip, row, RATE)


def test_one_sample_more_or_less_is_right() -> None:
    row = {"id": "a", "source": "a.wav", "samples": 24000, "sample_rate": 24000, "sha256": ""}
    for samples in (15999, 16000, 16001):
        resample.check(Clip("a", 16000, np.zeros(samples, np.float32)), row, 16000)
    with pytest.raises(UserError, match="has 16002 samples, not 16000"):
        resample.check(Clip("a", 16000, np.zeros(16002, np.float32)), row, 16000)


def test_card_and_codec_must_agree(tmp_path: Path) -> None:
    card, tiny = licences.card("cosyvoice3"), ROOT / "models/cosyvoice3/tiny"
    assert resample.codec_rate("cosyvoice3", card, tiny) == 16000
    with pytest.raises(UserError, match=r"models/cosyvoice3/card\.yaml.* 24000.*cosyvoice3/tiny/codec/config\.json says sample_rate: 16000"):
        resample.codec_rate("cosyvoice3", card | {"input_sample_rate": 24000}, tiny)
    with pytest.raises(UserError, match=r"holds no codec/config\.json nor speech_tokenizer_v3\.onnx, where .* stands; take weights .* codec_config in models/cosyvoice3/card\.yaml$"):
        resample.codec_rate("cosyvoice3", card, tmp_path)
    (tmp_path / "speech_tokenizer_v3.onnx").touch()  # a release's code alone says it
    assert resample.codec_rate("cosyvoice3", card, tmp_path) == 24000


def test_a_missing_sox_is_one_line(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install sox"):
        resample.build(data, tmp_path / "made", 16000)
    assert not (tmp_path / "made").exists()
