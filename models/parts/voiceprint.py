"""The tiny decoders' speaker vector: 192 figures measured from a recording, no network.

Released decoders take a CAMPPlus vector (192). A network trained on a handful of synthetic voices could not place a
new speaker; statistics can: the mean (80) and spread (80) of the log-mel bands and a histogram of pitch (32).
"""

from __future__ import annotations

import numpy as np
import torch

from models.parts.mel import Mel

SIZE = 192
BANDS, _PITCH_BINS = 80, 32
_LOW, _HIGH = 60.0, 400.0  # Hz


def voiceprint(wave: np.ndarray, mel: Mel, log_mel: torch.Tensor | None = None) -> np.ndarray:
    """Float32 (192,) of a wave at `mel.sample_rate`. Only frames within 40 dB of the loudest count as speech."""
    bands = mel(wave) if log_mel is None else log_mel
    loudness = bands.exp().sum(1).log()
    speech = bands[loudness > loudness.max() - 4.6]
    spread = speech.std(0) if len(speech) > 1 else torch.zeros(BANDS)
    return np.concatenate([speech.mean(0).numpy(), spread.numpy(), _pitch_histogram(wave, mel.sample_rate)]).astype(np.float32)


def mean_pitch(vectors: torch.Tensor) -> torch.Tensor:
    """(…, 192) -> (…, 1): the mean of the pitch histogram on its log scale, -1 (60 Hz) to 1 (400 Hz); 0 without voice."""
    histogram = vectors[..., -_PITCH_BINS:]
    centres = torch.linspace(-1, 1, _PITCH_BINS, device=vectors.device)
    return (histogram * centres).sum(-1, keepdim=True) / histogram.sum(-1, keepdim=True).clamp(min=1e-6)


def split(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(…, 192) -> mean, spread (never below 0.3, so that silent bands stay silent), pitch."""
    mean, spread, pitch = vectors.split([BANDS, BANDS, _PITCH_BINS], dim=-1)
    return mean, spread.clamp(min=0.3), pitch


def _pitch_histogram(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Share of voiced frames in each of 32 log-spaced pitch bins, by autocorrelation over 64 ms."""
    size, hop = int(0.064 * sample_rate), int(0.02 * sample_rate)
    if len(wave) < size:
        wave = np.pad(wave, (0, size - len(wave)))
    frames = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop] * np.hanning(size)
    spectrum = np.fft.rfft(frames, 2 * size)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:, :size]
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(size), 2 * size)) ** 2)[:size]
    correlation = correlation / (window / window[0])  # undo the window's own decay, or low pitch is never found
    energy = correlation[:, 0]
    first, last = int(sample_rate / _HIGH), int(sample_rate / _LOW)
    lags = correlation[:, first:last]
    # The first lag that is nearly the best: two periods correlate as well as one, and would halve the pitch.
    best = (lags > 0.9 * lags.max(1, keepdims=True)).argmax(1)
    strength = lags[np.arange(len(lags)), best] / np.maximum(energy, 1e-9)
    voiced = (strength > 0.5) & (energy > 0.001 * energy.max())
    pitch = sample_rate / (first + best[voiced])
    bins = np.clip((np.log(pitch / _LOW) / np.log(_HIGH / _LOW) * _PITCH_BINS).astype(int), 0, _PITCH_BINS - 1)
    return np.bincount(bins, minlength=_PITCH_BINS) / max(1, len(bins))
