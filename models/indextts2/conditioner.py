"""What IndexTTS2 hears of a prompt: conformer and perceiver give the voice, a second pair gives the emotion.

Structure, key names and shapes follow index-tts/index-tts, `indextts/gpt/{model_v2,conformer_encoder,perceiver}.py`,
in the one form that the released weights have (`conformer_perceiver`). The input is what the tokeniser quantises:
layer 17 of w2v-bert on the released weights, 50 frames a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from models.parts.errors import UserError
from models.parts.weights import map_tensors

HEAD_WIDTH = 64  # of the perceiver's attention
DEPTH = 2        # perceiver layers
KERNEL = 15      # of the conformer's convolution
SHORTEST = 3     # input frames: fewer leave nothing after the subsampling


class Sinusoids(nn.Module):
    """Positions, which every layer sees: `pe` (1, positions, width), one of the released tensors."""

    pe: torch.Tensor

    def __init__(self, positions: int, width: int):
        super().__init__()
        angles = torch.arange(positions)[:, None] * torch.exp(torch.arange(0, width, 2) * -(math.log(10000.0) / width))
        self.register_buffer("pe", torch.stack([angles.sin(), angles.cos()], -1).reshape(1, positions, width))


class Subsampling(nn.Module):
    """Half the frames, from a 3 x 3 convolution."""

    def __init__(self, width_in: int, width: int, positions: int):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, width, 3, 2), nn.ReLU())
        self.out = nn.Sequential(nn.Linear(width * ((width_in - 1) // 2), width))
        self.pos_enc = Sinusoids(positions, width)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, D) -> (B, (T - 1) // 2, width) and the positions (1, (T - 1) // 2, width)."""
        x = self.conv(x[:, None])
        x = self.out(x.transpose(1, 2).flatten(2))
        return x * x.shape[-1] ** 0.5, self.pos_enc.pe[:, : x.shape[1]]


