"""The one prompt template, for training and for generation: upstream's ChatML turns for speech without a reference."""

from __future__ import annotations

from tokenizers import Tokenizer

from models.parts.errors import UserError
from models.parts.text import clean

# Upstream encodes every part by itself, so that no text token spans two of them
# (fishaudio/fish-speech, fish_speech/models/text2semantic/inference.py and conversation.py).
BEFORE = ("<|im_start|>system\n", "convert the provided text to speech", "<|im_end|>\n", "<|im_start|>user\n")
AFTER = ("<|im_end|>\n", "<|im_start|>assistant\n<|voice|>")


class Prompt:
    """Text to the tokens that come before the speech. `im_end` is the token that ends it."""

    def __init__(self, tokenizer: Tokenizer, semantic_begin: int, semantic_end: int):
        self.tokenizer = tokenizer
        self.im_end = self._id("<|im_end|>")
        self.control = {self.im_end, self._id("<|im_start|>"), self._id("<|voice|>")}
        for entry, expected in ((0, semantic_begin), (semantic_end - semantic_begin, semantic_end)):
            if (found := self._id(f"<|semantic:{entry}|>")) != expected:
                raise UserError(
                    f"tokenizer.json: <|semantic:{entry}|> is {found}, config.json says {expected}; restore both files"
                )
        self.semantic = range(semantic_begin, semantic_end + 1)
        self.before = [token for part in BEFORE for token in self._encode(part)]
        self.after = [token for part in AFTER for token in self._encode(part)]

    def __call__(self, text: str) -> list[int]:
        """UserError for a text that is empty or holds a control token, which would end its turn."""
        tokens = self._encode(clean(text))
        if not tokens:
            raise UserError(f"text {text!r}: nothing to say; leave it out, or write it in words")
        for token in tokens:
            if token in self.control or token in self.semantic:
                control = self.tokenizer.id_to_token(token)
                raise UserError(f"text {text!r}: {control} is a control token and can't be read out; take it out")
        return self.before + tokens + self.after

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise UserError(f"tokenizer.json: no token {token}; restore the file that came with the weights")
        return int(found)
