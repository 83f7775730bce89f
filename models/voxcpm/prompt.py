"""The one prompt, for training and for generation: the text's tokens, then the token that speech starts with."""

from __future__ import annotations

import re

from tokenizers import Tokenizer

from models.parts.text import text_ids
from models.voxcpm.config import AUDIO_START

OTHERS = range(AUDIO_START, AUDIO_START + 4)  # where speech ends, and where VoxCPM 2's reference starts and ends


class Prompt:
    """Text to the tokens that come before the speech."""

    def __init__(self, tokenizer: Tokenizer, audio_start: int):
        self.tokenizer, self.audio_start = tokenizer, audio_start
        self.control = {*OTHERS} if audio_start == AUDIO_START else {audio_start}
        self._split = {token for token in tokenizer.get_vocab() if len(token) > 1 and _chinese(token)}

    def __call__(self, text: str, before: str = "") -> list[int]:
        """`before`: what the reference says whose patches follow the prompt; upstream puts nothing between the two texts.

        UserError for a text that is empty or holds a control token.
        """
        text_ids(self.tokenizer, text, self.control)  # a reference alone is nothing to say
        return [*self.words(before + text), self.audio_start]

    def words(self, text: str) -> list[int]:
        """Ids of a text. White space is one blank, as upstream's own front end sends it."""
        ids = []
        for token in text_ids(self.tokenizer, re.sub(r"\s+", " ", text), self.control):
            piece = str(self.tokenizer.id_to_token(token)).replace("▁", "")
            ids += [self._character(one) for one in piece] if piece in self._split else [token]
        return ids

    def _character(self, character: str) -> int:
        """A Chinese word is read by its characters; one that is no token of its own is unknown."""
        known: int | None = self.tokenizer.token_to_id(character)
        if known is None:
            known = self.tokenizer.token_to_id("<unk>")
        assert known is not None
        return known


def _chinese(token: str) -> bool:
    return all("\u4e00" <= character <= "\u9fff" for character in token)
