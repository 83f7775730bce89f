"""Full fine-tuning (SFT) or LoRA. SFT is the same for every family; LoRA is its framework's business."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Family


class AdaptedFamily(Family):
    """A family that says how its LoRA goes on, is stored and is merged."""

    def frozen(self, network: nn.Module) -> Sequence[nn.Module]:
        """What SFT leaves as it is."""
        return ()

    @abstractmethod
    def add_lora(self, network: nn.Module, settings: AdaptSettings) -> None:
        """Put fresh LoRA layers into `network`, in place; nothing else stays trainable."""

    @abstractmethod
    def lora_state(self, network: nn.Module) -> dict[str, torch.Tensor]:
        """The adapter's tensors alone, on the CPU."""

    @abstractmethod
    def merge_lora(
        self, network: nn.Module, state: dict[str, torch.Tensor], settings: AdaptSettings, scale: float
    ) -> None:
        """Put `scale` × the adapter into the weights of a plain `network`, in place."""

    def adapt(self, network: nn.Module, settings: AdaptSettings) -> nn.Module:
        network.requires_grad_(settings.mode == "sft")
        if settings.mode == "sft":
            for module in self.frozen(network):
                module.requires_grad_(False)
        else:
            self.add_lora(network, settings)
        return network

    def adapter_state(self, network: nn.Module, settings: AdaptSettings) -> dict[str, torch.Tensor]:
        if settings.mode == "sft":
            return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        return self.lora_state(network)

    def merged(
        self, weights: Path, state: dict[str, torch.Tensor], settings: AdaptSettings, scale: float,
        dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    ) -> nn.Module:  # fmt: skip
        network = self.network_to_train(weights, settings, dtype, device)
        if settings.mode == "sft":
            blend(network, state, scale)
        else:
            self.merge_lora(network, state, settings, scale)
        return network.requires_grad_(False).eval()


@torch.no_grad()
def blend(network: nn.Module, tuned: Mapping[str, torch.Tensor], scale: float) -> None:
    """Base + `scale` × (tuned − base), in place, tensor by tensor in float32."""
    base = network.state_dict()
    if set(base) != set(tuned):
        raise UserError(f"checkpoint: {len(set(base) ^ set(tuned))} keys differ from the base's; it belongs to other weights")
    for name, tensor in base.items():
        start = tensor.float()
        tensor.copy_(start + scale * (tuned[name].to(start) - start))
