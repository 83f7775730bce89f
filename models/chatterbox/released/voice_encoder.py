"""The speaker vector that T3 reads: an LSTM over windows of a mel (resemble-ai/chatterbox, src/chatterbox/models/voice_encoder)."""

from __future__ import annotations

from functools import lru_cache

import librosa
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

RATE = 16000
SIZE = 256
BANDS = 40
WINDOW, STEP = 160, 77  # frames of 10 ms: 1.3 windows a second
FULL = 0.8  # of the last window must be there, or it is left out
QUIET_DB = 20  # what is so much quieter than the loudest is cut off at both ends


class VoiceEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, SIZE, num_layers=3, batch_first=True)
        self.proj = nn.Linear(SIZE, SIZE)
        self.similarity_weight, self.similarity_bias = (nn.Parameter(torch.zeros(1)) for _ in range(2))  # of its training

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """(B, 160, 40) to vectors (B, 256) of length 1."""
        _, (last, _) = self.lstm(windows)
        return F.normalize(F.relu(self.proj(last[-1])), dim=-1)

    def embed(self, wave: np.ndarray) -> torch.Tensor:
        """Float32 (256,) of length 1: a wave (N,) at 16 kHz, of any length."""
        speech, _ = librosa.effects.trim(wave, top_db=QUIET_DB)
        windows = cut(powers(torch.from_numpy(speech))).to(self.proj.weight.device)
        return F.normalize(self(windows).mean(0), dim=-1)


def powers(wave: torch.Tensor) -> torch.Tensor:
    """A wave (N,) to its mel's powers (1 + N // 160, 40), without a logarithm."""
    wave = F.pad(wave, (0, max(0, 201 - len(wave))))  # as much as the edges reflect
    spectrum = torch.stft(wave, 400, 160, window=torch.hann_window(400), return_complex=True)
    return (_filters() @ spectrum.abs().square()).T


def cut(mel: torch.Tensor) -> torch.Tensor:
    """Frames (T, 40) to windows (B, 160, 40); the last one is filled up with silence or left out."""
    whole, rest = divmod(max(len(mel) - WINDOW + STEP, 0), STEP)
    if not whole or (rest + WINDOW - STEP) / WINDOW >= FULL:
        whole += 1
    frames = WINDOW + STEP * (whole - 1)
    return F.pad(mel[:frames], (0, 0, 0, max(0, frames - len(mel)))).unfold(0, WINDOW, STEP).transpose(1, 2)


@lru_cache(maxsize=1)
def _filters() -> torch.Tensor:
    return torch.from_numpy(librosa.filters.mel(sr=RATE, n_fft=400, n_mels=BANDS, fmin=0, fmax=8000))
