"""A toy Fish S2: every part of a released one, a few thousand weights, nothing learnt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.fish_s2.config import FishConfig
from models.fish_s2.network import FishNetwork
from models.parts.family import Example
from tests.characters import character_tokenizer
from tests.family_checks import utterances

SEMANTIC, RESIDUAL, CODEBOOKS = 24, 16, 4
CONTROL = ["<|im_start|>", "<|im_end|>", "<|voice|>"]
CONFIG = FishConfig(
    vocab_size=80, dim=32, n_layer=2, n_head=4, n_local_heads=2, head_dim=8, intermediate_size=48,
    codebook_size=SEMANTIC, num_codebooks=CODEBOOKS,
    semantic_begin_id=len(CONTROL), semantic_end_id=len(CONTROL) + SEMANTIC - 1,
    max_seq_len=512, attention_qk_norm=True,
    n_fast_layer=2, fast_dim=24, fast_n_head=3, fast_n_local_heads=1, fast_attention_qk_norm=False,
)


def network(seed: int = 1, **changes: Any) -> FishNetwork:
    """Untrained, with weights so large that its distributions are far from uniform."""
    tokenizer = character_tokenizer([*CONTROL, *(f"<|semantic:{entry}|>" for entry in range(SEMANTIC))])
    made = FishNetwork.new(replace(CONFIG, **changes), tokenizer, seed)
    for name, parameter in made.named_parameters():
        if "norm" not in name:
            parameter.data.mul_(12)
    return made.eval()


def folder(path: Path, **changes: Any) -> Path:
    """A weights folder with that network."""
    network(**changes).save(path)
    return path


def examples(count: int = 3, seed: int = 5) -> list[Example]:
    return utterances(lambda random, frames: random.integers(0, RESIDUAL, (frames, CODEBOOKS), np.int32), count, seed)
