"""The log-mel that the released speaker encoder hears (QwenLM/Qwen3-TTS, qwen_tts/core/models/modeling_qwen3_tts.py)."""

from __future__ import annotations

from functools import lru_cache

import librosa
import torch
from torch.nn import functional as F

RATE, BANDS, WINDOW, HOP = 24000, 128, 1024, 256
FLOOR = 1e-5


def log_mel(waves: torch.Tensor) -> torch.Tensor:
    """Waves (B, samples) at 24 kHz, more than 384 samples, to float32 (B, samples // 256, 128). Loudness stays as it is."""
    edge = (WINDOW - HOP) // 2
    padded = F.pad(waves[:, None], (edge, edge), mode="reflect")[:, 0]
    window = torch.hann_window(WINDOW, device=waves.device)
    spectrum = torch.stft(padded, WINDOW, HOP, window=window, center=False, return_complex=True)
    magnitudes = (torch.view_as_real(spectrum).square().sum(-1) + 1e-9).sqrt()
    return (_bands().to(waves.device) @ magnitudes).clamp(min=FLOOR).log().transpose(1, 2)


@lru_cache(maxsize=1)
def _bands() -> torch.Tensor:
    return torch.from_numpy(librosa.filters.mel(sr=RATE, n_fft=WINDOW, n_mels=BANDS, fmin=0, fmax=RATE / 2))
