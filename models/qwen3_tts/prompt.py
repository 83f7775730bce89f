"""The two channels before the speech, in training and in generation: upstream's non-streaming layout, language "auto".

    text    role tokens | pad  pad  pad  pad | bos |  text … | eos | pad |
    codec        -      | nothink think_bos think_eos SPEAKER | pad |  pad … | pad | bos |  then the frames

Every position is the sum of both. SPEAKER stands for the speaker's vector (QwenLM/Qwen3-TTS,
qwen_tts/core/models/modeling_qwen3_tts.py and finetuning/dataset.py).
"""

from __future__ import annotations

from tokenizers import Tokenizer

from models.parts.errors import UserError
from models.parts.text import clean
from models.qwen3_tts.config import Ids

NOTHING = -1  # no token of this channel, so no embedding
ROLE = "<|im_start|>assistant\n"


class Prompt:
    """Text to (text ids, ids of codebook 0), both as long as the prompt. No text may hold a token of `control`."""

    def __init__(self, tokenizer: Tokenizer, ids: Ids):
        self.tokenizer, self.ids = tokenizer, ids
        self.role = self._encode(ROLE)
        named = {token: tokenizer.token_to_id(token) for token in ("<|im_start|>", "<|im_end|>")}
        for token, number in named.items():
            if number is None:
                raise UserError(f"tokenizer: no token {token}; restore the files that came with the weights")
        self.control = {*named.values(), ids.tts_pad, ids.tts_bos, ids.tts_eos}

    def __call__(self, text: str) -> tuple[list[int], list[int]]:
        """UserError for a text that is empty or holds a control token, which would end its turn."""
        ids, tokens = self.ids, self._encode(clean(text))
        if not tokens:
            raise UserError(f"text {text!r}: nothing to say; leave it out, or write it in words")
        for token in tokens:
            if token in self.control:
                control = self.tokenizer.id_to_token(token)
                raise UserError(f"text {text!r}: {control} is a control token and can't be read out; take it out")
        head = [ids.nothink, ids.think_bos, ids.think_eos, ids.speaker]
        words = [*self.role, *[ids.tts_pad] * len(head), ids.tts_bos, *tokens, ids.tts_eos, ids.tts_pad]
        codec = [*[NOTHING] * len(self.role), *head, ids.pad, *[ids.pad] * (len(tokens) + 1), ids.bos]
        return words, codec

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids
