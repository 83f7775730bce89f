"""The one prompt template, for training and for generation: upstream's speech request, without a voice reference.

    <s> [BEGIN_AUDIO] [NEXT_AUDIO_TEXT] text [REPEAT_AUDIO_TEXT] [BEGIN_AUDIO] frame 0, frame 1, …

Upstream has the frames of a reference after the first [BEGIN_AUDIO] (mistral-common tokens/tokenizers/instruct.py,
`encode_speech_request`). A network tuned on one speaker has the voice in its weights and needs none.
"""

from __future__ import annotations

from tokenizers import Tokenizer

from models.parts.errors import UserError
from models.parts.text import clean

BEFORE = ("<s>", "[BEGIN_AUDIO]", "[NEXT_AUDIO_TEXT]")
AFTER = ("[REPEAT_AUDIO_TEXT]", "[BEGIN_AUDIO]")
CONTROL = tuple(dict.fromkeys(BEFORE + AFTER))


class Prompt:
    """Text to the tokens that come before the speech."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.before, self.after = [self._id(token) for token in BEFORE], [self._id(token) for token in AFTER]

    def __call__(self, text: str) -> list[int]:
        """UserError for a text that is empty or holds one of the template's own tokens."""
        tokens: list[int] = self.tokenizer.encode(clean(text), add_special_tokens=False).ids
        if not tokens:
            raise UserError(f"text {text!r}: nothing to say; leave it out, or write it in words")
        if control := {*self.before, *self.after}.intersection(tokens):
            name = self.tokenizer.id_to_token(min(control))
            raise UserError(f"text {text!r}: {name} is a control token and can't be read out; take it out")
        return self.before + tokens + self.after

    def _id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise UserError(f"tokenizer: no token {token}; restore the file that came with the weights")
        return int(found)
