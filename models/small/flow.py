"""The frozen decoder: codes -> the vocoder's frames, by flow matching with a diffusion transformer (DiT), a patch a token.

It stands where the released models have their flow (CosyVoice) or codec decoder (Fish); small. The network predicts the
clean frames x1 from x_t = (1 - t) noise + t x1, so its first step from pure noise is already the conditional mean, and
later steps only add detail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from models.small import voiceprint
from models.small.scalars import to_values
from models.small.vocoder import BANDS, ENVELOPE

CLOCK = 32   # sines and cosines that tell the time step
HEARD = 4.0  # weight of voice and of pitch in the loss
Rope = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class FlowConfig:
    """`codebooks`: entries of each codebook. `patch`: frames a token. `speaker`: does a voiceprint say whose voice?

    `scalars`: all codebooks but the first are levels of scalar values (models/small/scalars.py), read by a linear layer.
    `latents`: width of the language model's hidden states, where the decoder takes them besides the codes (0: it does not).
    """

    codebooks: tuple[int, ...]
    patch: int
    scalars: bool = False
    width: int = 128
    layers: int = 5
    heads: int = 4
    speaker: bool = True
    latents: int = 0
    reach: int = 32  # tokens that attention sees to each side
    steps: int = 1  # Euler steps in decoding


class Block(nn.Module):
    """Transformer block, both ways, with the time step in its norms (adaLN)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, width)
        # Neighbours matter more than the far context; attention alone learns that slowly.
        self.local = nn.Conv1d(width, width, 5, padding=2, groups=width)
        # One modulation serves all blocks (as in PixArt-alpha, arXiv 2310.00426); each adds its own constant.
        self.modulation = nn.Parameter(torch.zeros(4 * width))

    def forward(self, x: torch.Tensor, time: torch.Tensor, mask: torch.Tensor, near: torch.Tensor, rope: Rope) -> torch.Tensor:
        """x (B, T, W), time (B, 4 W), mask (B, T) of what is there, near (B, 1, T, T) of what each token may see."""
        shift1, scale1, shift2, scale2 = (time + self.modulation)[:, None].chunk(4, dim=-1)
        h = self.norm1(x) * (1 + scale1) + shift1
        h = (h + self.local((h * mask[..., None]).transpose(1, 2)).transpose(1, 2))
        batch, length, width = h.shape
        q, k, v = self.qkv(h).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(rotate(q, rope), rotate(k, rope), v, attn_mask=near)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        h = self.norm2(x) * (1 + scale2) + shift2
        return x + self.down(F.gelu(self.up(h)))


def rotary(length: int, size: int) -> Rope:
    """cos and sin (length, size) for `rotate`, base 10,000."""
    frequency = 10000.0 ** (-torch.arange(0, size, 2) / size)
    angle = torch.outer(torch.arange(length), frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, rope: Rope) -> torch.Tensor:
    """Rotary position embedding of (B, H, T, D), half-split pairs."""
    a, b = x.chunk(2, dim=-1)
    return x * rope[0] + torch.cat([-b, a], dim=-1) * rope[1]


