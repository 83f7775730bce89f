"""The two channels before the speech, in training and in generation: upstream's non-streaming layout, language "auto".

    text    role tokens | pad  pad  pad  pad | bos |  text … | eos | pad |
    codec        -      | nothink think_bos think_eos SPEAKER | pad |  pad … | pad | bos |  then the frames

Every position is the sum of both. SPEAKER stands for the speaker's vector (QwenLM/Qwen3-TTS,
qwen_tts/core/models/modeling_qwen3_tts.py and finetuning/dataset.py).
"""

from __future__ import annotations

from tokenizers import Tokenizer

from models.parts.text import text_ids, token_id
from models.qwen3_tts.config import Ids

NOTHING = -1  # no token of this channel, so no embedding
ROLE = "<|im_start|>assistant\n"


class Prompt:
    """Text to (text ids, ids of codebook 0), both as long as the prompt. No text may hold a token of `control`."""

    def __init__(self, tokenizer: Tokenizer, ids: Ids):
        self.tokenizer, self.ids = tokenizer, ids
        self.role: list[int] = tokenizer.encode(ROLE, add_special_tokens=False).ids
        turns = [token_id(tokenizer, token) for token in ("<|im_start|>", "<|im_end|>")]
        self.control = {*turns, ids.tts_pad, ids.tts_bos, ids.tts_eos}

    def __call__(self, text: str) -> tuple[list[int], list[int]]:
        """UserError for a text that is empty or holds a control token, which would end its turn."""
        ids, tokens = self.ids, text_ids(self.tokenizer, text, self.control)
        head = [ids.nothink, ids.think_bos, ids.think_eos, ids.speaker]
        words = [*self.role, *[ids.tts_pad] * len(head), ids.tts_bos, *tokens, ids.tts_eos, ids.tts_pad]
        codec = [*[NOTHING] * len(self.role), *head, ids.pad, *[ids.pad] * (len(tokens) + 1), ids.bos]
        return words, codec
