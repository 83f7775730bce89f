"""LoRA through loralib: wrap linear layers, take the adapter out, merge it into a saved base.

loralib by itself merges the adapter into the weights at `eval()` and takes it out again at `train()`. In half precision
that alters the frozen base, so here the live network is never merged (`merge_weights=False`): validation runs base
plus adapter, and merging happens once, in float32, on a base read from its file.
"""

from __future__ import annotations

from collections.abc import Iterable

import loralib
import torch
from torch import nn
from torch.nn import functional as F

from models.parts.errors import UserError


class Linear(loralib.Linear):  # type: ignore[misc]
    """A float32 adapter beside a weight of any precision, whose output keeps its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = F.linear(x, self.weight, self.bias)
        low = self.lora_dropout(x).to(self.lora_A.dtype) @ self.lora_A.T
        return result + (low @ self.lora_B.T * self.scaling).to(result.dtype)


def wrap(network: nn.Module, names: Iterable[str], rank: int, alpha: float, dropout: float) -> None:
    """Replace the `nn.Linear` modules `names` by LoRA layers around the same weights; only the adapter stays trainable.

    The pretrained weight itself moves over (a layer built anew would be random: fishaudio/fish-speech issue 1163).
    """
    for name in names:
        linear = network.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        layer = Linear(
            linear.in_features, linear.out_features, bias=linear.bias is not None,
            r=rank, lora_alpha=alpha, lora_dropout=dropout, merge_weights=False,
            device=linear.weight.device,
        )
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.train(linear.training)
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, layer)
    loralib.mark_only_lora_as_trainable(network)


def adapter_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """The adapter's tensors (`<layer>.lora_A`, `<layer>.lora_B`), float32 copies on the CPU."""
    return {key: value.detach().float().cpu().clone() for key, value in loralib.lora_state_dict(network).items()}


@torch.no_grad()
def merge(network: nn.Module, state: dict[str, torch.Tensor], names: Iterable[str], scaling: float) -> None:
    """Add `scaling` × B·A to the weight of every layer in `names`, in float32. `network` is a plain base.

    UserError when `state` is not the adapter of exactly these layers.
    """
    names = list(names)
    expected = {f"{name}.{part}" for name in names for part in ("lora_A", "lora_B")}
    if wrong := sorted(expected ^ state.keys()):
        raise UserError(
            f"adapter: {wrong[0]} is {'missing' if wrong[0] in expected else 'not one of the targets'}; "
            "was it trained with other targets? Run its train stage again"
        )
    for name in names:
        weight = network.get_parameter(f"{name}.weight")
        low, high = (state[f"{name}.{part}"].to(weight.device, torch.float32) for part in ("lora_A", "lora_B"))
        if (high.shape[0], low.shape[1]) != weight.shape:
            raise UserError(f"adapter: {name} does not fit the base's weights; was it trained on another base?")
        weight.copy_(weight.float() + scaling * (high @ low))
