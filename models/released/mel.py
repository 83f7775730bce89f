"""The log-mel of HiFi-GAN's kind, which several released speaker encoders and decoders hear (jik876/hifi-gan, meldataset.py)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import librosa
import torch
from torch.nn import functional as F

FLOOR = 1e-5


@dataclass(frozen=True)
class LogMel:
    """Slaney's mel bands of magnitudes, natural logarithm. `rate` and `high` in Hz; `window`, which is also the size of the
    transform, and `hop` in samples. Loudness stays as it is."""

    rate: int
    bands: int
    window: int
    hop: int
    high: float

    def __call__(self, waves: torch.Tensor) -> torch.Tensor:
        """Waves (B, samples) at `rate`, longer than half of `window` less `hop`, to float32 (B, samples // hop, bands)."""
        edge = (self.window - self.hop) // 2
        padded = F.pad(waves[:, None], (edge, edge), mode="reflect")[:, 0]
        window = torch.hann_window(self.window, device=waves.device)
        spectrum = torch.stft(padded, self.window, self.hop, window=window, center=False, return_complex=True)
        magnitudes = (torch.view_as_real(spectrum).square().sum(-1) + 1e-9).sqrt()
        return (_filters(self).to(waves.device) @ magnitudes).clamp(min=FLOOR).log().transpose(1, 2)


@lru_cache(maxsize=4)
def _filters(mel: LogMel) -> torch.Tensor:
    return torch.from_numpy(librosa.filters.mel(sr=mel.rate, n_fft=mel.window, n_mels=mel.bands, fmin=0, fmax=mel.high))
