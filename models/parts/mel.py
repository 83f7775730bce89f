"""Log-mel spectrograms and the way back: one definition for the tokenisers, the decoders and the vocoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

FLOOR = 1e-5  # amplitudes below this are silence; log(FLOOR) is about -11.5


@dataclass(frozen=True)
class Mel:
    """Natural-log mel amplitudes. `hop` and `n_fft` in samples, `fmax` in Hz; frames are centred, count = samples // hop."""

    sample_rate: int
    n_fft: int
    hop: int
    bands: int = 80
    fmin: float = 0.0
    fmax: float | None = None

    @cached_property
    def filters(self) -> torch.Tensor:
        """(n_fft // 2 + 1, bands), Slaney scale and norm, as in librosa and every upstream here."""
        bank = mel_filter_bank(
            self.n_fft // 2 + 1, self.bands, self.fmin, self.fmax or self.sample_rate / 2, self.sample_rate,
            norm="slaney", mel_scale="slaney",
        )
        return torch.from_numpy(bank).float()

    @cached_property
    def inverse(self) -> torch.Tensor:
        """(bands, n_fft // 2 + 1): mel amplitudes back to linear ones, each bin the weighted mean of its bands."""
        weights = self.filters / self.filters.sum(1, keepdim=True).clamp(min=1e-8)
        return weights.T / self.filters.sum(0)[:, None]

    @cached_property
    def window(self) -> torch.Tensor:
        return torch.hann_window(self.n_fft)

    def __call__(self, wave: np.ndarray) -> torch.Tensor:
        """(samples,) float32 -> (samples // hop, bands)."""
        frames = len(wave) // self.hop
        half = self.n_fft // 2
        audio = torch.nn.functional.pad(torch.from_numpy(np.ascontiguousarray(wave)).float(), (half, half))
        spectrum = torch.stft(audio, self.n_fft, self.hop, window=self.window, center=False, return_complex=True).abs()
        return (spectrum[:, :frames].T @ self.filters).clamp(min=FLOOR).log()

    def griffin_lim(self, mel: torch.Tensor, iterations: int = 32, momentum: float = 0.99) -> np.ndarray:
        """(frames, bands) log-mel -> (frames × hop,) wave: the fast Griffin-Lim of Perraudin et al. (2013), zero initial phase."""
        wanted = mel.shape[0] * self.hop
        lacking = self.n_fft // 2 // self.hop + 1 - mel.shape[0]  # the transform mirrors half a window at each end
        mel = torch.nn.functional.pad(mel, (0, 0, 0, max(0, lacking)), value=math.log(FLOOR))
        magnitude = (mel.exp() @ self.inverse).T.clamp(min=0)
        length = mel.shape[0] * self.hop
        magnitude = torch.nn.functional.pad(magnitude, (0, 1), mode="replicate")
        angles = torch.polar(torch.ones_like(magnitude), _initial_phase(magnitude.shape, self.n_fft, self.hop))
        previous = torch.zeros_like(angles)
        for _ in range(iterations):
            wave = torch.istft(magnitude * angles, self.n_fft, self.hop, window=self.window, length=length)
            rebuilt = torch.stft(wave, self.n_fft, self.hop, window=self.window, return_complex=True)
            angles = rebuilt - (momentum / (1 + momentum)) * previous
            angles = angles / angles.abs().clamp(min=1e-12)
            previous = rebuilt
        return torch.istft(magnitude * angles, self.n_fft, self.hop, window=self.window, length=length)[:wanted].numpy()


def _initial_phase(shape: torch.Size, n_fft: int, hop: int) -> torch.Tensor:
    """The phase that a steady sinusoid in the middle of each bin would have: a better start than zero or noise."""
    bins = torch.arange(shape[0], dtype=torch.float64)[:, None]
    frames = torch.arange(shape[1], dtype=torch.float64)[None, :]
    return (2 * torch.pi * ((bins * frames * hop / n_fft) % 1.0)).float()
