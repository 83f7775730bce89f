"""The fixtures of tests/golden/: what a released system's own code gave on weights by formula."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> tuple[dict[str, Any], Any]:
    """`family/NAME`: what was run, and its arrays by name."""
    return json.loads((GOLDEN / f"{name}.json").read_text()), np.load(GOLDEN / f"{name}.npz")


def wave(pcm: np.ndarray) -> np.ndarray:
    return pcm.astype(np.float32) / 32768


def outputs(modules: dict[str, nn.Module]) -> dict[str, np.ndarray]:
    """What each module gives, by name, as soon as it has run."""
    seen: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: torch.Tensor) -> None:
            seen[name] = output.detach().numpy().copy()  # a later step may work in place

        return hook

    for name, module in modules.items():
        module.register_forward_hook(keep(name))
    return seen
