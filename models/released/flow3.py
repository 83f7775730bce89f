"""The flow of CosyVoice 3: its codes are embedded at mel's width, and a diffusion transformer estimates the velocity
(FunAudioLLM/CosyVoice, cosyvoice/flow/DiT)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from models.released.flow import BANDS, FRAMES, Flow, PreLookahead, attend, sinusoids

HEAD = 64
TIMES = 256
KERNEL, GROUPS = 31, 16


class TimeEmbedding(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(TIMES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.time_mlp(sinusoids(t, TIMES))
        return y


class PlaceEmbedding(nn.Module):
    """Two causal convolutions, which tell a frame where it stands."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Sequential(nn.Conv1d(width, width, KERNEL, groups=GROUPS), nn.Mish()) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.transpose(1, 2)
        for conv in (self.conv1, self.conv2):
            y = conv(F.pad(y, (KERNEL - 1, 0)))
        return y.transpose(1, 2)


class InputEmbedding(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj, self.conv_pos_embed = nn.Linear(4 * BANDS, width), PlaceEmbedding(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.proj(x)
        out: torch.Tensor = y + self.conv_pos_embed(y)
        return out


class Rotary(nn.Module):
    """The rates are in the file. Only the first 64 channels turn, which is the first head of sixteen: upstream turns
    queries and keys before it parts them into heads."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10000.0 ** -(torch.arange(0, HEAD, 2) / HEAD))
        self.inv_freq: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, width): neighbouring channels, even and odd, are a pair."""
        angles = torch.arange(x.shape[1], device=x.device).float()[:, None] * self.inv_freq
        even, odd = x[..., :HEAD].unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = angles.cos(), angles.sin()
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
        return torch.cat([turned, x[..., HEAD:]], -1)


class Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: torch.Tensor, rotary: Rotary, mask: torch.Tensor) -> torch.Tensor:
        attended = attend(rotary(self.to_q(x)), rotary(self.to_k(x)), self.to_v(x), HEAD, mask)
        out: torch.Tensor = self.to_out(attended) * mask[..., None]
        return out


class Modulation(nn.Module):
    """What the time makes of a norm: `count` vectors."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.count, self.linear = count, nn.Linear(width, count * width)

    def forward(self, time: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.linear(F.silu(time))[:, None].chunk(self.count, -1)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        # Two sequences, as upstream names them.
        self.ff = nn.Sequential(nn.Sequential(nn.Linear(width, 2 * width), nn.GELU("tanh")), nn.Identity(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.ff(x)
        return y


class DiTBlock(GradientCheckpointingLayer):  # type: ignore[misc]
    def __init__(self, width: int):
        super().__init__()
        self.attn_norm, self.attn, self.ff = Modulation(width, 6), Attention(width), FeedForward(width)

    def forward(self, x: torch.Tensor, time: torch.Tensor, rotary: Rotary, mask: torch.Tensor) -> torch.Tensor:
        shift, scale, gate, inner_shift, inner_scale, inner_gate = self.attn_norm(time)
        x = x + gate * self.attn(_norm(x) * (1 + scale) + shift, rotary, mask)
        return x + inner_gate * self.ff(_norm(x) * (1 + inner_scale) + inner_shift)


class DiT(nn.Module):
    def __init__(self, width: int = 1024, layers: int = 22):
        super().__init__()
        self.time_embed, self.input_embed = TimeEmbedding(width), InputEmbedding(width)
        self.rotary_embed = Rotary()
        self.transformer_blocks = nn.ModuleList(DiTBlock(width) for _ in range(layers))
        self.norm_out, self.proj_out = Modulation(width, 2), nn.Linear(width, BANDS)

    def forward(
        self, x: torch.Tensor, mu: torch.Tensor, spks: torch.Tensor, cond: torch.Tensor, t: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """See `Flow`."""
        time = self.time_embed(t)
        # In another order than version 2's.
        x = self.input_embed(torch.cat([x, cond, mu, spks[..., None].expand_as(x)], 1).transpose(1, 2))
        for block in self.transformer_blocks:
            x = block(x, time, self.rotary_embed, mask)
        scale, shift = self.norm_out(time)  # in another order than within the blocks
        velocity: torch.Tensor = self.proj_out(_norm(x) * (1 + scale) + shift)
        return velocity.transpose(1, 2)


class Flow3(Flow):
    """`inner`: width of the look ahead."""

    def __init__(self, inner: int = 1024, estimator: DiT | None = None):
        super().__init__(BANDS, estimator or DiT())
        self.pre_lookahead_layer = PreLookahead(BANDS, inner)

    def encode(self, codes: torch.Tensor, heard: torch.Tensor | None = None) -> torch.Tensor:
        """`heard`: bool (B, T), of a padded batch what is not padding."""
        embedded = self.input_embedding(codes)
        if heard is not None:
            embedded = embedded * heard[..., None]
        mu: torch.Tensor = self.pre_lookahead_layer(embedded)
        return mu.repeat_interleave(FRAMES, 1).transpose(1, 2)


def _norm(x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)
