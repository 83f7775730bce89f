"""CosyVoice 2's tokeniser (S3, version 2) and decoder."""

from __future__ import annotations

from models.small.semantic_codec import SemanticCodec


class CosyVoice2Codec(SemanticCodec):
    """16 kHz in, 25 codes a second, 24 kHz out. Its codes are not version 3's, though their range is the same."""
