"""Weights by formula: the same tensors in every implementation, from key names and shapes alone.

The golden fixtures hold inputs and outputs of the released systems on these weights; `make rehearse` writes small
releases with them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from models.parts.errors import UserError

_BIASES = ("running_mean", "bias", "beta")
_GAINS = ("weight_g", "original0", "gamma", "alpha", "scale", "weight_norm")


def tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 array of `shape` for `key`: matrices keep loudness, gains lie around 1, biases around 0."""
    x = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape, dtype=np.float32)
    last = key.rsplit(".", 1)[-1]
    if last == "running_var":
        return 1 + 0.1 * np.abs(x)
    if last in _BIASES:
        return 0.02 * x
    if last in _GAINS or len(shape) <= 1:
        return 1 + 0.1 * x
    x *= float(np.prod(shape[1:])) ** -0.5
    return x


def value(key: str, shape: tuple[int, ...], rules: Sequence[Mapping[str, Any]] = ()) -> torch.Tensor:
    """`tensor`, float32, after `rules`: value × `mul` + `add` where the expression `keys` matches the whole key; of one
    `row` alone where one is named."""
    made = torch.from_numpy(np.ascontiguousarray(tensor(key, shape))).reshape(shape)
    for rule in rules:
        if re.fullmatch(rule["keys"], key):
            part = made[rule["row"]] if "row" in rule else made
            part.mul_(rule["mul"]).add_(rule["add"])
    return made


@torch.no_grad()
def fill(module: nn.Module, rules: Sequence[Mapping[str, Any]] = (), kept: Collection[str] = ()) -> None:
    """Set every floating parameter and stored buffer of `module` in place. Keys that end in one of `kept` stay."""
    for key, stored in module.state_dict().items():
        if stored.is_floating_point() and not key.endswith(tuple(kept)):
            stored.copy_(value(key, tuple(stored.shape), rules))


def is_small(size: str) -> bool:
    """Is a release to rehearse with a small one? UserError for a size that there is not."""
    if size not in ("small", "released"):
        raise UserError(f"a rehearsal of size {size!r}: there is small and released")
    return size == "small"
