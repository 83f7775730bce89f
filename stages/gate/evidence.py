"""What a number of takes proves about the share that pass: a sequential test with stated error rates.

Takes come in batches, and the verdict is looked at after each; an ordinary interval, looked at so often, would be wrong more
often than it says. So each look may use up a part of the error rate, the early ones little of it (a group-sequential test
with an error-spending function, Lan and DeMets 1983), counted exactly over the binomial. A length whose true rate is below
the one that is asked for passes with a chance of at most `false_pass`, one at or above it fails with at most `false_fail`;
the nearer the rate to what is asked, the oftener the verdict is that the takes decide nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import comb

import numpy as np

PASSES, FAILS, UNDECIDED = "passes", "fails", "undecided"
SPENDING = 2  # after a share t of the takes, t ** 2 of the error rate may be used up
FARTHEST = 400  # takes beyond which "so many would decide" helps nobody


@dataclass(frozen=True)
class Asked:
    """`rate`: share of takes that must pass. At most `budget` takes, looked at after every `batch` of them."""

    rate: float
    false_pass: float
    false_fail: float
    batch: int
    budget: int

    @cached_property
    def limits(self) -> dict[int, tuple[int, int]]:
        """After so many takes: as many passes prove that the rate is reached, as few that it is not."""
        looks = range(self.batch, self.budget + 1, self.batch)
        enough = _crossings(looks, self.rate, self.false_pass)
        failed = _crossings(looks, 1 - self.rate, self.false_fail)  # the same test on the takes that fail
        return {takes: (low, takes - high) for takes, low, high in zip(looks, enough, failed, strict=True)}

    def verdict(self, passed: int, takes: int) -> str:
        """`takes`: a multiple of `batch`, up to `budget`."""
        enough, few = self.limits[takes]
        return PASSES if passed >= enough else FAILS if passed <= few else UNDECIDED

    def needed(self, passed: int, takes: int) -> int | None:
        """Takes that would decide with even odds if the true rate is what it was in these; None if over `FARTHEST`."""
        share = passed / takes

        def decide(size: int) -> bool:
            if size in self.limits:
                return self.verdict(round(share * size), size) != UNDECIDED
            return size * (share - self.rate) ** 2 >= 3 * self.rate * (1 - self.rate)

        return next((size for size in range(takes + self.batch, FARTHEST + 1, self.batch) if decide(size)), None)


def _crossings(looks: range, rate: float, error: float) -> Iterator[int]:
    """For each look the least number of successes that, over all looks so far, comes by chance at `rate` in no more than the
    error that may be used up by then; one more than there are takes where none is so rare."""
    running, before, used = np.ones(1), 0, 0.0  # chances of each number of successes among runs that have not crossed yet
    for takes in looks:
        running = np.convolve(running, _binomial(takes - before, rate))
        tail = np.cumsum(running[::-1])[::-1]  # of at least so many
        allowed = error * (takes / looks[-1]) ** SPENDING - used
        crossing = int(np.argmax(np.append(tail, 0.0) <= allowed + 1e-12))
        used += float(np.append(tail, 0.0)[crossing])
        running[crossing:] = 0.0
        before = takes
        yield crossing


def _binomial(takes: int, rate: float) -> np.ndarray:
    """Chances (takes + 1,) of each number of successes. SciPy has it too, but takes longer to load than a gate to decide."""
    return np.array([comb(takes, passed) * rate**passed * (1 - rate) ** (takes - passed) for passed in range(takes + 1)])
