"""The two channels before the speech, in training and in generation: all of upstream's layouts.

    text    role tokens | pad  pad  pad  pad | bos |  text … | eos | pad |
    codec        -      | nothink think_bos think_eos SPEAKER | pad |  pad … | pad | bos |  then the frames

Every position is the sum of both. That is the whole text, language "auto", what a fine-tune learns and speaks with.
SPEAKER stands for the speaker's vector, or is the row of a custom voice; a designed voice has none. With a language,
`think` and the language stand in the place of `nothink`. An instruction stands before the role. A reference's text
stands before the text and its frames after codec bos. In a streaming layout the words do not wait for one another:
they are added to codec bos and the frames, one to each, those of the reference first and then those that are generated.

Sources: QwenLM/Qwen3-TTS, qwen_tts/core/models/modeling_qwen3_tts.py (`generate`, `generate_icl_prompt`),
qwen_tts/inference/qwen3_tts_model.py and finetuning/dataset.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from models.parts.family import Example
from models.parts.text import clean, ids_of, readable, token_id
from models.qwen3_tts.config import BASE, CUSTOM, Ids

NOTHING = -1  # no token of this channel, so no embedding
ROLE, INSTRUCTION, END = "<|im_start|>assistant\n", "<|im_start|>user\n", "<|im_end|>\n"


@dataclass(frozen=True)
class Layout:
    """A prompt. `text` (L,) and `codec` (L, K; NOTHING where there is none) are its channels, int64; `following` are the
    text tokens of the frames to come, one each, before text pad."""

    text: torch.Tensor
    codec: torch.Tensor
    following: list[int]

    def __len__(self) -> int:
        return len(self.text)


class Prompt:
    """Text to a layout for weights of this `kind` (tts_model_type). No text may hold a token of `control`."""

    def __init__(self, tokenizer: Tokenizer, ids: Ids, codebooks: int, kind: str):
        self.tokenizer, self.ids, self.codebooks, self.kind = tokenizer, ids, codebooks, kind
        self.role: list[int] = ids_of(tokenizer, ROLE)
        turns = [token_id(tokenizer, token) for token in ("<|im_start|>", "<|im_end|>")]
        self.control = {*turns, ids.tts_pad, ids.tts_bos, ids.tts_eos}

    def __call__(
        self, text: str, speaker: str = "", language: str = "auto", instruction: str = "",
        reference: Example | None = None, streaming: bool = False,
    ) -> Layout:
        """`speaker` names the row of a custom voice; a base hears the vector that comes with the layout instead.
        `reference`: an utterance of the voice, whose text and codes are read (upstream's in-context cloning).

        UserError for a text that is empty or holds a control token, which would end its turn, and for a language or a
        speaker that the network does not know.
        """
        ids, pad = self.ids, self.ids.tts_pad
        spoken = ids.language(language, speaker)
        head = [ids.nothink, ids.think_bos] if spoken is None else [ids.think, ids.think_bos, spoken]
        head += [ids.think_eos, *self._who(speaker), ids.pad]
        role, words = self._turn(ROLE, text)
        frames = torch.zeros(0, self.codebooks, dtype=torch.int64)
        if reference:
            words = self._turn(ROLE, reference.text)[1] + words
            frames = torch.from_numpy(reference.codes).long()
        before = [*self._instruction(instruction), *role]
        words = [*words, ids.tts_eos]
        start = torch.cat([self._first([ids.bos]), frames])  # what streamed words are added to
        if streaming:
            along, words = words[: len(start)], words[len(start) :]
            body, codec = along + [pad] * (len(start) - len(along)), start
        else:
            body, codec = words + [pad] * len(start), torch.cat([self._first([ids.pad] * len(words)), start])
            words = []
        channel = [*before, *[pad] * (len(head) - 1), ids.tts_bos, *body]
        return Layout(torch.tensor(channel), torch.cat([self._first([NOTHING] * len(before) + head), codec]), words)

    def _turn(self, role: str, text: str) -> tuple[list[int], list[int]]:
        """Ids of the role and of the text, tokenised as one: line breaks that the text begins with join the role's."""
        ids, length = ids_of(self.tokenizer, role + clean(self.tokenizer, text)), len(self.role)
        return ids[:length], readable(self.tokenizer, text, ids[length:], self.control)

    def _instruction(self, text: str) -> list[int]:
        if not text:
            return []
        role, words = self._turn(INSTRUCTION, text)
        return [*role, *words, *ids_of(self.tokenizer, END)]

    def _who(self, speaker: str) -> list[int]:
        if self.kind == CUSTOM:
            return [self.ids.row_of(speaker)]
        return [self.ids.speaker] if self.kind == BASE else []

    def _first(self, codes: list[int]) -> torch.Tensor:
        """Positions (N, K) that have a token of codebook 0 alone."""
        positions = torch.full((len(codes), self.codebooks), NOTHING)
        positions[:, 0] = torch.tensor(codes, dtype=torch.int64)
        return positions
