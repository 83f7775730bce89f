"""Voxtral's codec: 24 kHz, 1920 samples a frame, one semantic codebook and 36 scalar-quantised values."""

from __future__ import annotations

from pathlib import Path

from models.parts.errors import UserError
from models.small.scalar_codec import ScalarCodec
from models.voxtral.released import CODEC, FILE, has_encoder


class VoxtralCodec(ScalarCodec):
    """24 kHz in and out, 12.5 frames a second."""


def load_codec(weights: Path) -> VoxtralCodec:
    """The codec beside a tiny base. UserError for released weights: what turns recordings into codes is not in them.

    Upstream's own loader looks for the same tensors and refuses to encode without them (vllm-omni
    model_executor/models/voxtral_tts/voxtral_tts_audio_tokenizer.py; pull requests 3498 and 7012).
    """
    released = weights / FILE
    if (weights / "codec").is_dir() or not released.is_file():
        return VoxtralCodec(weights / "codec")
    if has_encoder(released):
        raise UserError(
            f"{released}: holds an encoder of the codec ({CODEC}encoder_blocks), which no release does, and this "
            "repository has no code for it; put a codec of the tiny kind into codec/, or choose another family"
        )
    raise UserError(
        f"{released}: the codec's encoder ({CODEC}input_proj, {CODEC}encoder_blocks) is not in it and was never "
        "released, so recordings can't be turned into Voxtral's codes; use profile tiny, or another family"
    )
