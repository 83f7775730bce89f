"""The one prompt template, for training and for generation: upstream's speech request, without a voice reference.

    <s> [BEGIN_AUDIO] [NEXT_AUDIO_TEXT] text [REPEAT_AUDIO_TEXT] [BEGIN_AUDIO] frame 0, frame 1, …

Upstream has the frames of a reference after the first [BEGIN_AUDIO] (mistral-common tokens/tokenizers/instruct.py,
`encode_speech_request`). A network tuned on one speaker has the voice in its weights and needs none.
"""

from __future__ import annotations

from tokenizers import Tokenizer

from models.parts.text import text_ids, token_id

BEFORE = ("<s>", "[BEGIN_AUDIO]", "[NEXT_AUDIO_TEXT]")
AFTER = ("[REPEAT_AUDIO_TEXT]", "[BEGIN_AUDIO]")
CONTROL = tuple(dict.fromkeys(BEFORE + AFTER))


class Prompt:
    """Text to the tokens that come before the speech."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.before, self.after = ([token_id(tokenizer, token) for token in part] for part in (BEFORE, AFTER))

    def __call__(self, text: str) -> list[int]:
        """UserError for a text that is empty or holds one of the template's own tokens."""
        return self.before + text_ids(self.tokenizer, text, {*self.before, *self.after}) + self.after
