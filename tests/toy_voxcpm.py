"""A toy VoxCPM: every part of a released one, a few thousand weights, nothing learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from models.parts.family import Example
from models.released import formula
from models.voxcpm.config import VoxCPMConfig
from models.voxcpm.network import VoxCPMNetwork
from tests.characters import character_tokenizer
from tests.family_checks import utterances

PATCH, LATENT = 2, 6
FRAME = PATCH * LATENT
CONFIG: dict[str, Any] = {
    "architecture": "voxcpm",
    "lm_config": {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 80, "use_mup": False,
        "rope_scaling": {
            "type": "longrope", "short_factor": [1.0, 1.5, 3.0, 8.0], "long_factor": [1.0, 2.0, 5.0, 20.0],
            "original_max_position_embeddings": 512,
        },
    },
    "patch_size": PATCH, "feat_dim": LATENT, "residual_lm_num_layers": 1,
    "scalar_quantization_latent_dim": 12, "scalar_quantization_scale": 9,
    "encoder_config": {"hidden_dim": 24, "ffn_dim": 40, "num_heads": 4, "num_layers": 1, "kv_channels": 8},
    "dit_config": {"hidden_dim": 24, "ffn_dim": 40, "num_heads": 4, "num_layers": 2, "kv_channels": 8},
    "max_length": 512, "audio_start_token": 0,
}  # fmt: skip


def network() -> VoxCPMNetwork:
    """Untrained, by formula, with a stop that comes now and then."""
    made = VoxCPMNetwork(VoxCPMConfig(CONFIG), character_tokenizer(["<|audio_start|>"]))
    formula.fill(made)
    made.stop_head.weight.data.mul_(4)
    return made.eval()


def folder(path: Path) -> Path:
    """A weights folder with that network."""
    network().save(path)
    return path


def examples(count: int = 3, seed: int = 5) -> list[Example]:
    return utterances(lambda random, frames: random.standard_normal((frames, FRAME), np.float32), count, seed)
