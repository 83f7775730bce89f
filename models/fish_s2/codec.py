"""Fish S2's codec: 44.1 kHz, 2048 samples a frame, one semantic and several residual codebooks."""

from __future__ import annotations

from models.small.residual_codec import ResidualCodec


class FishCodec(ResidualCodec):
    """44.1 kHz in and out, 21.53 frames a second."""
