"""A block of the codecs of Qwen3-TTS, S2 and IndexTTS2 (ConvNeXt, arXiv 2201.03545), by the names of their releases."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class ConvNeXt(nn.Module):
    """`dwconv`: a depthwise convolution of `width` channels, in the codec's own kind. (B, width, T) to the same."""

    def __init__(self, width: int, dwconv: nn.Module, inner: int | None = None):
        super().__init__()
        inner = inner or 4 * width
        self.dwconv = dwconv
        self.norm = nn.LayerNorm(width, 1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm(self.dwconv(x).transpose(1, 2))
        return x + (self.gamma * self.pwconv2(F.gelu(self.pwconv1(inner)))).transpose(1, 2)
