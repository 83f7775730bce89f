"""The text tokenizer of a weights folder: `tokenizer.json`, or the vocabulary and merges of the released folders."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from transformers import Qwen2Tokenizer

from models.parts.errors import UserError
from models.parts.text import load_tokenizer


def load(folder: Path) -> Tokenizer:
    """UserError if there is neither. The released folders have no tokenizer.json."""
    if (folder / "vocab.json").is_file() and not (folder / "tokenizer.json").is_file():
        # Without its configuration the tokenizer loads as well, and reads <|im_start|> as letters.
        for name in ("merges.txt", "tokenizer_config.json"):
            if not (folder / name).is_file():
                raise UserError(f"{folder / name}: part of the tokenizer is missing; restore the file that came with vocab.json")
        return Qwen2Tokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    return load_tokenizer(folder / "tokenizer.json")
