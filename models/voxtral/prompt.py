"""The one prompt template, for training and for generation: upstream's speech request.

    <s> [BEGIN_AUDIO] [AUDIO] … [NEXT_AUDIO_TEXT] text [REPEAT_AUDIO_TEXT] [BEGIN_AUDIO] frame 0, frame 1, …

In the place of each [AUDIO] the network reads a row of the voice, a frame of a reference (mistral-common
tokens/tokenizers/instruct.py, `encode_speech_request`). A released network reads one of its own voices, in training as in
generation: upstream refuses a request without a voice, so nobody knows how it speaks without, and since no recording can be
turned into codes, what it is tuned on was said in one of these voices anyway. The tiny base never had a reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from models.parts.text import text_ids, token_id

BEFORE = ("<s>", "[BEGIN_AUDIO]")
AUDIO = "[AUDIO]"
TEXT = ("[NEXT_AUDIO_TEXT]",)
AFTER = ("[REPEAT_AUDIO_TEXT]", "[BEGIN_AUDIO]")
CONTROL = tuple(dict.fromkeys(BEFORE + TEXT + AFTER))


@dataclass(frozen=True)
class Layout:
    """A prompt: its token ids (L,), and the rows (N, dim) that stand in the place of its N [AUDIO] tokens."""

    tokens: list[int]
    reference: torch.Tensor

    def __len__(self) -> int:
        return len(self.tokens)


class Prompt:
    """Text to the tokens that come before the speech."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.before, self.text, self.after = ([token_id(tokenizer, token) for token in part] for part in (BEFORE, TEXT, AFTER))
        self.control = {*self.before, *self.text, *self.after}

    @property
    def audio(self) -> int:
        """The id of [AUDIO]; a tiny base's tokenizer has none."""
        return token_id(self.tokenizer, AUDIO)

    def __call__(self, text: str, reference: torch.Tensor) -> Layout:
        """UserError for a text that is empty, or in which a tiny base's tokenizer finds one of the template's own tokens."""
        heard = [self.audio] * len(reference) if len(reference) else []
        return Layout([*self.before, *heard, *self.text, *text_ids(self.tokenizer, text, self.control), *self.after], reference)
