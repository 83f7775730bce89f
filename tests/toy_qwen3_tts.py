"""A toy Qwen3-TTS: every part of a released one, a few thousand weights, nothing learnt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.parts.family import AdaptSettings, Example, Voice
from models.qwen3_tts import Qwen3TTS
from models.qwen3_tts.network import Qwen3TTSNetwork
from tests.family_checks import utterances

FIRST, RESIDUAL, CODEBOOKS = 24, 16, 4
BLOCK: dict[str, Any] = {
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-6, "rope_theta": 100.0,
    "max_position_embeddings": 256, "num_code_groups": CODEBOOKS, "num_hidden_layers": 2,
}  # fmt: skip
PREDICTOR = BLOCK | {"vocab_size": RESIDUAL, "hidden_size": 24, "intermediate_size": 40}
TALKER = BLOCK | {"codes": FIRST, "hidden_size": 32, "intermediate_size": 48, "text_hidden_size": 20}
SPEAKER = {"kind": "voiceprint", "enc_dim": 32}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA = AdaptSettings("lora", 4, 8.0, 0.0, TARGETS)
SFT = AdaptSettings("sft")


def network(speaker: dict[str, Any] = SPEAKER, **talker: Any) -> Qwen3TTSNetwork:
    """Untrained, with weights so large that its distributions are far from uniform."""
    sizes = TALKER | {"code_predictor_config": PREDICTOR} | talker
    made = Qwen3TTS().create({"talker_config": sizes, "speaker_encoder_config": speaker}, seed=1)
    for name, parameter in made.named_parameters():
        if "norm" not in name:
            parameter.data.mul_(3)
    return made.eval()


def folder(path: Path) -> Path:
    """A weights folder with that network."""
    network().save(path)
    return path


def vector(seed: int) -> np.ndarray:
    """Something like a voiceprint."""
    random = np.random.default_rng(seed)
    mean = [random.normal(-5, 2, 78), random.uniform(1, 3, 1), random.uniform(2, 30, 1)]
    return np.concatenate([*mean, random.uniform(0.5, 2, 80)]).astype(np.float32)


VOICE = Voice("toy", vector(7))


def examples(count: int = 3, seed: int = 5) -> list[Example]:
    made = utterances(lambda random, frames: random.integers(0, RESIDUAL, (frames, CODEBOOKS), np.int32), count, seed)
    return [replace(one, speaker_embedding=vector(index)) for index, one in enumerate(made)]
