"""What a test may do to a folder of weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[..., object]:
    """`change` the tensors of the file `name`; of what else it is called with, nothing."""

    def apply(folder: Path, *_: object) -> None:
        state = load_file(folder / name)
        change(state)
        save_file(state, folder / name)

    return apply


def field(name: str, path: str, value: object) -> Callable[[Path], object]:
    """Set a field of the JSON file `name`, `a/b` for one inside another; None takes it out."""

    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        *outer, last = path.split("/")
        section = content
        for step in outer:
            section = section[step]
        section.pop(last, None)
        if value is not None:
            section[last] = value
        (folder / name).write_text(json.dumps(content))

    return apply
