"""Weights on disk: safetensors alone (no pickle is ever loaded), half precision on disk, float32 in memory."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.parts.errors import UserError


def read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: not there; tiny bases come with the repository (`make bases` rebuilds them), released weights go into the folder that params.yaml names")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}); restore the file") from None
    return config


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a safetensors file; floating ones as float32."""
    if not path.is_file():
        raise UserError(f"{path}: weights are missing; tiny bases come with the repository (`make bases` rebuilds them)")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error}); restore or download it again") from None
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def load_into(module: torch.nn.Module, path: Path) -> None:
    """Load a file strictly: a missing or an unexpected key is named, never skipped."""
    load_state(module, read_tensors(path), path)


def load_state(module: torch.nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load tensors by the module's own names, as strictly; `path` is where they came from."""
    wanted = module.state_dict()
    missing, unexpected = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or unexpected:
        raise UserError(f"{path}: keys do not fit the network: missing {missing[:3]}, unexpected {unexpected[:3]}; these are other weights than config.json says")
    wrong = [name for name in wanted if wanted[name].shape != state[name].shape]
    if wrong:
        name = wrong[0]
        raise UserError(f"{path}: {name} is {tuple(state[name].shape)}, config.json makes it {tuple(wanted[name].shape)}; use the config.json that came with the weights")
    module.load_state_dict(state)


def save_half(module: torch.nn.Module, path: Path) -> None:
    """The module's weights in half precision, for the tiny bases in git."""
    save_half_state(module.state_dict(), path)


def save_half_state(state: dict[str, torch.Tensor], path: Path) -> None:
    """Tensors in half precision, by the names that they have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {name: t.half().contiguous() if t.is_floating_point() else t.contiguous() for name, t in state.items()}
    save_file(half, path, metadata={"format": "pt"})


def sha256_of(*files: Path) -> str:
    """One hash of several files, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
