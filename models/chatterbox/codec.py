"""Chatterbox's tokeniser (S3, version 2: CosyVoice 2's) and decoder."""

from __future__ import annotations

from models.small.semantic_codec import SemanticCodec


class ChatterboxCodec(SemanticCodec):
    """16 kHz in, 25 codes a second, 24 kHz out. A set that CosyVoice 2 tokenised fits if its contract is this one's."""
