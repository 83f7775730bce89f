"""Text to ids: the tokenizer.json that stands beside the weights, whatever it holds."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from models.parts.errors import UserError

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 '.,?!-"


def load_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise UserError(f"{path}: the tokenizer is missing; it comes with the weights")
    return Tokenizer.from_file(str(path))


def clean(text: str) -> str:
    """What every network reads: NFKC, curly quotes straightened, runs of white space and of marks made one."""
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'").replace("\u2018", "'").replace("\u2026", ".")
    text = re.sub(r"([.,?!])[.,?!]+", r"\1", text)
    return re.sub(r"\s+", " ", text).strip()


def token_id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise UserError(f"tokenizer: no token {token}; restore the files that came with the weights")
    return int(found)


def text_ids(tokenizer: Tokenizer, text: str, control: Collection[int]) -> list[int]:
    """Ids of a text. UserError for one that is empty or holds a token of `control`, which would end its turn."""
    ids: list[int] = tokenizer.encode(clean(text), add_special_tokens=False).ids
    if not ids:
        raise UserError(f"text {text!r}: nothing to say; leave it out, or write it in words")
    if found := [token for token in ids if token in control]:
        token = tokenizer.id_to_token(found[0])
        raise UserError(f"text {text!r}: {token} is a control token and can't be read out; take it out")
    return ids


def character_tokenizer(special: list[str]) -> Tokenizer:
    """The tiny bases' tokenizer: one token a character, lower case, anything else a space; `special` come first.

    Letters, since a base that has heard a few hours can still spell: sub-words would each have to be learnt.
    """
    vocabulary = {token: index for index, token in enumerate([*special, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(),
        # the demo's keys as a telephone says them
        normalizers.Replace("*", " star "), normalizers.Replace("#", " pound "), normalizers.Replace("&", " and "),
    ])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer
