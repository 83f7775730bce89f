"""Voxtral's codec: 24 kHz, 1920 samples a frame, one semantic codebook and 36 scalar-quantised values."""

from __future__ import annotations

from models.small.scalar_codec import ScalarCodec


class VoxtralCodec(ScalarCodec):
    """24 kHz in and out, 12.5 frames a second."""