class Flow(nn.Module):
    """Codes (and a voiceprint) to the vocoder's frames."""

    average: torch.Tensor
    gain: torch.Tensor
    levels: torch.Tensor

    def __init__(self, config: FlowConfig):
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch * BANDS
        tables, levels = (config.codebooks[:1], config.codebooks[1:]) if config.scalars else (config.codebooks, ())
        self.embed = nn.ModuleList(nn.Embedding(size, width) for size in tables)
        self.values = nn.Linear(len(levels), width) if levels else None
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.latent = nn.Linear(config.latents, width) if config.latents else None
        self.noisy = nn.Linear(patch, width)
        self.time = nn.Sequential(nn.Linear(CLOCK, CLOCK), nn.SiLU(), nn.Linear(CLOCK, 4 * width))
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, patch)
        # A speaker is the statistics that frames are standardised by: a layer on the voiceprint fits the few voices of
        # training and garbles a new one (word error 0.81 instead of 0.17). Where none is given, the average voice's.
        self.register_buffer("average", torch.zeros(voiceprint.SIZE))
        # A conditional mean varies less than speech does, which blurs it: each band of the envelope gets its spread back
        # (global variance, Toda and Tokuda 2007).
        self.register_buffer("gain", torch.ones(BANDS))

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, codes: torch.Tensor, prints: torch.Tensor, mask: torch.Tensor,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x (B, T, patch × 80) noisy, t (B,) in [0, 1], codes (B, T, K), prints (B, 160), mask (B, T) -> clean x.

        `latents` (B, T, config.latents), or None where codes alone are decoded.
        """
        h = self.noisy(x) + torch.stack([table(codes[..., k]) for k, table in enumerate(self.embed)]).sum(0)
        if self.values is not None:
            h = h + self.values(to_values(codes[..., 1:], self.levels))
        if latents is not None and self.latent is not None:
            h = h + self.latent(latents)
        angle = 1000 * t[:, None] * torch.exp(-torch.arange(CLOCK // 2) * (9.21 / (CLOCK // 2)))
        time = self.time(torch.cat([angle.cos(), angle.sin()], dim=-1))
        rope = rotary(x.shape[1], self.config.width // self.config.heads)
        # Attention is local, so that a clip of any length looks like the crops of training. With attention over the whole
        # clip, word error on clips over 6 s was 0.35 instead of 0.10.
        at = torch.arange(x.shape[1], device=x.device)
        near = mask[:, None, None] & ((at[:, None] - at).abs() <= self.config.reach)
        for block in self.blocks:
            h = block(h, time, mask, near, rope)
        clean: torch.Tensor = self.head(self.norm(h))
        return clean

    def loss(
        self, frames: torch.Tensor, codes: torch.Tensor, prints: torch.Tensor, mask: torch.Tensor,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """frames (B, T × patch, 80), mask (B, T): mean absolute error of the clean frames, at a random time and noise."""
        batch, length = mask.shape
        clean = self._standardise(frames, prints).reshape(batch, length, -1)
        # Most examples at t = 0, where the conditional mean is learnt, and which alone a single step needs.
        t = torch.rand(batch) * (torch.rand(batch) < 0.2)
        noise = torch.randn_like(clean)
        x = (1 - t)[:, None, None] * noise + t[:, None, None] * clean
        error = (self(x, t, codes, prints, mask, latents) - clean).abs().unflatten(-1, (-1, BANDS))
        weighted = (error * _weights()).mean((-2, -1))
        return (weighted * mask).sum() / mask.sum()

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, prints: torch.Tensor, latents: torch.Tensor | None = None) -> torch.Tensor:
        """One utterance: codes (T, K), prints (160,), latents (T, W) or none -> frames (T × patch, 80)."""
        mean, spread = self._scale(prints[None])
        return self._estimate(codes, prints, latents) * self.gain * spread[0] + mean[0]

    @torch.no_grad()
    def fit_gain(self, said: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> None:
        """Set `gain` from utterances: frames (T × patch, 80), codes (T, K), prints (160,)."""
        natural = torch.cat([self._standardise(frames[None], prints[None])[0] for frames, _, prints in said])
        estimated = torch.cat([self._estimate(codes, prints) for _, codes, prints in said])
        self.gain[:ENVELOPE] = (natural.std(0) / estimated.std(0))[:ENVELOPE]

    def _scale(self, prints: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and spread (B, 1, 80) that frames are standardised by: the speaker's own, or everyone's."""
        mean, spread = voiceprint.split(prints if self.config.speaker else self.average.expand(len(prints), -1))
        return mean[:, None], spread[:, None]

    def _standardise(self, frames: torch.Tensor, prints: torch.Tensor) -> torch.Tensor:
        mean, spread = self._scale(prints)
        return (frames - mean) / spread

    def _estimate(self, codes: torch.Tensor, prints: torch.Tensor, latents: torch.Tensor | None = None) -> torch.Tensor:
        """Standardised frames of one utterance (T × patch, 80), before `gain`. The same noise for every call."""
        hidden = None if latents is None else latents[None]
        length, patch = len(codes), self.config.patch * BANDS
        mask = torch.ones(1, length, dtype=torch.bool)
        x = torch.randn(length, patch, generator=torch.Generator().manual_seed(0))[None]
        steps = self.config.steps
        for step in range(steps):
            t = step / steps
            clean = self(x, torch.tensor([t]), codes[None], prints[None], mask, hidden)
            x = clean if step == steps - 1 else x + (clean - x) / (1 - t) / steps
        return x.reshape(length * self.config.patch, -1)


def _weights() -> torch.Tensor:
    """(80,): voice and pitch are two figures among eighty, and heard more than one band is."""
    return torch.tensor([1.0] * ENVELOPE + [HEARD] * (BANDS - ENVELOPE))
