"""CosyVoice 3's tokeniser (S3, version 3) and decoder."""

from __future__ import annotations

from models.small.semantic_codec import SemanticCodec


class CosyVoice3Codec(SemanticCodec):
    """16 kHz in, 25 codes a second, 24 kHz out. Its codes are not version 2's, though their range is the same."""