class PositionedAttention(nn.Module):
    """Attention whose scores have a term of content and one of the key's position, without Transformer-XL's shift."""

    def __init__(self, heads: int, width: int):
        super().__init__()
        self.heads = heads
        self.linear_q, self.linear_k, self.linear_v, self.linear_out = (nn.Linear(width, width) for _ in range(4))
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u, self.pos_bias_v = (nn.Parameter(torch.empty(heads, width // heads)) for _ in range(2))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(self, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        def by_head(y: torch.Tensor) -> torch.Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        query, key, value = by_head(self.linear_q(x)), by_head(self.linear_k(x)), by_head(self.linear_v(x))
        content = (query + self.pos_bias_u[:, None]) @ key.transpose(-2, -1)
        place = (query + self.pos_bias_v[:, None]) @ by_head(self.linear_pos(positions)).transpose(-2, -1)
        scores = (content + place) / query.shape[-1] ** 0.5
        weights = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
        out: torch.Tensor = self.linear_out((weights @ value).transpose(1, 2).flatten(2))
        return out


class ConvolutionModule(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1)
        self.depthwise_conv = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pointwise_conv2 = nn.Conv1d(width, width, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        inner = F.glu(self.pointwise_conv1(x.transpose(1, 2)), dim=1)
        # Masked behind the gate, whose bias would else leak from the padding into the last frames of a shorter clip.
        inner = self.depthwise_conv(inner * mask[:, None])
        inner = F.silu(self.norm(inner.transpose(1, 2)))
        out: torch.Tensor = self.pointwise_conv2(inner.transpose(1, 2)).transpose(1, 2)
        return out


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.w_1, self.w_2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.w_2(F.silu(self.w_1(x)))
        return out


class ConformerLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.self_attn = PositionedAttention(heads, width)
        self.feed_forward = FeedForward(width, hidden)
        self.conv_module = ConvolutionModule(width)
        self.norm_ff, self.norm_mha, self.norm_conv, self.norm_final = (nn.LayerNorm(width) for _ in range(4))

    def forward(self, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.norm_mha(x), positions, mask)
        x = x + self.conv_module(self.norm_conv(x), mask)
        x = x + self.feed_forward(self.norm_ff(x))
        out: torch.Tensor = self.norm_final(x)
        return out


class Conformer(nn.Module):
    """`config`: output_size, linear_units, attention_heads, num_blocks, as in upstream's config.yaml."""

    def __init__(self, width_in: int, positions: int, config: dict[str, Any]):
        super().__init__()
        width = config["output_size"]
        self.embed = Subsampling(width_in, width, positions)
        self.after_norm = nn.LayerNorm(width)
        self.encoders = nn.ModuleList(
            ConformerLayer(width, config["attention_heads"], config["linear_units"]) for _ in range(config["num_blocks"])
        )

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B, T, D) right-padded, lengths (B,) -> (B, T', width) and the mask (B, T') of what is no padding."""
        mask = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[:, 2::2]
        h, positions = self.embed(x)
        for layer in self.encoders:
            h = layer(h, positions, mask)
        return self.after_norm(h), mask


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, inner = heads, heads * HEAD_WIDTH
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, latents: torch.Tensor, context: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """latents (B, N, W) look at themselves and at context (B, T, W); mask (B, N + T)."""
        both = torch.cat([latents, context], 1)
        query, key, value = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (self.to_q(latents), *self.to_kv(both).chunk(2, -1))
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        out: torch.Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return out


class GEGLU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = x.chunk(2, -1)
        return value * F.gelu(gate)


class RMSNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * self.gamma


class Perceiver(nn.Module):
    """Any number of frames to `count` latents of `width`."""

    def __init__(self, width: int, context: int, heads: int, mult: int, count: int):
        super().__init__()
        self.proj_context = nn.Linear(context, width) if context != width else nn.Identity()
        self.latents = nn.Parameter(0.02 * torch.randn(count, width))
        inner = int(width * mult * 2 / 3)
        self.layers = nn.ModuleList(
            nn.ModuleList([
                CrossAttention(width, heads),
                nn.Sequential(nn.Linear(width, 2 * inner), GEGLU(), nn.Linear(inner, width)),
            ])
            for _ in range(DEPTH)
        )  # fmt: skip
        self.norm = RMSNorm(width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x (B, T, context), mask (B, T) -> (B, count, width)."""
        context, latents = self.proj_context(x), self.latents.expand(len(x), -1, -1)
        mask = F.pad(mask, (len(self.latents), 0), value=True)
        for layer in self.layers:
            attention, feed_forward = layer.children()
            latents = attention(latents, context, mask) + latents
            latents = feed_forward(latents) + latents
        out: torch.Tensor = self.norm(latents)
        return out


class Conditioner(nn.Module):
    """The modules of the released network that hear a prompt, by its key names.

    `config`: model_dim, condition_num_latent, condition_module and emo_condition_module as upstream's `gpt:` has them,
    and what upstream's code fixes: condition_width and emo_width (1024 both) and condition_positions (5000).
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = config
        width, emotion = config["model_dim"], config["emo_width"]
        voice, feeling = config["condition_module"], config["emo_condition_module"]
        heard = config["condition_width"], config["condition_positions"]
        self.conditioning_encoder = Conformer(*heard, voice)
        self.perceiver_encoder = Perceiver(
            width, voice["output_size"], voice["attention_heads"], voice["perceiver_mult"], config["condition_num_latent"]
        )
        self.emo_conditioning_encoder = Conformer(*heard, feeling)
        self.emo_perceiver_encoder = Perceiver(
            emotion, feeling["output_size"], feeling["attention_heads"], feeling["perceiver_mult"], 1
        )
        self.emo_layer = nn.Linear(width, width)
        self.emovec_layer = nn.Linear(emotion, width)

    def condition(self, points: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts (B, T, D), right-padded, and their lengths (B,) -> latents (B, N, W) and emotion vectors (B, W)."""
        if int(lengths.min()) < SHORTEST:
            raise UserError(f"a prompt of {int(lengths.min())} frames is too short to be heard; raise corpus.min_seconds")
        return self.latents(points, lengths), self.emotion(points, lengths)

    def latents(self, points: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        latents: torch.Tensor = self.perceiver_encoder(*self.conditioning_encoder(points, lengths))
        return latents

    def emotion(self, points: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        heard = self.emo_perceiver_encoder(*self.emo_conditioning_encoder(points, lengths))[:, 0]
        vectors: torch.Tensor = self.emo_layer(self.emovec_layer(heard))
        return vectors


def load_conditioner(config: dict[str, Any], path: Path, read: Callable[[Path], dict[str, torch.Tensor]] = map_tensors) -> Conditioner:
    """The conditioner alone, out of a network's weights, which `read` gives by name. UserError names what is missing."""
    conditioner, tensors = Conditioner(config), read(path)
    own = conditioner.state_dict()
    for name, tensor in own.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise UserError(f"{path}: {name} is missing or of another shape; use the config.json that came with the weights")
    conditioner.load_state_dict({name: tensors[name] for name in own})
    return conditioner.requires_grad_(False).eval()


def unpack(vector: np.ndarray, config: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A speaker vector as the codec makes it -> style (S,), condition (N, W), emotion (W,).

    UserError if it is another network's.
    """
    count, width = config["condition_num_latent"], config["model_dim"]
    style = len(vector) - (count + 1) * width
    if style < 0:
        raise UserError(f"speaker vector: {len(vector)} values do not hold {count} latents and an emotion of {width}; run the tokenise stage again")
    return vector[:style], vector[style:-width].reshape(count, width), vector[-width:]
