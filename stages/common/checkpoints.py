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
from models.parts.precision import compute_device
from stages.common.params import FamilyParams, TrainParams
from stages.common.training import ADAPTER, BASE, adapter_file, checkpoint_name, read_training


def adapt_settings(train: TrainParams) -> AdaptSettings:
    return AdaptSettings(train.mode, train.rank, train.alpha, train.dropout, tuple(train.targets), tuple(train.parts))


def save_adapter(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Write `folder`/adapter.safetensors by rename."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{ADAPTER}.partial"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial)
    partial.rename(folder / ADAPTER)


def load_adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter_file(folder))


class Checkpoints:
    """What `train` left of a family, as networks. `epochs`: the saved ones by name, "base" (0) first."""

    def __init__(self, family: Family, block: FamilyParams, folder: Path):
        self.family, self.block, self.folder = family, block, folder
        training = read_training(folder)
        settings: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in training["settings"].items()}
        self.settings = AdaptSettings(**settings)
        self.epochs: dict[str, int] = {checkpoint_name(epoch): epoch for epoch in (0, *training["epochs"])}

    def at_scale(self, name: str) -> tuple[str, float | None]:
        """The checkpoint and the scale of "epoch-04@0.5"; without one it is the first of params.yaml. The base has none.

        UserError for a checkpoint that is not there.
        """
        checkpoint, _, scale = name.partition("@")
        if checkpoint not in self.epochs:
            raise UserError(f"{self.folder}: there is no checkpoint {checkpoint}; there are {', '.join(self.epochs)}")
        if checkpoint == BASE:
            return checkpoint, None
        try:
            return checkpoint, float(scale) if scale else self.block.scales[0]
        except ValueError:
            raise UserError(f"{name}: {scale!r} is no scale; write it like {checkpoint}@0.5") from None

    def network(self, name: str) -> torch.nn.Module:
        """The base, or the base with an adapter merged at its scale, ready to generate on the device that computes."""
        checkpoint, scale = self.at_scale(name)
        where = self.block.torch_dtype, compute_device()
        if scale is None:
            return self.family.network(self.block.weights, *where)
        return self.family.merged(self.block.weights, load_adapter(self.folder / checkpoint), self.settings, scale, *where)


class ResumeState:
    """Trainable weights, AdamW's moments, the random state and the place in the run, in one safetensors file."""

    def __init__(self, path: Path):
        self.path = path

    def save(self, parameters: Iterable[torch.nn.Parameter], optimizer: torch.optim.Optimizer, place: dict[str, Any]) -> None:
        tensors: dict[str, torch.Tensor] = {"rng": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        for index, parameter in enumerate(parameters):
            tensors[f"{index}.weight"] = self.whole(parameter.detach()).cpu().contiguous()
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{index}.{key}"] = self.whole(value.detach()).cpu().contiguous()
        self.write(tensors, place)

    def write(self, tensors: dict[str, torch.Tensor], place: dict[str, Any]) -> None:
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
                parameter.copy_(self.part(tensors[f"{index}.weight"], parameter))
                moments = {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{index}.") and key != f"{index}.weight"}
                if moments:
                    optimizer.state[parameter] = {k: v if k == "step" else self.part(v, parameter) for k, v in moments.items()}
        return place

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """What is written of a tensor, where several processes hold it together."""
        return tensor

    def part(self, tensor: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor:
        """What this process holds of a tensor that is as large as `parameter`."""
        return tensor.to(parameter.device)
