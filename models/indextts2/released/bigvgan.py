"""BigVGAN 2 (arXiv 2206.04658): log-mel to a wave, by the names of NVIDIA's file. Its activations work at twice the rate, so that they make no aliases."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

KERNEL = 12  # of the filters around an activation
EDGE = KERNEL // 2 - 1
BETA = 0.1102 * (2.285 * (KERNEL / 2 - 1) * math.pi * 1.2 + 7.95 - 8.7)  # of a window whose slope is 0.3 of the band
SMALL = 1e-9


class SnakeBeta(nn.Module):
    """x + sin²(αx) / β; both are stored as logarithms."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (x * self.alpha.exp()[:, None]).sin().square() / (self.beta.exp()[:, None] + SMALL)


class Filter(nn.Module):
    """The weights of a low-pass filter, which are in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", lowpass())
        self.filter: torch.Tensor


def lowpass() -> torch.Tensor:
    """Float32 (1, 1, 12): a sinc under Kaiser's window, which lets half of the frequencies pass."""
    places = torch.arange(KERNEL) - KERNEL / 2 + 0.5
    weights = torch.sinc(places / 2) * torch.kaiser_window(KERNEL, periodic=False, beta=BETA)
    return (weights / weights.sum())[None, None]


class Lowpass(nn.Module):
    """Upstream's names have one level more."""

    def __init__(self) -> None:
        super().__init__()
        self.lowpass = Filter()


class Activation(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.act, self.upsample, self.downsample = SnakeBeta(channels), Filter(), Lowpass()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T) to the same, by way of 2 T."""
        channels = x.shape[1]
        up, down = (kernel.expand(channels, -1, -1) for kernel in (self.upsample.filter, self.downsample.lowpass.filter))
        x = 2 * F.conv_transpose1d(F.pad(x, (EDGE, EDGE), mode="replicate"), up, stride=2, groups=channels)
        y = self.act(x[..., 3 * EDGE : -3 * EDGE])
        return F.conv1d(F.pad(y, (EDGE, EDGE + 1), mode="replicate"), down, stride=2, groups=channels)


class ResBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, dilations: list[int]):
        super().__init__()
        self.convs1 = nn.ModuleList(_same(channels, channels, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_same(channels, channels, kernel) for _ in dilations)
        self.activations = nn.ModuleList(Activation(channels) for _ in range(2 * len(dilations)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for first, second, before, between in zip(self.convs1, self.convs2, self.activations[::2], self.activations[1::2], strict=True):
            x = x + second(between(first(before(x))))
        return x


class BigVGAN(nn.Module):
    """`config`: bigvgan's config.json."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        rates, kernels = config["upsample_rates"], config["upsample_kernel_sizes"]
        channels = [config["upsample_initial_channel"] // 2**stage for stage in range(len(rates) + 1)]
        shapes = list(zip(config["resblock_kernel_sizes"], config["resblock_dilation_sizes"], strict=True))
        self.frame, self.alike = math.prod(rates), len(shapes)
        self.conv_pre = _same(config["num_mels"], channels[0], 7)
        self.ups = nn.ModuleList(
            nn.ModuleList([nn.ConvTranspose1d(a, b, kernel, rate, (kernel - rate) // 2)])
            for a, b, kernel, rate in zip(channels, channels[1:], kernels, rates, strict=False)
        )  # fmt: skip
        self.resblocks = nn.ModuleList(ResBlock(width, kernel, dilations) for width in channels[1:] for kernel, dilations in shapes)
        self.activation_post = Activation(channels[-1])
        self.conv_post = nn.Conv1d(channels[-1], 1, 7, padding=3, bias=False)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """log-mel (80, T) to a wave (T x the rates,) in [-1, 1]."""
        x = self.conv_pre(mel[None])
        for stage, up in enumerate(self.ups):
            (up,) = up.children()
            x = up(x)
            blocks = self.resblocks[stage * self.alike : (stage + 1) * self.alike]
            x = torch.as_tensor(sum(block(x) for block in blocks)) / self.alike
        wave: torch.Tensor = self.conv_post(self.activation_post(x))[0, 0]
        return wave.clamp(-1, 1)


def _same(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, kernel, dilation=dilation, padding=dilation * (kernel // 2))
