"""A tokenizer that spells, for toys whose weights and ids are made by hand: one token a letter, and no flite."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 '.,?!-"


def character_tokenizer(special: list[str]) -> Tokenizer:
    """One token a character, lower case, anything else a space; `special` come first."""
    vocabulary = {token: index for index, token in enumerate([*special, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer
