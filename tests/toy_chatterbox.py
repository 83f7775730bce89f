"""A toy Chatterbox: every part of a released one, a few thousand weights, nothing learnt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.chatterbox.config import T3Config
from models.chatterbox.network import POSITIONS, T3
from models.chatterbox.script import START, STOP
from models.parts.family import AdaptSettings, Example, Voice
from tests.characters import character_tokenizer

CODES, SPEAKER = 40, 6
CONFIG = T3Config(
    llama={
        "vocab_size": 8, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    text_tokens_dict_size=45, start_text_token=1, stop_text_token=0,
    start_speech_token=CODES, stop_speech_token=CODES + 1, speech_tokens_dict_size=CODES + 6,
    max_text_tokens=80, max_speech_tokens=1010, speaker_embed_size=SPEAKER, perceiver_queries=5,
)  # fmt: skip
LORA = AdaptSettings("lora", 4, 8.0, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
SFT = AdaptSettings("sft")
TEXTS = ["Hello.", "Press one, or hold the line for someone.", "No"]


def network(seed: int = 1, **changes: Any) -> T3:
    """Untrained, with weights so large that its distributions are far from uniform."""
    made = T3.new(replace(CONFIG, **changes), character_tokenizer([STOP, START]), seed)
    for name, parameter in made.named_parameters():
        if "norm" not in name and "pre_attention" not in name:
            parameter.data.mul_(3 if "tfmr" in name or "cond_enc" in name else 12)
            if "pos_emb" in name:  # as loud as the tokens
                parameter.data.div_(POSITIONS)
    return made.eval()


def folder(path: Path, **changes: Any) -> Path:
    """A weights folder with that network."""
    network(**changes).save(path)
    return path


def examples(count: int = 3, seed: int = 5) -> list[Example]:
    """Utterances of unequal length; the first has no prompt."""
    random = np.random.default_rng(seed)

    def codes(length: int) -> np.ndarray:
        return random.integers(0, CODES, (length, 1), np.int32)

    return [
        Example(f"utt-{i}", TEXTS[i % 3], "ann", codes(5 + 4 * i), random.normal(size=SPEAKER).astype(np.float32), codes(3 * i))
        for i in range(count)
    ]


def voice(seed: int = 7) -> Voice:
    one, two = examples(2, seed)
    return Voice("ann", one.speaker_embedding, (replace(one, prompt=two.prompt[:0]),))
