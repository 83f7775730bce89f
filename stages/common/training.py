"""What `train` says of the checkpoints that it left; read without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.parts.errors import UserError
from stages.common.files import read_json

BASE, ADAPTER = "base", "adapter.safetensors"


def checkpoint_name(epoch: int) -> str:
    return f"epoch-{epoch:02d}" if epoch else BASE


def adapter_file(checkpoint: Path) -> Path:
    """The trained weights in a checkpoint's folder; UserError if they are not there."""
    path = checkpoint / ADAPTER
    if not path.is_file():
        raise UserError(f"{path}: the checkpoint is missing; run `dvc checkout {checkpoint}`, or the train stage where it was pruned")
    return path


def read_training(folder: Path) -> dict[str, Any]:
    """train.json of a checkpoints folder: settings, rates, and which epochs there are."""
    path = folder / "train.json"
    if not path.is_file():
        raise UserError(f"{path}: not there; run the train stage")
    training: dict[str, Any] = read_json(path)
    return training
