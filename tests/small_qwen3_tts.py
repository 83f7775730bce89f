"""A released Qwen3-TTS in small: the golden fixtures' network and vocabulary in a released folder's files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from models.parts import formula
from models.qwen3_tts.network import Qwen3TTSNetwork

GOLDEN = Path(__file__).parent / "golden/qwen3_tts"
TALKER: dict[str, Any] = json.loads((GOLDEN / "talker.json").read_text("utf-8"))


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def config(kind: str = "base") -> dict[str, Any]:
    """The fixtures' configuration for weights of this tts_model_type."""
    whole = TALKER["config"] | {"tts_model_type": kind}
    if kind == "custom_voice":
        whole["talker_config"] = whole["talker_config"] | TALKER["custom_voice_differs_in"]["talker_config"]
    return whole


def folder(path: Path, kind: str = "base", dtype: torch.dtype = torch.float32) -> Path:
    """The main folder of a release: everything but the codec's."""
    network = Qwen3TTSNetwork(config(kind))
    formula.fill(network, TALKER["after_fill"])
    path.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.to(dtype).contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(config(kind)))
    for file in (GOLDEN / "tokenizer").iterdir():
        shutil.copy(file, path)
    return path
