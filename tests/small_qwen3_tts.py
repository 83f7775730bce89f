"""A released Qwen3-TTS in small: the golden fixtures' network and vocabulary in a released folder's files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from models.qwen3_tts.network import Qwen3TTSNetwork
from models.qwen3_tts.released import rehearsal
from models.qwen3_tts.released.codec import SpeechTokenizer
from models.qwen3_tts.released.files import FOLDER
from models.released import formula
from tests.golden_fixtures import GOLDEN, golden

TALKER, _ = golden("qwen3_tts/talker")
CODEC, _ = golden("qwen3_tts/codec_encode")


def config(kind: str = "base") -> dict[str, Any]:
    """The fixtures' configuration for weights of this tts_model_type."""
    whole = TALKER["config"] | {"model_type": "qwen3_tts", "tts_model_type": kind}
    if kind == "custom_voice":
        whole["talker_config"] = whole["talker_config"] | TALKER["custom_voice_differs_in"]["talker_config"]
    return whole


def folder(path: Path, kind: str = "base", dtype: torch.dtype = torch.float32) -> Path:
    """A release of this tts_model_type; `dtype` is that of the main file."""
    (path / FOLDER).mkdir(parents=True)
    for file in [*rehearsal.TEMPLATE.rglob("*.json"), *(GOLDEN / "qwen3_tts/tokenizer").iterdir()]:
        inside = file.relative_to(rehearsal.TEMPLATE) if rehearsal.TEMPLATE in file.parents else file.name
        shutil.copy(file, path / inside)
    network, codec = Qwen3TTSNetwork(config(kind)), SpeechTokenizer(CODEC["config"], path)
    _write(path, network.to(dtype), TALKER["after_fill"], config(kind))
    _write(path / FOLDER, codec, CODEC["after_fill"], CODEC["config"])
    return path


def _write(path: Path, module: nn.Module, rules: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    formula.fill(module, rules)
    save_file(module.state_dict(), path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(settings))
