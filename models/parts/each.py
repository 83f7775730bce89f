"""The same work for every clip, on all cores: one clip a core, each on one thread.

Small networks gain little from many threads on one clip and much from many clips at once. A clip is always computed
alone and on one thread, so that a batch gives bit for bit what single clips give.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

In = TypeVar("In")
Out = TypeVar("Out")


def each(work: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    """`[work(item) for item in items]`, without gradients."""

    def alone(item: In) -> Out:
        with torch.no_grad():
            return work(item)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(alone, items))
