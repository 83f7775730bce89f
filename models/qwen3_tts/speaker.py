"""Who speaks: what becomes the one speaker position of the codec channel.

The released Base has an ECAPA-TDNN (arXiv 2005.07143) that hears log-mel; names and defaults follow QwenLM/Qwen3-TTS,
qwen_tts/core/models/modeling_qwen3_tts.py. The tiny base, which has heard a handful of synthetic voices, has a
projection of measured figures instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from models.parts.errors import UserError
from models.small import voiceprint
from models.small.vocoder import ENVELOPE

GROUP = 13  # bands of the voiceprint that the projection takes together
# Of an embedding's figures, root mean square, where a network starts from nothing. At 0.02, the usual, what the blocks
# add drowns the speaker and the residual codes: a toy language had not learnt either after 160 steps; at 0.3 after 90.
LOUDNESS = 0.3


class Conv(nn.Module):
    """A convolution that keeps the length, and ReLU ("time-delay layer")."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1):
        super().__init__()
        self.conv = _same(inputs, outputs, kernel, dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(x))


class Res2Net(nn.Module):
    """Channels in `scale` groups: the first passes, each further one adds the output of the one before it."""

    def __init__(self, channels: int, scale: int, kernel: int, dilation: int):
        super().__init__()
        self.scale = scale
        width = channels // scale
        self.blocks = nn.ModuleList(Conv(width, width, kernel, dilation) for _ in range(scale - 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *rest = x.chunk(self.scale, dim=1)
        outputs = [first]
        for index, (block, part) in enumerate(zip(self.blocks, rest, strict=True)):
            outputs.append(block(part + outputs[-1] if index else part))
        return torch.cat(outputs, dim=1)


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, width: int):
        super().__init__()
        self.conv1, self.conv2 = _same(channels, width), _same(width, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.conv2(F.relu(self.conv1(x.mean(2, keepdim=True)))))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, scale: int, squeeze: int, kernel: int, dilation: int):
        super().__init__()
        self.tdnn1 = Conv(inputs, outputs)
        self.res2net_block = Res2Net(outputs, scale, kernel, dilation)
        self.tdnn2 = Conv(outputs, outputs)
        self.se_block = SqueezeExcitation(outputs, squeeze)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.se_block(self.tdnn2(self.res2net_block(self.tdnn1(x))))


class Pooling(nn.Module):
    """Mean and deviation over time, weighted by an attention that knows both."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.tdnn = Conv(3 * channels, width)
        self.conv = _same(width, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        even = torch.full_like(x, 1 / x.shape[2])
        whole = torch.cat([x, *(s.expand_as(x) for s in self._statistics(x, even))], dim=1)
        return torch.cat(self._statistics(x, self.conv(torch.tanh(self.tdnn(whole))).softmax(2)), dim=1)

    @staticmethod
    def _statistics(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = (weight * x).sum(2, keepdim=True)
        return mean, (weight * (x - mean).square()).sum(2, keepdim=True).clamp(min=1e-12).sqrt()


class SpeakerEncoder(nn.Module):
    """The released encoder: log-mel (24 kHz, 128 bands, n_fft 1024, hop 256) to a vector of the talker's width.

    It runs where recordings are tokenised; the network takes its output as it is.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        channels = config.get("enc_channels", [512, 512, 512, 512, 1536])
        kernels = config.get("enc_kernel_sizes", [5, 3, 3, 3, 1])
        dilations = config.get("enc_dilations", [1, 2, 3, 4, 1])
        scale, squeeze = config.get("enc_res2net_scale", 8), config.get("enc_se_channels", 128)
        self.size = config["enc_dim"]
        self.blocks = nn.ModuleList([Conv(config.get("mel_dim", 128), channels[0], kernels[0], dilations[0])])
        for index in range(1, len(channels) - 1):
            block = Block(channels[index - 1], channels[index], scale, squeeze, kernels[index], dilations[index])
            self.blocks.append(block)
        self.mfa = Conv(channels[-1], channels[-1], kernels[-1], dilations[-1])
        self.asp = Pooling(channels[-1], config.get("enc_attention_channels", 128))
        self.fc = _same(2 * channels[-1], self.size)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """(B, frames, bands) -> (B, enc_dim)."""
        x = self.blocks[0](mel.transpose(1, 2))
        outputs = []
        for block in self.blocks[1:]:
            x = block(x)
            outputs.append(x)
        vector: torch.Tensor = self.fc(self.asp(self.mfa(torch.cat(outputs, dim=1))))[..., 0]
        return vector

    def rows(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors


class VoiceprintProjection(nn.Module):
    """The tiny encoder: a voiceprint (160) to a vector of the talker's width, as loud as a code, whoever speaks.

    Only pitch and six coarse bands of the envelope go in: a layer on all figures fits the few voices of training and garbles a new
    one (measured on the decoders, models/small/BASES.md).
    """

    size = voiceprint.SIZE

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.linear = nn.Linear(7, config["enc_dim"])

    def rows(self, vectors: torch.Tensor) -> torch.Tensor:
        bands = vectors[..., :ENVELOPE].unflatten(-1, (-1, GROUP)).mean(-1)
        bands = bands - bands.mean(-1, keepdim=True)  # how loud the recording is says nothing of the voice
        row = self.linear(torch.cat([bands, voiceprint.mean_pitch(vectors)], -1).to(self.linear.weight.dtype))
        return LOUDNESS * F.rms_norm(row, row.shape[-1:])


def speaker_encoder(config: dict[str, Any]) -> SpeakerEncoder | VoiceprintProjection:
    """`config["kind"]`: "voiceprint" for ours; released ones have no such key."""
    kind = config.get("kind", "ecapa")
    if kind not in ("ecapa", "voiceprint"):
        raise UserError(f"config.json: speaker_encoder_config: kind {kind!r}; use ecapa or voiceprint")
    return SpeakerEncoder(config) if kind == "ecapa" else VoiceprintProjection(config)


def _same(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, kernel, dilation=dilation, padding="same", padding_mode="reflect")
