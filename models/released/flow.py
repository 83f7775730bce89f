"""Flow matching from S3 codes to log-mel, as CosyVoice 2, CosyVoice 3 and Chatterbox all have it (FunAudioLLM/CosyVoice, cosyvoice/flow).

Version 2 (`models.released.flow2`) and version 3 (`models.released.flow3`) bring an encoder of codes and an estimator of
the velocity; the conditions, the guidance and the ten steps from noise to mel stand here.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import nn
from torch.nn import functional as F

from models.released.s3 import CODES

BANDS = 80
FRAMES = 2  # mel frames of a code
SPEAKER = 192
STEPS = 10
GUIDANCE = 0.7


class Decoder(nn.Module):
    """Upstream's names have one level more than the estimator needs."""

    def __init__(self, estimator: nn.Module):
        super().__init__()
        self.estimator = estimator


class Flow(nn.Module):
    """`estimator(x, mu, spks, cond, t, mask)`: x, mu, cond (B, 80, T), spks (B, 80), t (B,), mask bool (B, T) -> velocity (B, 80, T)."""

    def __init__(self, width: int, estimator: nn.Module):
        super().__init__()
        self.input_embedding = nn.Embedding(CODES, width)
        self.spk_embed_affine_layer = nn.Linear(SPEAKER, BANDS)
        self.decoder = Decoder(estimator)

    @abstractmethod
    def encode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, T) to what the estimator is told of them (B, 80, 2 T)."""

    def forward(
        self, codes: torch.Tensor, speaker: torch.Tensor, prompt: torch.Tensor, prompt_mel: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """codes (T,) and the reference's own (P,), its log-mel (F, 80), a speaker vector (192,) of any length, noise (80, 2 (P + T))
        -> log-mel (80, 2 (P + T) - F)."""
        told = self.encode(torch.cat([prompt, codes])[None])
        cond = torch.zeros_like(told)
        cond[0, :, : len(prompt_mel)] = prompt_mel.T
        spks = self.spk_embed_affine_layer(F.normalize(speaker[None], dim=1))
        return self.solve(noise[None], told, spks, cond)[0, :, len(prompt_mel) :]

    def solve(self, x: torch.Tensor, told: torch.Tensor, spks: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        """From noise x (1, 80, T) to a mel: Euler's steps, small at first. The second row of each is told nothing."""
        told, spks, cond = (torch.cat([given, torch.zeros_like(given)]) for given in (told, spks, cond))
        mask = torch.ones(2, x.shape[-1], dtype=torch.bool, device=x.device)
        times = 1 - torch.cos(torch.linspace(0, 1, STEPS + 1, device=x.device) * 0.5 * torch.pi)
        now = times[:1]
        for step in range(STEPS):
            guided, free = self.decoder.estimator(x.expand(2, -1, -1), told, spks, cond, now.expand(2), mask)
            ahead = times[step + 1] - now
            x = x + ahead * ((1 + GUIDANCE) * guided - GUIDANCE * free)
            now = now + ahead
        return x


class PreLookahead(nn.Module):
    """(B, T, C) plus what the next three codes add to it."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(channels, inner, 4), nn.Conv1d(inner, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.leaky_relu(self.conv1(F.pad(x.transpose(1, 2), (0, 3))))
        return x + self.conv2(F.pad(y, (2, 0))).transpose(1, 2)


def sinusoids(t: torch.Tensor, width: int) -> torch.Tensor:
    """Times (B,) in [0, 1] to (B, width): sines, then cosines."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=t.device).float() * -(math.log(10000) / (half - 1)))
    angles = 1000 * t[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, head: int, mask: torch.Tensor) -> torch.Tensor:
    """Attention of (B, T, width) each in heads of `head` channels; mask bool (B, T): who is looked at."""
    query, key, value = (x.unflatten(-1, (-1, head)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None]).transpose(1, 2).flatten(2)
