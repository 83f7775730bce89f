"""VoxCPM 1.5's AudioVAE: 44.1 kHz to 25 frames of 64 latents a second and back, causal throughout.

A DAC with depthwise residual convolutions whose latent is a mean, not a code. Names and arithmetic are the release's
(OpenBMB/VoxCPM, src/voxcpm/modules/audiovae/audio_vae.py); weight norm in torch's older spelling, as it is stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from models.parts.errors import UserError

DILATIONS = (1, 3, 9)


@dataclass(frozen=True)
class Sizes:
    """`audio_vae_config` of the release."""

    encoder_dim: int
    encoder_rates: tuple[int, ...]
    latent_dim: int
    decoder_dim: int
    decoder_rates: tuple[int, ...]
    sample_rate: int

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return math.prod(self.encoder_rates)

    @classmethod
    def of(cls, config: dict[str, Any], where: str) -> Sizes:
        """UserError, naming the file `where`, for a field that is missing or that no VoxCPM 1.5 has."""
        try:
            vae = config["audio_vae_config"]
            if not vae["depthwise"] or vae.get("use_noise_block") or math.prod(vae["encoder_rates"]) != math.prod(vae["decoder_rates"]):
                raise ValueError("its audio_vae_config is of another codec")
            sizes: dict[str, Any] = {name: tuple(vae[name]) if name.endswith("rates") else int(vae[name]) for name in cls.__dataclass_fields__}
            return cls(**sizes)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: not VoxCPM 1.5's configuration ({type(error).__name__}: {error}); use the file that came with the weights") from None


class Normed(nn.Module):
    """A weight as magnitude and direction, each row of it: `weight` is what is computed with."""

    def __init__(self, *shape: int, outputs: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.weight_g, self.weight_v = nn.Parameter(torch.ones(shape[0], 1, 1)), nn.Parameter(torch.ones(shape))

    @property
    def weight(self) -> torch.Tensor:
        return self.weight_v * (self.weight_g / self.weight_v.norm(dim=(1, 2), keepdim=True))


class Conv(Normed):
    """Zeros on the left alone, `left` of them."""

    def __init__(self, inputs: int, outputs: int, kernel: int, left: int, stride: int = 1, dilation: int = 1, groups: int = 1):
        super().__init__(outputs, inputs // groups, kernel, outputs=outputs)
        self.left, self.stride, self.dilation, self.groups = left, stride, dilation, groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv1d(F.pad(x, (self.left, 0)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Upsampling(Normed):
    """A transposed convolution; what it makes beyond `stride` samples for each one is cut on the right."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__(inputs, outputs, 2 * stride, outputs=outputs)
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv_transpose1d(x, self.weight, self.bias, self.stride)[..., : x.shape[-1] * self.stride]


class Snake(nn.Module):
    """x + sin²(αx) / α for each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (x * self.alpha).sin().square() / (self.alpha + 1e-9)


class Block(nn.Module):
    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.block = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block(x)
        return out


class Residual(Block):
    def __init__(self, channels: int, dilation: int):
        wide = Conv(channels, channels, 7, 6 * dilation, dilation=dilation, groups=channels)
        super().__init__(Snake(channels), wide, Snake(channels), Conv(channels, channels, 1, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


def residuals(channels: int) -> list[nn.Module]:
    return [Residual(channels, dilation) for dilation in DILATIONS]


class Encoder(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        width = sizes.encoder_dim
        blocks: list[nn.Module] = [Conv(1, width, 7, 6)]
        for rate in sizes.encoder_rates:
            # For an odd rate the last sample of a window is never seen.
            down = Conv(width, 2 * width, 2 * rate, 2 * math.ceil(rate / 2), stride=rate)
            blocks.append(Block(*residuals(width), Snake(width), down))
            width *= 2
        self.block = nn.Sequential(*blocks)
        self.fc_mu, self.fc_logvar = (Conv(width, sizes.latent_dim, 3, 2) for _ in range(2))

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        """(B, 1, samples), a multiple of the hop, to the latents' means (B, latent, frames). Nothing is drawn."""
        means: torch.Tensor = self.fc_mu(self.block(waves))
        return means


class Decoder(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        latent, width = sizes.latent_dim, sizes.decoder_dim
        layers: list[nn.Module] = [Conv(latent, latent, 7, 6, groups=latent), Conv(latent, width, 1, 0)]
        for rate in sizes.decoder_rates:
            layers.append(Block(Snake(width), Upsampling(width, width // 2, rate), *residuals(width // 2)))
            width //= 2
        self.model = nn.Sequential(*layers, Snake(width), Conv(width, 1, 7, 6), nn.Tanh())

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, latent, frames) to waves (B, 1, frames × hop)."""
        waves: torch.Tensor = self.model(latents)
        return waves


class AudioVAE(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.encoder, self.decoder = Encoder(sizes), Decoder(sizes)
