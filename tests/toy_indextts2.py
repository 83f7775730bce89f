"""A toy IndexTTS2: every part of a released one, a few thousand weights, nothing learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.indextts2 import IndexTTS2
from models.indextts2.network import UnifiedVoice
from models.parts.family import AdaptSettings, Example, Voice
from models.parts.weights import save_half
from models.small.semantic_codec import SemanticNetwork

CODES, LATENTS, WIDTH, STYLE, POINTS = 24, 4, 32, 160, 12
NETWORK = {
    "codes": CODES, "model_dim": WIDTH, "layers": 2, "heads": 4, "max_mel_tokens": 60, "max_text_tokens": 80,
    "condition_num_latent": LATENTS,
    "condition_module": {"output_size": 8, "linear_units": 16, "attention_heads": 2, "num_blocks": 2, "perceiver_mult": 1},
    "emo_condition_module": {"output_size": 8, "linear_units": 16, "attention_heads": 1, "num_blocks": 1, "perceiver_mult": 1},
    "condition_width": POINTS, "emo_width": 16, "condition_positions": 400, "dropout": 0.1,
}  # fmt: skip
CODEC: dict[str, Any] = {
    "kind": "semantic-flow", "id": "toy-repcodec", "sample_rate": 24000, "output_sample_rate": 22050, "token_rate": 50,
    "codebooks": [CODES], "pca": POINTS, "hop": 441,
    "flow": {"patch": 1, "width": 16, "layers": 1, "heads": 2, "speaker": True, "latents": WIDTH, "steps": 1},
}  # fmt: skip
LORA = AdaptSettings("lora", 4, 8.0, 0.0, ("c_attn", "c_proj", "c_fc"))
SFT = AdaptSettings("sft")


def network(seed: int = 1, **changes: Any) -> UnifiedVoice:
    """Untrained, with weights so large that its distributions are far from uniform."""
    made = IndexTTS2().create(NETWORK | changes, seed)
    for name, parameter in made.named_parameters():
        if "mel_head" in name or "embedding" in name or name.startswith("speed"):
            torch.nn.init.normal_(parameter, std=0.6, generator=torch.Generator().manual_seed(len(name)))
        elif "gpt.h" in name and "weight" in name and "ln" not in name:
            parameter.data.mul_(8)
    return made.eval()


def folder(path: Path) -> Path:
    """A weights folder with that network and a codec."""
    network().save(path)
    torch.manual_seed(3)
    codec = SemanticNetwork(CODEC)
    for tensor in codec.quantiser.buffers():
        tensor.normal_(std=0.5)
    save_half(codec, path / "codec" / "model.safetensors")
    (path / "codec" / "config.json").write_text(json.dumps(CODEC))
    return path


def voice(seed: int = 4) -> Voice:
    random = np.random.default_rng(seed)
    return Voice("toy", random.normal(size=STYLE + (LATENTS + 1) * WIDTH).astype(np.float32))


def utterances(count: int = 3, seed: int = 5) -> list[Example]:
    """As the codec makes them, before they are paired."""
    random = np.random.default_rng(seed)
    return [
        Example(
            f"utt-{index}", "Press one to go home."[: 5 + 5 * index], "toy",
            random.integers(0, CODES, (3 + 4 * index, 1), np.int32), voice(index).speaker_embedding,
        )
        for index in range(count)
    ]  # fmt: skip


def targets(weights: Path, count: int = 3) -> list[Example]:
    return IndexTTS2().prepare(utterances(count), weights)


def noise(seconds: float, seed: int = 1) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=round(24000 * seconds))).astype(np.float32)
