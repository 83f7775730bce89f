"""Speech as the decoders write it, and the way back: a WORLD vocoder (Morise et al. 2016, package pyworld).

A frame says the spectral envelope, whether there is a voice, and how high it is. A decoder that has to guess the pitch
blurs the harmonics of a spectrogram; here it can be wrong about the pitch and right about the words. How noisy a voice
is stays constant: in copies of recordings its measured course is not heard (models/small/BASES.md).
Everything is at 16 kHz within: the recordings that the tiny decoders learn from hold nothing above 8 kHz.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyworld
import torch
import torchaudio
from transformers.audio_utils import mel_filter_bank

RATE = 16000
STEP = 160                    # samples: an analysis has a frame every 10 ms
ENVELOPE = 78                 # mel bands of the envelope, natural logarithm of the amplitude; then voice and pitch
BANDS, VOICE, PITCH = ENVELOPE + 2, ENVELOPE, ENVELOPE + 1
FLOOR = 1e-5                  # amplitudes below this are silence
VOICED = 4.0                  # voice is this or 0, so that it varies as much as a band of the envelope does
LOWEST, HIGHEST = 60.0, 400.0     # Hz
TOP = 12 * math.log2(HIGHEST / LOWEST)   # semitones above LOWEST
MIDDLE = 16.0                 # the pitch of a recording without a voice
NOISE = -10.0                 # dB: aperiodicity of a voice
SYNTHESIS = 5.0               # ms a frame, in synthesis


def analyse(speech: np.ndarray) -> np.ndarray:
    """(samples,) at 16 kHz -> float32 (samples // 160, at least 1, 80); pitch in semitones above 60 Hz."""
    x = np.pad(speech.astype(np.float64), (0, RATE // 10))
    hertz, at = pyworld.dio(x, RATE, f0_floor=LOWEST, f0_ceil=HIGHEST, frame_period=1000 * STEP / RATE)
    hertz = pyworld.stonemask(x, hertz, at, RATE)
    envelope = np.sqrt(pyworld.cheaptrick(x, hertz, at, RATE, fft_size=_size())) @ _filters()
    voiced = hertz > 0
    height = np.full(len(hertz), MIDDLE)
    if voiced.any():  # straight lines where there is no voice
        height = np.interp(np.arange(len(hertz)), np.flatnonzero(voiced), 12 * np.log2(hertz[voiced] / LOWEST))
    frames = np.concatenate([np.log(np.maximum(envelope, FLOOR)), VOICED * voiced[:, None], height[:, None]], 1)
    return frames[: max(1, len(speech) // STEP)].astype(np.float32)


@dataclass(frozen=True)
class Vocoder:
    """A decoder's frames (n, 80): one every `hop` samples of its output at `sample_rate`."""

    sample_rate: int
    hop: int

    def frames(self, analysis: np.ndarray, count: int) -> torch.Tensor:
        """What `analyse` gave -> (count, 80), silent beyond its end."""
        at = np.arange(count) * (self.hop / self.sample_rate * RATE / STEP)
        frames = _between(analysis, at)
        frames[at >= len(analysis), :ENVELOPE] = np.log(FLOOR)
        frames[at >= len(analysis), VOICE] = 0
        return torch.from_numpy(frames.astype(np.float32))

    def synthesise(self, frames: torch.Tensor) -> np.ndarray:
        """(n, 80) -> float32 wave (n × hop,) at `sample_rate`."""
        wanted, period = len(frames) * self.hop, 1000 * self.hop / self.sample_rate
        fine = _between(frames.numpy().astype(np.float64), np.arange(0, len(frames) * period, SYNTHESIS) / period)
        voiced = fine[:, VOICE] > VOICED / 2
        hertz = np.where(voiced, LOWEST * 2 ** (np.clip(fine[:, PITCH], 0, TOP) / 12), 0.0)
        envelope = np.maximum(np.exp(fine[:, :ENVELOPE]) @ _inverse(), 1e-8) ** 2
        noise = pyworld.decode_aperiodicity(np.where(voiced, NOISE, 0.0)[:, None], RATE, _size())
        wave = pyworld.synthesize(hertz, envelope, noise, RATE, SYNTHESIS).astype(np.float32)
        result = torchaudio.functional.resample(torch.from_numpy(wave), RATE, self.sample_rate).numpy()
        return np.pad(result, (0, max(0, wanted - len(result))))[:wanted]


def _between(frames: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Frames at fractional positions, on straight lines between the given ones; the last one holds on."""
    low = np.minimum(at.astype(int), len(frames) - 1)
    part = (at - np.floor(at))[:, None]
    between: np.ndarray = (1 - part) * frames[low] + part * frames[np.minimum(low + 1, len(frames) - 1)]
    return between


@cache
def _size() -> int:
    return int(pyworld.get_cheaptrick_fft_size(RATE, LOWEST))


@cache
def _filters() -> np.ndarray:
    """(_size() // 2 + 1, 78), Slaney scale and norm."""
    return mel_filter_bank(_size() // 2 + 1, ENVELOPE, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")


@cache
def _inverse() -> np.ndarray:
    """(78, _size() // 2 + 1): mel amplitudes back to linear ones, each bin the weighted mean of its bands."""
    weights = _filters() / np.maximum(_filters().sum(1, keepdims=True), 1e-8)
    return weights.T / _filters().sum(0)[:, None]
