"""LoRA through PEFT, for networks on transformers' blocks.

The trunk is wrapped in place (`get_peft_model` on the Qwen2 model); embeddings and heads outside it stay frozen.
Merging starts from the saved base in float32, never from a live training model. PEFT is loaded where it is used: that takes
a second, and tokenising needs none of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from models.parts.adapting import AdaptedFamily
from models.parts.errors import UserError
from models.parts.family import AdaptSettings

ADAPTER = "default"  # PEFT's name for the only one


def adapt(trunk: torch.nn.Module, settings: AdaptSettings) -> None:
    """Freeze `trunk` and put fresh LoRA layers (B = 0: the output stays) into its modules named by `settings.targets`:
    last parts of their names, or whole names."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import cast_adapter_dtype

    linear = {name: module for name, module in trunk.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)}
    unknown = sorted(t for t in set(settings.targets) if not any(f".{name}".endswith(f".{t}") for name in linear))
    if unknown or not settings.targets:
        # PEFT is silent when only some of the names match; a fused name from another framework trains half of what it says.
        known = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise UserError(f"params.yaml: train.targets: no linear layer is called {', '.join(unknown) or '(empty)'}; there are {', '.join(known)}")
    first = next(module for name, module in linear.items() if f".{name}".endswith(f".{settings.targets[0]}"))
    trunk.requires_grad_(False)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a float works and is what PEFT computes with
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets), bias="none",
        fan_in_fan_out=isinstance(first, Conv1D),  # GPT-2 keeps its matrices transposed
    )
    inject_adapter_in_model(config, trunk)
    cast_adapter_dtype(trunk, ADAPTER)  # from the base's precision to float32


def state(trunk: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The adapter's tensors alone, on the CPU."""
    from peft.utils import get_peft_model_state_dict

    return {name: tensor.detach().cpu().contiguous() for name, tensor in get_peft_model_state_dict(trunk).items()}


def merge(trunk: torch.nn.Module, adapter: Mapping[str, torch.Tensor], settings: AdaptSettings, scale: float) -> None:
    """Put `scale` × the adapter into the weights of a plain `trunk`, in place, and drop the LoRA layers."""
    from peft.utils import set_peft_model_state_dict

    plain = {name for name, _ in trunk.named_parameters()}
    adapt(trunk, settings)
    result: Any = set_peft_model_state_dict(trunk, dict(adapter))
    if result.unexpected_keys or set(state(trunk)) != set(adapter):
        raise UserError("adapter: its tensors do not fit train.rank and train.targets of params.yaml; judge it with the settings that it was trained with")
    for name, module in list(trunk.named_modules()):
        if hasattr(module, "base_layer") and hasattr(module, "merge"):
            for key in module.scaling:
                module.scaling[key] *= scale
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(trunk.get_submodule(parent) if parent else trunk, child, module.get_base_layer())
    assert {name for name, _ in trunk.named_parameters()} == plain


class PeftFamily(AdaptedFamily):
    """A family that PEFT adapts."""

    def wrapped(self, network: torch.nn.Module) -> torch.nn.Module:
        """The part of `network` that gets the LoRA layers."""
        return network

    def add_lora(self, network: torch.nn.Module, settings: AdaptSettings) -> None:
        adapt(self.wrapped(network), settings)

    def lora_state(self, network: torch.nn.Module) -> dict[str, torch.Tensor]:
        return state(self.wrapped(network))

    def merge_lora(
        self, network: torch.nn.Module, state: dict[str, torch.Tensor], settings: AdaptSettings, scale: float
    ) -> None:
        merge(self.wrapped(network), state, settings, scale)
