"""The tiny decoders' speaker vector: 160 figures measured from a recording, no network.

Released decoders take a CAMPPlus vector (192). A network trained on a handful of synthetic voices could not place a
new speaker; statistics can: the mean (80) and the spread (80) of what the vocoder measures.
"""

from __future__ import annotations

import numpy as np
import torch

from models.small.vocoder import BANDS, ENVELOPE, MIDDLE, PITCH, TOP, VOICE, VOICED

SIZE = 2 * BANDS


def voiceprint(analysis: np.ndarray) -> np.ndarray:
    """Float32 (160,) of what `vocoder.analyse` gave. Only frames within 40 dB of the loudest count, for pitch only voiced ones."""
    loudness = np.log(np.exp(analysis[:, :ENVELOPE]).sum(1))
    speech = analysis[loudness > loudness.max() - 4.6]
    mean, spread = speech.mean(0), speech.std(0)
    pitch = speech[speech[:, VOICE] > VOICED / 2, PITCH]
    mean[PITCH], spread[PITCH] = (pitch.mean(), pitch.std()) if len(pitch) else (MIDDLE, 0)
    return np.concatenate([mean, spread]).astype(np.float32)


def mean_pitch(vectors: torch.Tensor) -> torch.Tensor:
    """(…, 160) -> (…, 1): -1 (60 Hz) to 1 (400 Hz)."""
    return vectors[..., PITCH : PITCH + 1] * (2 / TOP) - 1


def split(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(…, 160) -> mean, spread (never below 0.3, so that silent bands stay silent)."""
    mean, spread = vectors.split(BANDS, dim=-1)
    return mean, spread.clamp(min=0.3)
