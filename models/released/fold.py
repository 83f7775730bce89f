"""Weight norm, as it is stored: a magnitude and a direction for each weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize


def fold(module: nn.Module) -> None:
    """Make every stored magnitude and direction in `module` one plain weight, once, instead of in every pass."""
    for part in list(module.modules()):
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight")


def folded(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same for tensors by torch's older names, `weight_g` and `weight_v`, for modules that know plain weights alone."""
    found = {}
    for name, tensor in state.items():
        gain = state.get(f"{name.removesuffix('_v')}_g")
        if name.endswith("weight_v") and gain is not None:
            found[name.removesuffix("_v")] = tensor * (gain / torch.norm_except_dim(tensor))
        elif not (name.endswith("weight_g") and f"{name.removesuffix('_g')}_v" in state):
            found[name] = tensor
    return found
