"""Fish S2's language model: two autoregressive transformers, one along time, one along the codebooks of a frame.

The *slow* transformer reads the text and the frames so far and predicts the semantic code (codebook 0) of the next
frame, or the stop. The *fast* transformer starts from the slow one's hidden state and predicts the frame's residual
codes one after the other. Structure, key names and numerics follow fishaudio/fish-speech,
fish_speech/models/text2semantic/llama.py.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from models.fish_s2.config import FishConfig, read_weights
from models.fish_s2.prompt import Prompt
from models.parts.text import load_tokenizer
from models.parts.weights import load_network, save_base


class Cache:
    """Keys and values of one transformer while it generates: per layer (B, kv heads, length, head_dim)."""

    def __init__(self, config: FishConfig, layers: int, batch: int, length: int, like: torch.Tensor):
        shape = (layers, batch, config.n_local_heads, length, config.head_dim)
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.used = 0  # slots that are filled, in every row

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        end = self.used + key.shape[2]
        self.keys[layer, :, :, self.used : end], self.values[layer, :, :, self.used : end] = key, value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def keep(self, rows: torch.Tensor) -> None:
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


class RMSNorm(nn.Module):
    """Computed in float32 whatever the network's precision, as upstream does."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).type_as(x)


class Attention(nn.Module):
    def __init__(self, config: FishConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.n_head, config.n_local_heads, config.head_dim
        self.wqkv = nn.Linear(config.dim, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=False)
        self.wo = nn.Linear(self.heads * self.head_dim, config.dim, bias=False)
        if config.attention_qk_norm:
            self.q_norm = RMSNorm(self.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(self.head_dim, config.norm_eps)
        self.normed = config.attention_qk_norm

    def forward(
        self, x: torch.Tensor, rope: torch.Tensor, cache: Cache | None, layer: int, mask: torch.Tensor | None
    ) -> torch.Tensor:
        qkv = self.wqkv(x).unflatten(-1, (-1, self.head_dim))
        query, key, value = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=-2)
        if self.normed:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = rotate(query, rope).transpose(1, 2), rotate(key, rope).transpose(1, 2)
        value = value.transpose(1, 2)
        if cache is not None:
            key, value = cache.append(layer, key, value)
        causal = mask is None and query.shape[2] > 1
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=True)
        return self.wo(y.transpose(1, 2).flatten(2))


