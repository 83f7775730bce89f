"""What version 3's flow is trained on (FunAudioLLM/CosyVoice, cosyvoice/flow/flow.py and flow_matching.py).

As upstream corrected it on 2026-01-19: times are drawn evenly. Before, they were warped as the steps of generation are, and
what was trained so made noise. Upstream trains half of its batches in chunks besides, for streaming; here takes are whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from models.released.flow import BANDS, FRAMES
from models.released.flow3 import Flow3

LEFT = 1e-6  # of the noise, in what counts as a mel
UNTOLD = 0.2  # share of the rows that are told nothing, so that guidance has something to compare with
PROMPTED, LONGEST_PROMPT = 0.5, 0.3  # share of the rows that are given how their mel begins; how much of it at most


@dataclass(frozen=True)
class Draws:
    """What is random in a step: `times` (B,) in [0, 1], `noise` (B, 80, F), `told` bool (B,), `prompts` (B,): frames that are given."""

    times: torch.Tensor
    noise: torch.Tensor
    told: torch.Tensor
    prompts: torch.Tensor


def draw(frames: torch.Tensor, longest: int, source: torch.Generator | None = None) -> Draws:
    """For mels of `frames` (B,) out of `longest` each; `source`: None is PyTorch's own."""
    times, told, prompted, share = torch.rand(4, len(frames), generator=source).to(frames.device)
    noise = torch.randn(len(frames), BANDS, longest, generator=source).to(frames.device)
    prompts = (share * (LONGEST_PROMPT * frames + 1)).floor() * (prompted < PROMPTED)
    return Draws(times, noise, told >= UNTOLD, prompts)


def flow_loss(
    flow: Flow3, codes: torch.Tensor, lengths: torch.Tensor, mel: torch.Tensor, speaker: torch.Tensor, draws: Draws
) -> torch.Tensor:
    """codes (B, T), right-padded, lengths (B,) of them, log-mel (B, 80, 2 T), speaker vectors (B, 192) of any length -> the mean
    squared error of the velocity."""
    heard = torch.arange(codes.shape[1], device=codes.device) < lengths[:, None]
    frames = heard.repeat_interleave(FRAMES, 1)
    given = torch.arange(mel.shape[-1], device=mel.device) < draws.prompts[:, None]
    told, times = draws.told[:, None, None], draws.times[:, None, None]
    mu = flow.encode(codes, heard) * told
    spks = flow.spk_embed_affine_layer(F.normalize(speaker, dim=1)) * told[..., 0]
    x = (1 - (1 - LEFT) * times) * draws.noise + times * mel
    velocity = flow.decoder.estimator(x, mu, spks, mel * given[:, None] * told, draws.times, frames)
    error = (velocity - (mel - (1 - LEFT) * draws.noise)) * frames[:, None]
    return error.square().sum() / (frames.sum() * BANDS)
