"""A score of values that a flow-matching head drew: what stands where codes have a log-probability.

Nothing is chosen among values, so generation has no probability of them. Yet both paths, generation and training, can say
how well the network's velocity fits the values that came out: at the same time, with the same noise. A state, a condition or a
previous frame that is late by one position gives another velocity, and the alignment check sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

TIME = 0.5  # half noise and half data, so that it does not matter which end a head calls 0


def score_noise(steps: Iterable[int], shape: Sequence[int]) -> torch.Tensor:
    """Standard normal float32 (N, *shape) on the CPU, each row by its step's number in the take alone."""
    rows = [torch.randn(1, *shape, generator=torch.Generator().manual_seed(step)) for step in steps]
    return torch.cat([torch.zeros(0, *shape), *rows])


def value_score(velocity: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """-1/2 mean squared error of velocities (N, ...), float32 (N,): up to a constant, a Gaussian log-density."""
    return -0.5 * (velocity.float() - wanted.float()).flatten(1).square().mean(1)
