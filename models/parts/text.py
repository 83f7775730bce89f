"""Text to ids: the tokenizer.json that stands beside the weights, whatever it holds."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from models.parts.errors import UserError
from models.small.phones import PAUSE, pronounced
from models.small.plain import plain


def load_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise UserError(f"{path}: the tokenizer is missing; it comes with the weights")
    return Tokenizer.from_file(str(path))


def reads_phones(tokenizer: Tokenizer) -> bool:
    """The tiny bases' tokenizers do; the released ones read letters."""
    return tokenizer.token_to_id(PAUSE) is not None


def clean(tokenizer: Tokenizer, text: str) -> str:
    """What the tiny bases read: written out in ASCII (`models.small.plain`), runs of white space and of marks made one.

    Released networks get the text as it is written: what their tokenizers do to it themselves is what they learnt from.
    """
    if not reads_phones(tokenizer):
        return text
    text = re.sub(r"([.,?!])[.,?!]+", r"\1", plain(text))
    return re.sub(r"\s+", " ", text).strip()


def token_id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise UserError(f"tokenizer: no token {token}; restore the files that came with the weights")
    return int(found)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text. A tokenizer of phones gets it as it is pronounced; special tokens stay what they are."""
    if reads_phones(tokenizer):
        parts = _specials(tokenizer).split(text)  # every second one is a special token
        text = " ".join(part if index % 2 else pronounced(part) for index, part in enumerate(parts))
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


@lru_cache(maxsize=8)
def _specials(tokenizer: Tokenizer) -> re.Pattern[str]:
    tokens = [re.escape(token.content) for token in tokenizer.get_added_tokens_decoder().values()]
    return re.compile(f"({'|'.join(tokens) or '(?!)'})")  # without any, nothing fits


def text_ids(tokenizer: Tokenizer, text: str, control: Collection[int]) -> list[int]:
    """Ids of a text. UserError for one that is empty or holds a token of `control`, which would end its turn."""
    return readable(tokenizer, text, ids_of(tokenizer, clean(tokenizer, text)), control)


def readable(tokenizer: Tokenizer, text: str, ids: list[int], control: Collection[int]) -> list[int]:
    """`ids` themselves, which are those of `text`; the same errors as `text_ids`."""
    if not ids or not text.strip():
        raise UserError(f"text {text!r}: nothing to say; leave it out, or write it in words")
    if found := [token for token in ids if token in control]:
        token = tokenizer.id_to_token(found[0])
        raise UserError(f"text {text!r}: {token} is a control token and can't be read out; take it out")
    return ids
