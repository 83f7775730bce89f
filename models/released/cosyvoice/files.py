"""The files of a release by what they hold, as `make weights` left them, or as they stand in an export."""

from __future__ import annotations

from pathlib import Path

import torch

from models.released.stored import read_stored

LLM, FLOW, HIFT = "llm", "flow", "hift"
SPEAKER = "campplus.onnx"
GENERATOR = "generator."  # before the names of old vocoders


def tokeniser(version: int) -> str:
    return f"speech_tokenizer_v{version}.onnx"


def part(weights: Path, name: str) -> Path:
    """Where the tensors of `name` are: `make weights` turns a release's .pt into safetensors, upstream loads an export's .pt."""
    exported = weights / f"{name}.pt"
    return exported if exported.is_file() else weights / f"{name}.safetensors"


def read_vocoder(path: Path) -> dict[str, torch.Tensor]:
    return {name.removeprefix(GENERATOR): tensor for name, tensor in read_stored(path).items()}
