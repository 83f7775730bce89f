"""Gradient checkpointing: blocks forget what is inside them and compute it again in the backward pass."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def checkpoint_gradients(network: nn.Module) -> None:
    """Switch it on, in training mode, for every block of every transformer: transformers' blocks are of this kind, and so
    are ours."""
    for module in network.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.gradient_checkpointing = True
            # Non-reentrant: the reentrant kind drops the gradient of every adapter when the input needs none.
            module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]
