"""The one prompt template, for training and for generation: upstream's ChatML turns, with or without a reference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from models.parts.errors import UserError
from models.parts.family import Example
from models.parts.text import reads_phones, text_ids, token_id

# Upstream encodes every part by itself, so that no text token spans two of them
# (fishaudio/fish-speech, fish_speech/models/text2semantic/inference.py and conversation.py).
BEFORE = ("<|im_start|>system\n", "convert the provided text to speech", "<|im_end|>\n", "<|im_start|>user\n")
AFTER = ("<|im_end|>\n", "<|im_start|>assistant\n<|voice|>")
# What stands in the place of BEFORE's instruction where there is a reference: its text between these, its frames after them.
REFERENCE = ("convert the provided text to speech reference to the following:\n\nText:\n", "\n\nSpeech:\n")
SPEAKER = re.compile(r"<\|speaker:\d+\|>")  # several text tokens to the release, whose tokenizer has no such token
READ = {"<|phoneme_start|>", "<|phoneme_end|>"}  # the only tokens of the release that a text may hold


@dataclass(frozen=True)
class Layout:
    """A prompt: its token ids (L,), and codes (L, K), int32, of those positions that are frames; 0 elsewhere."""

    tokens: list[int]
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


class Prompt:
    """Text to what comes before the speech. `im_end` is the token that ends it. `released`: upstream's own network, which
    reads letters, and not a tiny base, which reads phones."""

    def __init__(self, tokenizer: Tokenizer, semantic_begin: int, semantic_end: int, codebooks: int):
        self.tokenizer, self.semantic_begin, self.codebooks = tokenizer, semantic_begin, codebooks
        self.released = not reads_phones(tokenizer)
        self.im_end, *others = (token_id(tokenizer, token) for token in ("<|im_end|>", "<|im_start|>", "<|voice|>"))
        self.control = {self.im_end, *others, *range(semantic_begin, semantic_end + 1)}
        if self.released:
            self.control |= {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.content not in READ}
        for entry, expected in ((0, semantic_begin), (semantic_end - semantic_begin, semantic_end)):
            if (found := token_id(tokenizer, f"<|semantic:{entry}|>")) != expected:
                raise UserError(
                    f"tokenizer.json: <|semantic:{entry}|> is {found}, config.json says {expected}; restore both files"
                )
        self.before, self.after = ([self._encode(part) for part in parts] for parts in (BEFORE, AFTER))

    def __call__(self, text: str, references: Sequence[Example] = ()) -> Layout:
        """`references`: utterances of the voice, whose texts and frames are read first.

        UserError for a text that is empty or holds a control token, which would end its turn.
        """
        system, instruction, *rest = self.before
        frames = np.zeros((0, self.codebooks), np.int32)
        if references:
            said = "\n".join(_tagged(number, reference.text) for number, reference in enumerate(references))
            frames = np.concatenate([reference.codes for reference in references])
            before, after = (self._encode(part) for part in REFERENCE)
            instruction = [*before, *text_ids(self.tokenizer, said, self.control), *after]
        start = [*system, *instruction]
        end = [*sum(rest, []), *text_ids(self.tokenizer, text, self.control), *sum(self.after, [])]
        codes = np.zeros((len(start) + len(frames) + len(end), self.codebooks), np.int32)
        codes[len(start) : len(start) + len(frames)] = frames
        return Layout([*start, *(frames[:, 0] + self.semantic_begin).tolist(), *end], codes)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _tagged(number: int, text: str) -> str:
    """As upstream names the speaker of a reference that does not say who speaks."""
    return text if SPEAKER.search(text) else f"<|speaker:{number}|>{text}"
