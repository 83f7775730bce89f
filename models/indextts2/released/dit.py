"""The velocity of a mel: a diffusion transformer with U-shaped skips, and a wavenet behind it
(index-tts/index-tts, indextts/s2mel/modules/diffusion_transformer.py, gpt_fast/model.py, wavenet.py)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from models.released.shapes import Shapes, count

BANDS = 80
STYLE = 192
TIMES = 256


class TimeEmbedding(nn.Module):
    """Times (B,) in [0, 1] to (B, width). The rates are in the file."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("freqs", 10000.0 ** -(torch.arange(TIMES // 2) / (TIMES // 2)))
        self.freqs: torch.Tensor
        self.mlp = nn.Sequential(nn.Linear(TIMES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        angles = 1000 * t[:, None] * self.freqs
        y: torch.Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], -1))
        return y


class AdaptiveNorm(nn.Module):
    """A norm whose gain and bias follow from the time."""

    def __init__(self, width: int):
        super().__init__()
        self.project_layer, self.norm = nn.Linear(width, 2 * width), nn.RMSNorm(width, 1e-5)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        gain, bias = self.project_layer(time)[:, None].chunk(2, -1)
        y: torch.Tensor = gain * self.norm(x) + bias
        return y


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.wqkv, self.wo = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.wqkv(x).chunk(3, -1))
        attended = F.scaled_dot_product_attention(turned(query), turned(key), value)
        y: torch.Tensor = self.wo(attended.transpose(1, 2).flatten(2))
        return y


def turned(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions of (B, heads, T, channels): neighbouring channels, even and odd, are a pair."""
    channels = x.shape[-1]
    rates = 10000.0 ** -(torch.arange(0, channels, 2, device=x.device) / channels)
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * rates
    cos, sin = angles.cos(), angles.sin()
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)


class FeedForward(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.w1, self.w3 = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return y


class Block(nn.Module):
    """`skip_in_linear` is in every layer's file; those of the first half have no skip to take in."""

    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.attention, self.feed_forward = Attention(width, heads), FeedForward(width, inner)
        self.attention_norm, self.ffn_norm = AdaptiveNorm(width), AdaptiveNorm(width)
        self.skip_in_linear = nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor, time: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        if skip is not None:
            x = self.skip_in_linear(torch.cat([x, skip], -1))
        x = x + self.attention(self.attention_norm(x, time))
        return x + self.feed_forward(self.ffn_norm(x, time))


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(Block(width, heads, inner) for _ in range(layers))
        self.norm = AdaptiveNorm(width)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """The first half's outputs come back in the second half, the last one first."""
        half = len(self.layers) // 2
        skips: list[torch.Tensor] = []
        for place, layer in enumerate(self.layers):
            x = layer(x, time, skips.pop() if place > half else None)
            if place < half:
                skips.append(x)
        y: torch.Tensor = self.norm(x, time)
        return y


class WaveNet(nn.Module):
    """(B, width, T) to the same; what the time says is added within each layer. Edges are reflected."""

    def __init__(self, width: int, kernel: int, layers: int):
        super().__init__()
        self.cond_layer = _named(nn.Conv1d(width, 2 * width * layers, 1))
        inner = (nn.Conv1d(width, 2 * width, kernel, padding=kernel // 2, padding_mode="reflect") for _ in range(layers))
        outer = (nn.Conv1d(width, width if layer == layers - 1 else 2 * width, 1) for layer in range(layers))
        self.in_layers, self.res_skip_layers = nn.ModuleList(map(_named, inner)), nn.ModuleList(map(_named, outer))

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        told, found = self.cond_layer(time[..., None]).chunk(len(self.in_layers), 1), torch.zeros_like(x)
        for inner, outer, now in zip(self.in_layers, self.res_skip_layers, told, strict=True):
            value, gate = (inner(x) + now).chunk(2, 1)
            made = outer(value.tanh() * gate.sigmoid())
            residual, skip = made.chunk(2, 1) if made.shape[1] > x.shape[1] else (0, made)  # the last layer has a skip alone
            x, found = x + residual, found + skip
        return found


class Final(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        shift, scale = self.adaLN_modulation(time)[:, None].chunk(2, -1)
        y: torch.Tensor = self.linear(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)
        return y


class DiT(nn.Module):
    """`told`: values of a frame that say what is spoken. The wavenet has a width of its own, and a time embedding of its own."""

    def __init__(self, told: int, width: int, heads: int, inner: int, layers: int, wave_width: int, kernel: int, wave_layers: int):
        super().__init__()
        self.cond_projection = nn.Linear(told, width)
        self.cond_x_merge_linear = nn.Linear(width + 2 * BANDS + STYLE, width)
        self.t_embedder, self.t_embedder2 = TimeEmbedding(width), TimeEmbedding(wave_width)
        self.transformer = Transformer(width, heads, inner, layers)
        self.skip_linear = nn.Linear(width + BANDS, width)
        self.conv1, self.res_projection = nn.Linear(width, wave_width), nn.Linear(width, wave_width)
        self.wavenet, self.final_layer = WaveNet(wave_width, kernel, wave_layers), Final(wave_width)
        self.conv2 = nn.Conv1d(wave_width, BANDS, 1)

    @classmethod
    def like(cls, shapes: Shapes, heads: int) -> DiT:
        """Of the sizes that the tensors of a file have; KeyError for one that is no such network."""
        width, told = shapes["cond_projection.weight"]
        wave_width, kernel = shapes["conv1.weight"][0], shapes["wavenet.in_layers.0.conv.conv.weight"][2]
        inner = shapes["transformer.layers.0.feed_forward.w1.weight"][0]
        return cls(told, width, heads, inner, count(shapes, "transformer.layers."), wave_width, kernel, count(shapes, "wavenet.in_layers."))

    def forward(self, x: torch.Tensor, prompt: torch.Tensor, told: torch.Tensor, style: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x and prompt (B, 80, T), told (B, T, told), style (B, 192), t (B,) -> velocity (B, 80, T)."""
        time, noisy = self.t_embedder(t), x.transpose(1, 2)
        styles = style[:, None].expand(-1, x.shape[-1], -1)
        merged = self.cond_x_merge_linear(torch.cat([noisy, prompt.transpose(1, 2), self.cond_projection(told), styles], -1))
        y = self.skip_linear(torch.cat([self.transformer(merged, time), noisy], -1))
        waves = self.wavenet(self.conv1(y).transpose(1, 2), self.t_embedder2(t)).transpose(1, 2)
        # The first time embedding again: the wavenet alone hears the second.
        velocity: torch.Tensor = self.conv2(self.final_layer(waves + self.res_projection(y), time).transpose(1, 2))
        return velocity


def _named(conv: nn.Module) -> nn.Module:
    """Two levels of names around a convolution, as upstream has them."""
    return nn.Sequential(OrderedDict(conv=nn.Sequential(OrderedDict(conv=conv))))
