"""Checkpoints: what `train` leaves for `gate`, and the state that lets a killed run go on.

All of it is safetensors and JSON. Nothing here deletes a finished checkpoint: the best one is never known before
somebody has listened.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Family
from stages.common.files import read_json
from stages.common.params import FamilyParams, TrainParams

ADAPTER = "adapter.safetensors"
BASE = "base"


def checkpoint_name(epoch: int) -> str:
    return f"epoch-{epoch:02d}" if epoch else BASE


def adapt_settings(train: TrainParams) -> AdaptSettings:
    return AdaptSettings(train.mode, train.rank, train.alpha, train.dropout, tuple(train.targets))


def save_adapter(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Write `folder`/adapter.safetensors by rename."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{ADAPTER}.partial"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial)
    partial.rename(folder / ADAPTER)


def load_adapter(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / ADAPTER
    if not path.is_file():
        raise UserError(f"{path}: the checkpoint is missing; run `dvc checkout {folder.parent}` or the train stage")
    return load_file(path)


def read_training(folder: Path) -> dict[str, Any]:
    """train.json of a checkpoints folder: settings, rates, and which epochs there are."""
    path = folder / "train.json"
    if not path.is_file():
        raise UserError(f"{path}: not there; run the train stage")
    training: dict[str, Any] = read_json(path)
    return training


class Checkpoints:
    """What `train` left of a family, as networks. `epochs`: the saved ones by name, "base" (0) first."""

    def __init__(self, family: Family, block: FamilyParams, folder: Path):
        self.family, self.block, self.folder = family, block, folder
        training = read_training(folder)
        self.settings = AdaptSettings(**training["settings"] | {"targets": tuple(training["settings"]["targets"])})
        self.epochs: dict[str, int] = {checkpoint_name(epoch): epoch for epoch in (0, *training["epochs"])}

    def network(self, name: str, scale: float | None = None) -> torch.nn.Module:
        """The base, or the base with the adapter merged at `scale` (None: that of params.yaml), ready to generate on the
        device that computes. UserError for a checkpoint that is not there."""
        if name not in self.epochs:
            raise UserError(f"{self.folder}: there is no checkpoint {name}; there are {', '.join(self.epochs)}")
        where = getattr(torch, self.block.dtype), "cuda" if torch.cuda.is_available() else "cpu"
        if name == BASE:
            return self.family.network(self.block.weights, *where)
        state = load_adapter(self.folder / name)
        return self.family.merged(self.block.weights, state, self.settings, self.block.scale if scale is None else scale, *where)


class ResumeState:
    """Trainable weights, AdamW's moments, the random state and the place in the run, in one safetensors file."""

    def __init__(self, path: Path):
        self.path = path

    def save(self, parameters: Iterable[torch.nn.Parameter], optimizer: torch.optim.Optimizer, place: dict[str, Any]) -> None:
        tensors: dict[str, torch.Tensor] = {"rng": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        for index, parameter in enumerate(parameters):
            tensors[f"{index}.weight"] = parameter.detach().cpu().contiguous()
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{index}.{key}"] = value.detach().cpu().contiguous()
        partial = self.path.with_suffix(".partial")
        save_file(tensors, partial, metadata={"place": json.dumps(place)})
        partial.rename(self.path)

    def load(self, parameters: Iterable[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Put everything back; returns the place, or None when there is nothing to go on from."""
        if not self.path.is_file():
            return None
        with safe_open(self.path, "pt") as file:
            place: dict[str, Any] = json.loads(file.metadata()["place"])
        tensors = load_file(self.path)
        torch.set_rng_state(tensors["rng"])
        if "rng.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["rng.cuda"])
        with torch.no_grad():
            for index, parameter in enumerate(parameters):
                parameter.copy_(tensors[f"{index}.weight"])
                moments = {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{index}.") and key != f"{index}.weight"}
                if moments:
                    optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in moments.items()}
        return place
