"""Batches of utterances of like length: little padding, and the same batches for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from models.parts.family import Example


def length_batches(examples: Sequence[Example], frames: int, rng: random.Random | None = None) -> list[list[Example]]:
    """Batches of at most `frames` code frames, padding included (an utterance longer than that stands alone).

    With `rng`, lengths are jittered by a tenth and the batches shuffled, so that epochs differ; without, the order is fixed.
    """
    jitter = (lambda: rng.uniform(0.9, 1.1)) if rng else (lambda: 1.0)
    ordered = sorted(examples, key=lambda e: (len(e.codes) * jitter(), e.id))
    batches: list[list[Example]] = []
    longest = 0
    for example in ordered:
        longest = max(longest, len(example.codes))
        if not batches or (len(batches[-1]) + 1) * longest > frames:
            batches.append([])
            longest = len(example.codes)
        batches[-1].append(example)
    if rng:
        rng.shuffle(batches)
    return batches
