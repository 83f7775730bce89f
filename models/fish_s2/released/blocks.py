"""The blocks of S2's codec, causal throughout, by the names and with the arithmetic of the release.

fishaudio/fish-speech, fish_speech/models/dac/modded_dac.py.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from models.fish_s2.network import RMSNorm, rotate

HEAD = 64  # width of an attention head
ROPE_BASE, NORM_EPS = 10000.0, 1e-5


class CausalConv(nn.Module):
    """Zeros on the left alone. `normed`: the weight is stored as magnitude and direction (`models.released.fold`)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1, normed: bool = True):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, dilation=dilation, groups=groups)
        self.left = (kernel - 1) * dilation + 1 - stride
        if normed:
            weight_norm(self.conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, T), where T is a multiple of the stride, to (B, outputs, T / stride)."""
        return self.conv(F.pad(x, (self.left, 0)))


class Upsampling(nn.Module):
    """A transposed convolution; what it makes beyond `stride` samples for each one is cut on the right. Its magnitudes are
    those of the *input* channels, which come first in a transposed convolution's weight."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, normed: bool = True):
        super().__init__()
        self.conv = nn.ConvTranspose1d(inputs, outputs, kernel, stride)
        self.stride = stride
        if normed:
            weight_norm(self.conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)[..., : x.shape[-1] * self.stride]


class Projection(nn.Module):
    """A convolution of kernel 1, whose weight norm the release has in torch's older spelling."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.weight_g = nn.Parameter(torch.ones(outputs, 1, 1))
        self.weight_v = nn.Parameter(torch.ones(outputs, inputs, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(1, 2), keepdim=True))
        return F.conv1d(x, weight, self.bias)


class Snake(nn.Module):
    """x + sin²(αx) / α for each channel. In place but for the first step, since the outer blocks are long."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.alpha).sin_().square_().mul_(1.0 / (self.alpha + 1e-9)).add_(x)


class ResidualUnit(nn.Module):
    def __init__(self, channels: int, dilation: int):
        super().__init__()
        wide, narrow = CausalConv(channels, channels, 7, dilation=dilation), CausalConv(channels, channels, 1)
        self.block = nn.Sequential(Snake(channels), wide, Snake(channels), narrow)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x).add_(x)


class Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.wqkv, self.wo = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor, turns: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        query, key, value = self.wqkv(x).unflatten(-1, (3, -1, HEAD)).unbind(2)
        query, key, value = (t.transpose(1, 2) for t in (rotate(query, turns), rotate(key, turns), value))
        return self.wo(F.scaled_dot_product_attention(query, key, value, attn_mask=seen).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.w1, self.w3 = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class LayerScale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gamma * x


class Layer(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.attention, self.feed_forward = Attention(width), FeedForward(width, inner)
        self.ffn_norm, self.attention_norm = RMSNorm(width, NORM_EPS), RMSNorm(width, NORM_EPS)
        self.attention_layer_scale, self.ffn_layer_scale = LayerScale(width), LayerScale(width)

    def forward(self, x: torch.Tensor, turns: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        x = x + self.attention_layer_scale(self.attention(self.attention_norm(x), turns, seen))
        return x + self.ffn_layer_scale(self.feed_forward(self.ffn_norm(x)))


class Transformer(nn.Module):
    """Each position sees the `window` last ones, itself among them.

    Positions and windows are made for each pass: upstream keeps a mask of 32768 × 32768 (a gigabyte) and a table of 327680
    rows in each of four transformers, and reads next to nothing of them.
    """

    def __init__(self, width: int, layers: int, inner: int, window: int):
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, inner) for _ in range(layers))
        self.norm = RMSNorm(width, NORM_EPS)
        self.window = window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width, T) to the same."""
        x, length = x.transpose(1, 2), x.shape[-1]
        turns = rope(length).to(x.device)
        seen = torch.ones(length, length, dtype=torch.bool, device=x.device).tril().triu(1 - self.window)
        for layer in self.layers:
            x = layer(x, turns, seen)
        return self.norm(x).transpose(1, 2)


def rope(length: int) -> torch.Tensor:
    """Turns of each position and pair, complex (1, length, 1, HEAD / 2), rounded to bfloat16 as upstream's: without that
    the wave is two to three hundredths of its peak away."""
    angles = torch.outer(torch.arange(length), 1.0 / ROPE_BASE ** (torch.arange(0, HEAD, 2).float() / HEAD))
    turns = torch.stack([angles.cos(), angles.sin()], -1).bfloat16().float()
    return torch.view_as_complex(turns)[None, :, None]
