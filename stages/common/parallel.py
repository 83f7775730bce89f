"""Both cores at work, in order, with a progress bar."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item], label: str, total: int) -> Iterator[Result]:
    """`map(work, items)` on threads: decoders, NumPy and child processes let the others run meanwhile.

    Only a few items are in flight, so that a corpus of any size passes through little memory. An exception of `work`
    is raised at its item's turn.
    """
    workers = os.cpu_count() or 1
    left = iter(items)
    with ThreadPoolExecutor(workers) as pool, tqdm(total=total, desc=label, unit="clip", disable=None) as bar:
        flight: deque[Future[Result]] = deque(pool.submit(work, item) for item in islice(left, 4 * workers))
        while flight:
            result = flight.popleft().result()
            flight.extend(pool.submit(work, item) for item in islice(left, 1))
            bar.update()
            yield result