def rotate(x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    """Rotary positions: neighbouring pairs of x (B, L, heads, head_dim) times the complex rope (B or 1, L, 1, half)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rope).flatten(-2).type_as(x)


class FeedForward(nn.Module):
    def __init__(self, config: FishConfig):
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.intermediate_size, bias=False)
        self.w3 = nn.Linear(config.dim, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(GradientCheckpointingLayer):  # type: ignore[misc]
    def __init__(self, config: FishConfig):
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.dropout = config.dropout

    def forward(
        self, x: torch.Tensor, rope: torch.Tensor, cache: Cache | None, layer: int, mask: torch.Tensor | None
    ) -> torch.Tensor:
        x = x + F.dropout(self.attention(self.attention_norm(x), rope, cache, layer, mask), self.dropout, self.training)
        return x + F.dropout(self.feed_forward(self.ffn_norm(x)), self.dropout, self.training)


class FishNetwork(nn.Module):
    """The whole network. `tokenizer` makes the prompts; without one it can only be counted."""

    rope: torch.Tensor
    fast_rope: torch.Tensor

    def __init__(self, config: FishConfig, tokenizer: Tokenizer | None = None):
        super().__init__()
        self.config = config
        self._prompt = Prompt(tokenizer, config.semantic_begin_id, config.semantic_end_id, config.num_codebooks) if tokenizer else None
        fast = config.fast()
        self.embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.codebook_embeddings = nn.Embedding(config.codebook_size * config.num_codebooks, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.fast_project_in = nn.Linear(config.dim, fast.dim) if fast.dim != config.dim else nn.Identity()
        self.fast_embeddings = nn.Embedding(config.codebook_size, fast.dim)
        self.fast_layers = nn.ModuleList(Block(fast) for _ in range(config.n_fast_layer))
        self.fast_norm = RMSNorm(fast.dim, config.norm_eps)
        self.fast_output = nn.Linear(fast.dim, config.codebook_size, bias=False)
        self.register_buffer("rope", _rope_table(config, config.max_seq_len), persistent=False)
        self.register_buffer("fast_rope", _rope_table(fast, config.num_codebooks), persistent=False)

    # --- slow: along time -----------------------------------------------------------------------------------------
    def slow(
        self, tokens: torch.Tensor, codes: torch.Tensor, positions: torch.Tensor | None = None,
        cache: Cache | None = None, mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Tokens (B, L) and the codes (B, L, K) of those that are frames to hidden states (B, L, dim), normed.

        `positions` (B, L) are 0, 1, … without it. `mask` bool (B, 1, L, filled slots); without it attention is causal.
        """
        rope = self.rope[: tokens.shape[1]][None] if positions is None else self.rope[positions]
        return self.norm(self._blocks(self.layers, self.embed(tokens, codes), rope, cache, mask))

    def embed(self, tokens: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """A frame is its semantic token plus all its codes, scaled down: in training exactly as in generation."""
        config = self.config
        offsets = torch.arange(config.num_codebooks, device=codes.device) * config.codebook_size
        summed = F.embedding_bag((codes + offsets).flatten(0, -2), self.codebook_embeddings.weight, mode="sum")
        text = self.embeddings(tokens)
        frames = (text + summed.view_as(text)) / math.sqrt(config.num_codebooks + 1)
        is_frame = (tokens >= config.semantic_begin_id) & (tokens <= config.semantic_end_id)
        return torch.where(is_frame[..., None], frames, text)

    def slow_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (N, dim) to logits (N, codebook 0 + 1): its entries, then the stop.

        Generation may draw nothing else, so the other rows of the head (97 % in the released network), which is tied to
        the embeddings, are not computed.
        """
        begin, end, stop = self.config.semantic_begin_id, self.config.semantic_end_id + 1, self.prompt.im_end
        weight = self.embeddings.weight
        return torch.cat([F.linear(hidden, weight[begin:end]), F.linear(hidden, weight[stop : stop + 1])], -1)

    # --- fast: along the codebooks of one frame -------------------------------------------------------------------
    def fast(self, hidden: torch.Tensor | None, codes: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        """Hidden states (N, dim) and the codes (N, S) so far to logits (N, S, codebook_size) of the code after each.

        In training the codes are a frame's codebooks 0 … K-2, so that the logits speak of 1 … K-1. In generation the
        first call has the hidden state and codebook 0, and every further call one more code and the cache.
        """
        x = self.fast_embeddings(codes)
        if hidden is not None:
            x = torch.cat([self.fast_project_in(hidden)[:, None].to(x.dtype), x], 1)
        start = cache.used if cache is not None else 0
        rope = self.fast_rope[start : start + x.shape[1]][None]
        x = self._blocks(self.fast_layers, x, rope, cache, None)
        # What follows the hidden state alone would be codebook 0 once more, which the slow transformer has decided.
        return self.fast_output(self.fast_norm(x[:, -codes.shape[1] :]))

    def _blocks(
        self, blocks: nn.ModuleList, x: torch.Tensor, rope: torch.Tensor, cache: Cache | None, mask: torch.Tensor | None
    ) -> torch.Tensor:
        turns = torch.view_as_complex(rope.float())[:, :, None]
        for layer, block in enumerate(blocks):
            x = block(x, turns, cache, layer, mask)
        if cache is not None:
            cache.used += x.shape[1]
        return x

    @property
    def prompt(self) -> Prompt:
        """`network.prompt(text)` is the layout before the speech."""
        if self._prompt is None:
            raise ValueError("this network was made without a tokenizer")
        return self._prompt

    # --- files ----------------------------------------------------------------------------------------------------
    @classmethod
    def new(cls, config: FishConfig, tokenizer: Tokenizer, seed: int) -> FishNetwork:
        """A network to train from nothing: normal weights of deviation 0.02 (upstream's), norms 1, by `seed`."""
        network, source = cls(config, tokenizer), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    module.weight.normal_(0.0, 0.02, generator=source)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    module.bias.zero_()
        return network

    @classmethod
    def load(
        cls, folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> FishNetwork:
        """Read a weights folder strictly, in eval mode. UserError names the file or tensor that is wrong."""
        config, tokenizer = FishConfig.load(folder), load_tokenizer(folder / "tokenizer.json")
        return load_network(lambda: cls(config, tokenizer), folder, dtype, device, read_weights)

    def save(self, folder: Path) -> None:
        """Write what `load` reads: `config.json`, `tokenizer.json` and `model.safetensors` in half precision."""
        config = {"model_type": "dual_ar", **asdict(self.config)}
        save_base(folder, self.state_dict(), config, self.prompt.tokenizer)


def _rope_table(config: FishConfig, length: int) -> torch.Tensor:
    """Cosines and sines (length, head_dim / 2, 2), rounded to bfloat16 as upstream's: its networks learnt them so."""
    steps = torch.arange(0, config.head_dim, 2).float() / config.head_dim
    angles = torch.outer(torch.arange(length).float(), config.rope_base**-steps)
    return torch.stack([angles.cos(), angles.sin()], -1).bfloat16().float()
