"""Is this folder a release of English Chatterbox, whole and of the shapes that its networks have? Reads no tensor."""

from __future__ import annotations

from pathlib import Path

import torch

from models.chatterbox.config import S3GEN, WEIGHTS, T3Config
from models.chatterbox.network import T3
from models.chatterbox.released.codec import COMPUTED, VOICE_ENCODER, S3Gen
from models.chatterbox.released.voice_encoder import VoiceEncoder
from models.chatterbox.script import Script
from models.parts.errors import UserError
from models.parts.text import load_tokenizer
from models.parts.weights import check_header, read_shapes
from models.released.shapes import shapes_of


def check_release(weights: Path) -> None:
    """UserError, naming file and tensor, for the first thing that is missing or does not fit."""
    if not (weights / WEIGHTS).is_file():
        raise UserError(f"{weights / WEIGHTS}: not there; copy or download the whole release")
    config, s3gen = T3Config.load(weights), read_shapes(weights / S3GEN)
    with torch.device("meta"):
        network, codec, encoder = T3(config), S3Gen(s3gen, weights / S3GEN), VoiceEncoder()
    check_header(weights / WEIGHTS, shapes_of(network), ("F32", "BF16", "F16"))
    computed = {name: s3gen[name] for name in COMPUTED if name in s3gen}
    check_header(weights / S3GEN, shapes_of(codec) | computed, ("F32", "I64"))  # half precision gives other codes
    check_header(weights / VOICE_ENCODER, shapes_of(encoder), ("F32",))
    try:
        Script(load_tokenizer(weights / "tokenizer.json"), config)
    except UserError:
        raise
    except Exception as error:  # the tokenizers library has no class of its own
        raise UserError(f"{weights / 'tokenizer.json'}: no tokenizer ({error}); restore the file that came with the weights") from None
