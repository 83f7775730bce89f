"""Text to ids, one way for training and for generation: upstream's punctuation rules, then the weights' tokenizer."""

from __future__ import annotations

import re

from tokenizers import Tokenizer

from models.chatterbox.config import T3Config
from models.parts.errors import UserError
from models.parts.text import ids_of

START, STOP = "[START]", "[STOP]"
SPACE = "[SPACE]"  # upstream's vocabulary has a token for the space; a tokenizer without it has the space itself
# What upstream makes of rare marks, in its order (resemble-ai/chatterbox, src/chatterbox/tts.py, `punc_norm`).
MARKS = [
    (r"\.\.\.|…", ", "), (":", ","), (" - |;", ", "), ("[—–]", "-"), (" ,", ","), ("[“”]", '"'), ("[‘’]", "'"),
]  # fmt: skip
ENDS = (".", "!", "?", "-", ",")


def normalise(text: str) -> str:
    """One space between words, a capital first, upstream's marks, and a mark at the end."""
    text = " ".join((text[:1].upper() + text[1:]).split())  # in this order: a word behind a space stays small
    for pattern, mark in MARKS:
        text = re.sub(pattern, mark, text)
    text = text.rstrip()
    return text if text.endswith(ENDS) else text + "."


class Script:
    """`script(text)` is what the network reads: start, the text's tokens, stop."""

    def __init__(self, tokenizer: Tokenizer, config: T3Config):
        self.tokenizer, self.config = tokenizer, config
        for token, wanted in ((START, config.start_text_token), (STOP, config.stop_text_token)):
            if (found := tokenizer.token_to_id(token)) != wanted:
                raise UserError(f"tokenizer.json: {token} is {found}, config.json says {wanted}; restore both files")
        self.space = SPACE if tokenizer.token_to_id(SPACE) is not None else " "

    def __call__(self, text: str) -> list[int]:
        """UserError for a text that is empty, too long, or holds a control token, which would end it."""
        config = self.config
        if not text.strip():
            raise UserError(f"text {text!r}: nothing to say; leave it out, or write it in words")
        ids = ids_of(self.tokenizer, normalise(text).replace(" ", self.space))
        for token in (START, STOP):
            if self.tokenizer.token_to_id(token) in ids:
                raise UserError(f"text {text!r}: {token} is a control token and can't be read out; take it out")
        if len(ids) > config.max_text_tokens:
            raise UserError(
                f"text {text[:40]!r}…: {len(ids)} tokens, the network has room for {config.max_text_tokens}; cut it in parts"
            )
        return [config.start_text_token, *ids, config.stop_text_token]
