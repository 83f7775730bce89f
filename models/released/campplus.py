"""CAM++ (arXiv 2303.00332): who speaks, as 192 figures. Names are 3D-Speaker's, as Chatterbox's file has them."""

from __future__ import annotations

import torch
import torchaudio.compliance.kaldi as kaldi
from torch import nn
from torch.nn import functional as F

RATE = 16000
SIZE = 192
SEGMENT = 100  # frames that share a local context
SHORTEST = 720  # samples: three frames of the filter bank, which become the two that a deviation takes
BLOCKS = ((12, 1), (24, 2), (16, 2))  # layers and dilation


def filter_bank(wave: torch.Tensor) -> torch.Tensor:
    """A wave (N,) at 16 kHz in [-1, 1], which Kaldi would scale to 16 bits and upstream does not, to (frames, 80) without its mean."""
    bands = kaldi.fbank(wave[None], num_mel_bins=80)
    return bands - bands.mean(0)


class Residual(nn.Module):
    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = _conv2d(channels, channels, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv2d(channels, channels, 1), nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, channels, 1, (stride, 1), bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Head(nn.Module):
    """(B, 80, T) to (B, 320, T): 32 channels, an eighth of the bands."""

    def __init__(self, channels: int = 32):
        super().__init__()
        self.conv1, self.bn1 = _conv2d(1, channels, 1), nn.BatchNorm2d(channels)
        self.layer1 = nn.Sequential(Residual(channels, 2), Residual(channels, 1))
        self.layer2 = nn.Sequential(Residual(channels, 2), Residual(channels, 1))
        self.conv2, self.bn2 = _conv2d(channels, channels, 2), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x[:, None])))
        return F.relu(self.bn2(self.conv2(self.layer2(self.layer1(x))))).flatten(1, 2)


class Normed(nn.Sequential):
    """Batch norm and ReLU, by upstream's names."""

    def __init__(self, channels: int):
        super().__init__()
        self.add_module("batchnorm", nn.BatchNorm1d(channels))
        self.add_module("relu", nn.ReLU())


class TimeDelay(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear, self.nonlinear = nn.Conv1d(inputs, outputs, 5, 2, 2, bias=False), Normed(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.nonlinear(self.linear(x))
        return y


class Masked(nn.Module):
    """A convolution whose output is weighed by what the whole clip and its segment sound like ("context-aware masking")."""

    def __init__(self, inputs: int, outputs: int, dilation: int):
        super().__init__()
        self.linear_local = nn.Conv1d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False)
        self.linear1, self.linear2 = nn.Conv1d(inputs, inputs // 2, 1), nn.Conv1d(inputs // 2, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        segments = F.avg_pool1d(x, SEGMENT, SEGMENT, ceil_mode=True).repeat_interleave(SEGMENT, -1)[..., : x.shape[-1]]
        context = x.mean(-1, keepdim=True) + segments
        weights = torch.sigmoid(self.linear2(F.relu(self.linear1(context))))
        y: torch.Tensor = self.linear_local(x) * weights
        return y


class Dense(nn.Module):
    def __init__(self, inputs: int, growth: int, dilation: int):
        super().__init__()
        narrow = 4 * growth
        self.nonlinear1, self.linear1 = Normed(inputs), nn.Conv1d(inputs, narrow, 1, bias=False)
        self.nonlinear2, self.cam_layer = Normed(narrow), Masked(narrow, growth, dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))], 1)


class Transit(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.nonlinear, self.linear = Normed(channels), nn.Conv1d(channels, channels // 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(self.nonlinear(x))
        return y


class Statistics(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean(-1), x.std(-1)], -1)


class Vector(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear, self.nonlinear = nn.Conv1d(inputs, outputs, 1, bias=False), nn.Sequential()
        self.nonlinear.add_module("batchnorm", nn.BatchNorm1d(outputs, affine=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.nonlinear(self.linear(x[..., None])[..., 0])
        return y


class CAMPPlus(nn.Module):
    """`filter_bank` (B, frames, 80) to vectors (B, size), not normalised."""

    def __init__(self, size: int = SIZE, growth: int = 32):
        super().__init__()
        self.head = Head()
        channels = 4 * growth
        layers: dict[str, nn.Module] = {"tdnn": TimeDelay(320, channels)}
        for number, (count, dilation) in enumerate(BLOCKS, 1):
            block = nn.Sequential()
            for layer in range(count):
                block.add_module(f"tdnnd{layer + 1}", Dense(channels + layer * growth, growth, dilation))
            channels += count * growth
            layers |= {f"block{number}": block, f"transit{number}": Transit(channels)}
            channels //= 2
        layers |= {"out_nonlinear": Normed(channels), "stats": Statistics(), "dense": Vector(2 * channels, size)}
        self.xvector = nn.Sequential()
        for name, module in layers.items():
            self.xvector.add_module(name, module)

    def forward(self, bands: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self.xvector(self.head(bands.transpose(1, 2)))
        return vectors


def _conv2d(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, (stride, 1), 1, bias=False)
