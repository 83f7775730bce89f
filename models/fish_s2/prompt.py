"""The one prompt template, for training and for generation: upstream's ChatML turns for speech without a reference."""

from __future__ import annotations

from tokenizers import Tokenizer

from models.parts.errors import UserError
from models.parts.text import text_ids, token_id

# Upstream encodes every part by itself, so that no text token spans two of them
# (fishaudio/fish-speech, fish_speech/models/text2semantic/inference.py and conversation.py).
BEFORE = ("<|im_start|>system\n", "convert the provided text to speech", "<|im_end|>\n", "<|im_start|>user\n")
AFTER = ("<|im_end|>\n", "<|im_start|>assistant\n<|voice|>")


class Prompt:
    """Text to the tokens that come before the speech. `im_end` is the token that ends it."""

    def __init__(self, tokenizer: Tokenizer, semantic_begin: int, semantic_end: int):
        self.tokenizer = tokenizer
        self.im_end, *others = (token_id(tokenizer, token) for token in ("<|im_end|>", "<|im_start|>", "<|voice|>"))
        self.control = {self.im_end, *others, *range(semantic_begin, semantic_end + 1)}
        for entry, expected in ((0, semantic_begin), (semantic_end - semantic_begin, semantic_end)):
            if (found := token_id(tokenizer, f"<|semantic:{entry}|>")) != expected:
                raise UserError(
                    f"tokenizer.json: <|semantic:{entry}|> is {found}, config.json says {expected}; restore both files"
                )
        self.before = [token for part in BEFORE for token in self._encode(part)]
        self.after = [token for part in AFTER for token in self._encode(part)]

    def __call__(self, text: str) -> list[int]:
        """UserError for a text that is empty or holds a control token, which would end its turn."""
        return self.before + text_ids(self.tokenizer, text, self.control) + self.after

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids
