"""Gradient checkpointing: blocks forget what is inside them and compute it again in the backward pass."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.attention import _cur_sdpa_kernel_backends, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def blocks(network: nn.Module) -> list[GradientCheckpointingLayer]:
    """Every block of every transformer: transformers' blocks are of this kind, and so are ours."""
    return [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]


def checkpoint_gradients(network: nn.Module) -> None:
    """Switch it on, in training mode, for every block."""
    for block in blocks(network):
        block.gradient_checkpointing = True
        # Non-reentrant: the reentrant kind drops the gradient of every adapter when the input needs none.
        again = partial(checkpoint, use_reentrant=False, context_fn=_with_the_same_attention)
        block._gradient_checkpointing_func = again  # type: ignore[assignment]


def _with_the_same_attention() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """PyTorch remembers autocast and random numbers of the first pass, but not which attention kernels were allowed."""
    return nullcontext(), sdpa_kernel(_cur_sdpa_kernel_backends())
