"""Finite scalar quantisation: a value in [-1, 1] is rounded to one of a few evenly spaced levels, which is its code."""

from __future__ import annotations

from collections.abc import Sequence

import torch

REACH = 3.0  # standard deviations at which a value reaches the outermost level


def to_values(codes: torch.Tensor, levels: torch.Tensor | int) -> torch.Tensor:
    """Codes 0 … levels-1 to float32 values in [-1, 1]. `levels`: one number, or one for each code along the last axis."""
    return 2 * codes.float() / (levels - 1) - 1


def to_codes(values: torch.Tensor, levels: torch.Tensor | int) -> torch.Tensor:
    """The nearest level (int64) of each value; what lies outside of [-1, 1] gets the outermost."""
    return ((values.float().clamp(-1, 1) + 1) / 2 * (levels - 1)).round().long()


class ScalarQuantiser(torch.nn.Module):
    """Patches (T, P) given their semantic ids -> levels (T, values) of what the semantic id does not say."""

    means: torch.Tensor
    basis: torch.Tensor
    levels: torch.Tensor

    def __init__(self, semantic: int, patch: int, levels: Sequence[int]):
        super().__init__()
        self.register_buffer("means", torch.zeros(semantic, len(levels)))  # of the patches, in the basis
        self.register_buffer("basis", torch.zeros(patch, len(levels)))     # scaled: values come out in [-1, 1]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)

    @torch.no_grad()
    def forward(self, patches: torch.Tensor, semantic: torch.Tensor) -> torch.Tensor:
        return to_codes(patches @ self.basis - self.means[semantic], self.levels)

    @torch.no_grad()
    def fit(self, patches: torch.Tensor, semantic: torch.Tensor, seed: int) -> list[float]:
        """Means and basis from training frames; returns the share of variance that the rounded values explain.

        Nothing in it is random; `seed` is there since `ResidualQuantiser`, in whose place this stands, needs one.
        """
        means, directions = residual_directions(patches, semantic, *self.means.shape)
        rest = patches - means[semantic]
        along = rest @ directions
        reach = REACH * along.std(0).clamp(min=1e-4)
        self.basis.copy_(directions / reach)
        self.means.copy_(means @ self.basis)
        rounded = to_values(to_codes(along / reach, self.levels), self.levels) * reach
        lost = rest.pow(2).sum() - along.pow(2).sum() + (along - rounded).pow(2).sum()
        return [1 - float(lost / rest.pow(2).sum())]


def residual_directions(
    patches: torch.Tensor, semantic: torch.Tensor, entries: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each semantic entry's mean patch (entries, P), and the `width` directions (P, width) in which patches (N, P)
    differ most from theirs, the greatest first."""
    sums = torch.zeros(entries, patches.shape[1]).index_add_(0, semantic, patches)
    counts = torch.bincount(semantic, minlength=entries)[:, None]
    means = (sums + 5 * patches.mean(0)) / (counts + 5)  # a rare entry leans on the average
    rest = patches - means[semantic]
    _, vectors = torch.linalg.eigh(rest.T @ rest / len(rest))
    return means, vectors[:, -width:].flip(1)
