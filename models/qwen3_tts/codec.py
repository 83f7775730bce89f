"""Qwen3-TTS's 12 Hz codec: 24 kHz, 1920 samples a frame, one semantic and several residual codebooks."""

from __future__ import annotations

import numpy as np

from models.small.residual_codec import ResidualCodec
from models.small.vocoder import analyse
from models.small.voiceprint import voiceprint


class QwenCodec(ResidualCodec):
    """24 kHz in and out, 12.5 frames a second."""

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        """Float32 (160,): the voiceprint, which the network projects to its speaker position."""
        return voiceprint(analyse(self.heard(wave)))
