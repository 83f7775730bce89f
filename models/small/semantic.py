"""The semantic tokeniser: what is said, hardly who says it.

Speech encoder -> a token and its surroundings -> linear discriminants of phones -> nearest entry of a k-means codebook.
The discriminants come from synthetic voices (`make bases`), whose phones are known: as in the released tokenisers, what
tells words apart is kept and what tells speakers apart is not. Log-mel tokens do not transfer between speakers; these do.
"""

from __future__ import annotations

import numpy as np
import torch

from models.small import whisper

PARTS = 4  # of `surroundings`
SIZE = PARTS * whisper.WIDTH


def at_token_rate(features: np.ndarray, token_rate: float, frames: int) -> np.ndarray:
    """Encoder frames (n, 384) at 50 Hz -> (frames, 384): each token's mean over the time it covers."""
    ends = np.linspace(0, frames, frames + 1) * whisper.FRAME_RATE / token_rate
    total = np.concatenate([np.zeros((1, features.shape[1])), np.cumsum(features.astype(np.float64), 0)])
    # The integral of the step function up to a fractional frame, clamped at the clip's end.
    ends = np.minimum(ends, len(features))
    low = np.floor(ends).astype(int)
    part = (ends - low)[:, None]
    high = np.minimum(low + 1, len(features))
    integral = total[low] + part * (total[high] - total[low])
    width = np.maximum(np.diff(ends), 1e-3)[:, None]
    mean: np.ndarray = (np.diff(integral, axis=0) / width).astype(np.float32)
    # A last token that lies wholly in the padding repeats the one before it.
    for index in np.flatnonzero(np.diff(ends) <= 1e-3):
        mean[index] = mean[index - 1] if index else features[-1]
    return mean


def surroundings(features: np.ndarray, token_rate: float, frames: int) -> np.ndarray:
    """Encoder frames (n, 384) at 50 Hz -> (frames, 4 × 384): of each token, half a token before it, its two halves, and
    half a token after it. A mean over the token alone would not know which of two phones came first."""
    halves = np.pad(at_token_rate(features, 2 * token_rate, 2 * frames), ((1, 1), (0, 0)), mode="edge")
    return np.concatenate([halves[at : at + 2 * frames : 2] for at in range(PARTS)], 1)


class SemanticQuantiser(torch.nn.Module):
    """Discriminants and codebook. `mean`, `projection` (4 × 384, D) and `entries` (V, D) are its weights."""

    mean: torch.Tensor
    projection: torch.Tensor
    entries: torch.Tensor

    def __init__(self, entries: int, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(SIZE))
        self.register_buffer("projection", torch.zeros(SIZE, width))
        self.register_buffer("entries", torch.zeros(entries, width))

    @torch.no_grad()
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(T, 4 × 384) -> ids (T,)."""
        return self.nearest(self.points(features))

    def nearest(self, points: torch.Tensor) -> torch.Tensor:
        """(T, D) -> ids (T,)."""
        # |x - e|² without |x|², which is the same for every entry
        return (self.entries.pow(2).sum(1) - 2 * points @ self.entries.T).argmin(1)

    def points(self, features: torch.Tensor) -> torch.Tensor:
        """(T, 4 × 384) -> (T, D): what is quantised."""
        return (features - self.mean) @ self.projection

    @torch.no_grad()
    def fit_discriminants(self, features: torch.Tensor, phones: torch.Tensor) -> None:
        """Discriminant analysis of `features` (N, 4 × 384) of frames that say `phones` (N,) int64.

        The projection makes what differs within a phone (voices, neighbours, the place in the clip) equally wide in all
        directions, and keeps those in which phones differ most.
        """
        self.mean = features.mean(0)
        counts = torch.bincount(phones).float().clamp(min=1)[:, None]
        means = torch.zeros(len(counts), features.shape[1]).index_add_(0, phones, features) / counts
        between, within = (means - self.mean) * counts.sqrt(), features - means[phones]
        spread = (within.T @ within / len(features)).double()
        spread += 1e-3 * spread.diagonal().mean() * torch.eye(len(spread))
        variances, axes = torch.linalg.eigh(spread)
        whitening = axes / variances.sqrt()
        _, vectors = torch.linalg.eigh(whitening.T @ (between.T @ between / len(features)).double() @ whitening)
        self.projection = (whitening @ vectors[:, -self.entries.shape[1]:].flip(1)).float()

    @torch.no_grad()
    def fit_entries(self, points: torch.Tensor, seed: int, steps: int = 60, batch: int = 20000) -> float:
        """Mini-batch k-means on `points` (N, D); returns the share of their variance that the codebook explains."""
        self.entries = kmeans(points, len(self.entries), torch.Generator().manual_seed(seed), steps, batch)
        chosen = self.entries[self.nearest(points)]
        return 1 - float((points - chosen).pow(2).sum() / (points - points.mean(0)).pow(2).sum())


def kmeans(points: torch.Tensor, entries: int, generator: torch.Generator, steps: int, batch: int) -> torch.Tensor:
    """Mini-batch k-means (N, D) -> (entries, D); an entry that nothing chose restarts at a random point."""
    centres = points[torch.randperm(len(points), generator=generator)[:entries]].clone()
    counts = torch.zeros(entries)
    for step in range(steps):
        sample = points[torch.randint(len(points), (min(batch, len(points)),), generator=generator)]
        nearest = (centres.pow(2).sum(1) - 2 * sample @ centres.T).argmin(1)
        hits = torch.bincount(nearest, minlength=entries).float()
        sums = torch.zeros_like(centres).index_add_(0, nearest, sample)
        counts = 0.7 * counts + hits
        rate = (hits / counts.clamp(min=1e-6))[:, None]
        centres = centres + rate * (sums / hits.clamp(min=1)[:, None] - centres) * (hits > 0)[:, None]
        idle = (counts < 0.5).nonzero().flatten()
        if len(idle) and step < steps - 10:
            centres[idle] = sample[torch.randperm(len(sample), generator=generator)[: len(idle)]]
            counts[idle] = 1.0
    return centres
