"""MiniCPM's transformer on transformers' blocks, causal or both ways."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Cache, GraniteModel, LlamaModel

from models.voxcpm.config import Blocks, VoxCPMConfig

Transformer = LlamaModel | GraniteModel


def transformer(config: VoxCPMConfig, blocks: Blocks, words: int = 0) -> Transformer:
    """With a table of `words`, or without one, as released files have it."""
    built: Any = config.transformer(blocks, words or 1)
    model: Transformer = GraniteModel(built) if config.use_mup else LlamaModel(built)
    if not words:
        model.set_submodule("embed_tokens", nn.Identity())
    return model


def both_ways(model: Transformer, x: torch.Tensor) -> torch.Tensor:
    """(N, L, hidden) to normed hidden states: every position sees all."""
    if not len(x):  # the transformer can't take a batch of nothing
        return x
    everything = x.new_zeros(1, 1, x.shape[1], x.shape[1])
    hidden: torch.Tensor = model(inputs_embeds=x, attention_mask=everything, use_cache=False).last_hidden_state
    return hidden


def causal(
    model: Transformer, x: torch.Tensor, cache: Cache | None = None, mask: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """(B, L, hidden) to normed hidden states; without `mask` (B, filled slots) attention is causal alone."""
    hidden: torch.Tensor = model(
        inputs_embeds=x, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=cache is not None
    ).last_hidden_state
    return hidden
