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


class Embedding(loralib.Embedding):  # type: ignore[misc]
    """The same beside a table."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        result = F.embedding(ids, self.weight)
        return result + (F.embedding(ids, self.lora_A.T) @ self.lora_B.T * self.scaling).to(result.dtype)


def wrap(network: nn.Module, names: Iterable[str], rank: int, alpha: float, dropout: float) -> None:
    """Replace the `nn.Linear` and `nn.Embedding` modules `names` by LoRA layers around the same weights; only the adapter stays trainable.

    The pretrained weight itself moves over (a layer built anew would be random: fishaudio/fish-speech issue 1163).
    """
    for name in names:
        old = network.get_submodule(name)
        settings = {"r": rank, "lora_alpha": alpha, "merge_weights": False, "device": old.weight.device}
        if isinstance(old, nn.Embedding):
            layer = Embedding(old.num_embeddings, old.embedding_dim, **settings)
        else:
            assert isinstance(old, nn.Linear)
            layer = Linear(old.in_features, old.out_features, bias=old.bias is not None, lora_dropout=dropout, **settings)
            layer.bias = old.bias
        layer.weight = old.weight
        layer.train(old.training)
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, layer)
    loralib.mark_only_lora_as_trainable(network)


def adapter_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """The adapter's tensors (`<layer>.lora_A`, `<layer>.lora_B`), float32 copies on the CPU."""
    return {key: value.detach().float().cpu().clone() for key, value in loralib.lora_state_dict(network).items()}


@torch.no_grad()
def merge(network: nn.Module, state: dict[str, torch.Tensor], names: Iterable[str], scaling: float) -> None:
    """Add `scaling` × B·A (of a table its transpose) to the weight of every layer in `names`, in float32. `network` is a plain base.

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
        added = high @ low
        added = added.T if isinstance(network.get_submodule(name), nn.Embedding) else added
        if added.shape != weight.shape:
            raise UserError(f"adapter: {name} does not fit the base's weights; was it trained on another base?")
        weight.copy_(weight.float() + scaling * added)
