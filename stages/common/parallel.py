"""All cores at work, and the results in order: threads for what lets go of Python's lock, processes for what holds it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Self, TypeVar

from tqdm import tqdm

from models.parts.errors import UserError
from models.parts.sharing import WORKERS

DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
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


class Workers(Generic[Item, Result]):
    """`with Workers(start) as workers`: processes for jobs that take seconds, in as many rounds of `map` as are needed.

    `start` runs once in each process and gives what does the work there. Processes are forks: they have what is in memory
    here, but none of the threads, so networks that bring threads of their own (CTranslate2, ONNX Runtime) are made in
    `start`. With one worker everything runs in this process. None: one a core. No process outlives this one or the block.

    `cards`: the graphics cards that are there, as `models.parts.precision.cards` says. Each serves one worker, which sees no
    other; since a process that is forked can't use a card, several of them begin anew, and `start` is pickled.
    """

    def __init__(self, start: Callable[[], Callable[[Item], Result]], workers: int | None = None, cards: Sequence[str] = ()):
        self._start, self._cards = start, cards
        self._count = len(cards) or workers or len(os.sched_getaffinity(0))
        self._team: dict[Connection, BaseProcess] = {}  # each process by our end of a pipe to it
        self._here: Callable[[Item], Result] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for member in self._team.values():
            member.kill()
            member.join()

    def map(self, items: Iterable[Item]) -> Iterator[Result]:
        """The result of each item, in order. An exception is raised at its item's turn; UserError if a process is killed.

        Items and results are pickled. After an exception, or when it is not run to its end, the workers are of no more use.
        """
        if self._count == 1:
            self._here = self._here or self._start()
            yield from map(self._here, items)
            return
        left, flight, turn = enumerate(items), dict[Connection, int](), 0  # which process has the item of which place
        done: dict[int, tuple[Any, BaseException | None]] = {}

        def hand_on(pipe: Connection, place: int, item: Item) -> None:
            flight[pipe] = place
            with suppress(ConnectionError):  # it has died, as the next answer will tell
                pipe.send(item)

        idle = [*self._team]
        for place, item in islice(left, self._count):
            hand_on(idle.pop() if idle else self._begin(), place, item)
        while flight:
            for pipe in wait([*flight]):
                assert isinstance(pipe, Connection)
                try:
                    done[flight.pop(pipe)] = pipe.recv()
                except (EOFError, ConnectionError):
                    raise UserError(_died(self._team[pipe])) from None
                for place, item in islice(left, 1):
                    hand_on(pipe, place, item)
            while turn in done:
                result, error = done.pop(turn)
                if error:
                    raise error
                yield result
                turn += 1

    def _begin(self) -> Connection:
        ours, theirs = multiprocessing.Pipe()
        environment, inherited = {WORKERS: str(self._count)}, [*self._team, ours]
        if self._cards:
            environment, inherited = environment | {"CUDA_VISIBLE_DEVICES": self._cards[len(self._team)]}, []
        context = multiprocessing.get_context("spawn" if self._cards else "fork")
        process: BaseProcess = context.Process(target=_serve, args=(self._start, theirs, inherited, environment), daemon=True)  # type: ignore[attr-defined]
        process.start()
        theirs.close()  # so that its end is ours to notice
        self._team[ours] = process
        return ours


def _serve(start: Callable[[], Callable[[Any], Any]], pipe: Connection, others: list[Connection], environment: dict[str, str]) -> None:
    """What a process does: item after item, until there is nobody to ask for more."""
    os.environ |= environment  # before anything asks for a card
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others
    die_with_parent()
    for other in others:
        other.close()  # held open here, they would hide that the first process is gone
    work = None
    try:
        while True:
            item = pipe.recv()
            answer: tuple[Any, BaseException | None]
            try:
                work = work or start()
                answer = work(item), None
            except Exception as error:
                if not isinstance(error, UserError):
                    error.add_note(traceback.format_exc())  # what a pickled one would lose
                answer = None, error
            pipe.send(answer)
    except (EOFError, ConnectionError):
        pass


def die_with_parent() -> None:
    """If the process that started this one is killed, nobody goes on writing where its heir will."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)


def how_it_ended(code: int) -> str:
    """The exit code of a process that failed, in words."""
    return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"


def _died(process: BaseProcess) -> str:
    process.join()
    return f"a worker process {how_it_ended(process.exitcode or 0)}; if memory ran out, free some or use fewer cores, as `taskset -c 0` before the command does, and run it again"
