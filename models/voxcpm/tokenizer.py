"""The text tokenizer of a weights folder: a tiny base's `tokenizer.json`, or the released one as transformers reads it."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from transformers import LlamaTokenizerFast

from models.parts.errors import UserError
from models.parts.text import load_tokenizer

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def load(folder: Path) -> Tokenizer:
    """UserError if there is none. transformers replaces the file's normaliser: a text that begins with a blank has other
    tokens than the file alone makes, and those are upstream's."""
    if not (folder / FILES[1]).is_file():
        return load_tokenizer(folder / FILES[0])
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: part of the tokenizer is missing; restore the file that came with the weights")
    try:
        return LlamaTokenizerFast.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except Exception as error:  # the tokenizers library has no class of its own
        raise UserError(f"{folder / FILES[0]}: no tokenizer ({error}); restore the file that came with the weights") from None
