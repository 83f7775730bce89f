"""Tensors of a release by name: `make weights` turns its pickles into safetensors, and an export has upstream's pickles again."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from models.parts.errors import UserError
from models.parts.weights import map_tensors, read_shapes

PICKLES = (".pt", ".pth", ".bin")
ALONE = "tensor"  # the name of a tensor that has a file to itself


def stored(weights: Path, name: str) -> Path:
    """Where the tensors of a release's file `name` stand in `weights`."""
    path = weights / name
    return path if path.is_file() or path.suffix not in PICKLES else path.with_suffix(".safetensors")


def read_stored(path: Path) -> dict[str, torch.Tensor]:
    """Nested dictionaries as dotted names, mapped into memory. An export's pickle was written by us and holds nothing but tensors; nothing in it is run."""
    if path.suffix not in PICKLES:
        return map_tensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: can't be read as tensors ({type(error).__name__}); export it again") from None
    return dict(_flat(content, ""))


def outlines(path: Path) -> dict[str, torch.Tensor]:
    """What `read_stored` would give of a safetensors file, without its memory: on the device "meta". Nothing but the header is read."""
    return {name: torch.empty(shape, device="meta") for name, shape in read_shapes(path).items()}


def _flat(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    else:
        yield name or ALONE, value
