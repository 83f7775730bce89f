"""The tiny base's codec: 44.1 kHz, 6.25 patches a second of four frames of continuous values."""

from __future__ import annotations

from models.small.linear_codec import LinearCodec


class VoxCPMCodec(LinearCodec):
    """44.1 kHz in and out."""
