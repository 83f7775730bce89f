"""The same work for every clip, on all cores: one clip a core, each on one thread.

Small networks gain little from many threads on one clip and much from many clips at once. A clip is always computed
alone and on one thread, so that a batch gives bit for bit what single clips give. In one of several processes that share
the cores out, clips take turns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from models.parts.sharing import WORKERS

In = TypeVar("In")
Out = TypeVar("Out")
CPU = torch.device("cpu")


def each(work: Callable[[In], Out], items: Iterable[In], device: torch.device = CPU) -> list[Out]:
    """`[work(item) for item in items]`, without gradients.

    A graphics card takes the items in turn, without TF32: its ten bits change codes.
    """
    if device.type != "cpu":
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return [work(item) for item in items]

    def alone(item: In) -> Out:
        with torch.no_grad():
            return work(item)

    cores = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get(WORKERS, 1)))
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(alone, items))
