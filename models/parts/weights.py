"""Weights on disk: safetensors alone (no pickle is ever loaded), half precision on disk, float32 in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

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


def save_base(
    folder: Path, state: dict[str, torch.Tensor], config: dict[str, Any], tokenizer: Tokenizer,
    name: str = "model.safetensors",
) -> None:  # fmt: skip
    """A weights folder: the tensors in half precision, config.json and tokenizer.json."""
    save_half_state(state, folder / name)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))


def draw_weights(network: torch.nn.Module, source: torch.Generator, embeddings: float = 0.02) -> None:
    """Random weights to train from nothing: embeddings of this deviation, linear layers that keep loudness, no biases."""
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=embeddings, generator=source)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.6 * module.in_features**-0.5, generator=source)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_facts(family: str, facts: Iterable[tuple[bool, int, str]]) -> None:
    """UserError for the first fact (does it hold, a count of the network, what is wrong with that) that does not hold."""
    for holds, count, problem in facts:
        if not holds:
            raise UserError(f"{family}: the network has {count} {problem}; use the files that came with its weights")


def sha256_of(*files: Path) -> str:
    """One hash of several files, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
