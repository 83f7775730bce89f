"""A released Qwen3-TTS in small: the golden fixtures' network and vocabulary in a released folder's files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from models import formula
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


# The ten fields of the released generation_config.json, which upstream reads and we do not: params.yaml says how to draw.
GENERATION = {
    "do_sample": True, "repetition_penalty": 1.05, "temperature": 0.9, "top_p": 1.0, "top_k": 50,
    "subtalker_dosample": True, "subtalker_temperature": 0.9, "subtalker_top_p": 1.0, "subtalker_top_k": 50,
    "max_new_tokens": 8192,
}  # fmt: skip


def folder(path: Path, kind: str = "base", dtype: torch.dtype = torch.float32) -> Path:
    """The main folder of a release: everything but the codec's."""
    network = Qwen3TTSNetwork(config(kind))
    formula.fill(network, TALKER["after_fill"])
    path.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.to(dtype).contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(config(kind)))
    (path / "generation_config.json").write_text(json.dumps(GENERATION))
    (path / "preprocessor_config.json").write_text('{"processor_class": "Qwen3TTSProcessor"}')
    for file in (GOLDEN / "tokenizer").iterdir():
        shutil.copy(file, path)
    return path
