"""Work that is spread over processes: order, errors, and what is left of them when somebody stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from models.parts.errors import UserError
from stages.common.parallel import Workers
from tests.conftest import ROOT

# A stage that prints its processes and waits for them.
WAITING = """
import os, time
from stages.common.cli import run
from stages.common.parallel import Workers

def start():
    os.write(1, f"{os.getpid()}\\n".encode())  # in one go: both do it at the same time
    return time.sleep

def main(argv):
    with Workers(start, 2) as workers:
        list(workers.map([int(argv[0])] * 2))

run(main)
"""


def counting() -> Callable[[float], tuple[int, int]]:
    """Work that sleeps, and says where it was done and how often there."""
    calls = 0

    def work(seconds: float) -> tuple[int, int]:
        nonlocal calls
        calls += 1
        time.sleep(seconds)
        return os.getpid(), calls

    return work


def test_results_come_in_order_from_processes_that_each_start_once() -> None:
    with Workers(counting, 2) as workers:
        results = list(workers.map([0.4, 0.1, 0.1, 0.0, 0.0]))
        again = list(workers.map([0.0, 0.0]))
    slow, quick = results[0], results[1:]
    assert slow == (slow[0], 1) and slow[0] not in {os.getpid(), quick[0][0]}
    assert [count for process, count in results if process == quick[0][0]] == [*range(1, len(quick) + 1)]
    assert sorted(again) == sorted([(slow[0], 2), (quick[0][0], len(quick) + 1)])


def test_one_worker_is_this_process() -> None:
    with Workers(counting, 1) as workers:
        assert [*workers.map([0.0]), *workers.map([0.0])] == [(os.getpid(), 1), (os.getpid(), 2)]


def looking() -> Callable[[float], tuple[int, str]]:
    """Work that says where it was done, and which graphics cards are seen there."""

    def work(seconds: float) -> tuple[int, str]:
        time.sleep(seconds)
        return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]

    return work


def test_every_card_has_a_process_that_sees_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,0,GPU-5e1f")
    with Workers(looking, cards=["4", "0", "GPU-5e1f"]) as workers:
        results = [*workers.map([1.0] * 3), *workers.map([0.0] * 3)]
    assert {card for _, card in results[:3]} == {"4", "0", "GPU-5e1f"}
    assert len({*results}) == 3 and os.environ["CUDA_VISIBLE_DEVICES"] == "4,0,GPU-5e1f"
    with Workers(looking, cards=["0"]) as workers:
        assert [*workers.map([0.0])] == [(os.getpid(), "4,0,GPU-5e1f")]  # one needs no process of its own


def test_an_error_is_raised_at_its_turn() -> None:
    def start() -> Callable[[int], int]:
        def work(number: int) -> int:
            if number == 1:
                raise UserError("clip 1: broken")
            time.sleep(0.2 * (number == 0))
            return number

        return work

    with Workers(start, 2) as workers:
        results = workers.map(range(4))
        assert next(results) == 0
        with pytest.raises(UserError, match="^clip 1: broken$"):
            next(results)


def test_an_error_of_the_start_is_raised_too_and_says_where_it_happened() -> None:
    def start() -> Callable[[int], int]:
        raise LookupError("no such codec")

    with Workers(start, 2) as workers, pytest.raises(LookupError, match="no such codec") as raised:
        next(workers.map(range(4)))
    assert "in start" in raised.value.__notes__[0]


def test_a_killed_process_ends_in_one_line() -> None:
    def start() -> Callable[[int], int]:
        def work(number: int) -> int:
            if number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return number

        return work

    with Workers(start, 2) as workers, pytest.raises(UserError, match=r"^a worker process was killed \(SIGKILL\); if memory ran out, free some .*$"):
        list(workers.map(range(9)))


def test_ctrl_c_is_one_line_and_ends_every_process() -> None:
    assert stopped(60, lambda stage: os.killpg(stage.pid, signal.SIGINT)) == (130, "stopped\n")  # as a terminal does it


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_first_by_more_than_its_job(how: signal.Signals) -> None:
    assert stopped(1, lambda stage: stage.send_signal(how)) == (-how, "")


def stopped(seconds: int, stop: Callable[[subprocess.Popen[str]], None]) -> tuple[int, str]:
    """Exit code and last words of a stage that is stopped while its two processes are at jobs of so many seconds.

    Neither of them may be there when it is over.
    """
    command = [sys.executable, "-c", WAITING, str(seconds)]
    stage = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert stage.stdout and stage.stderr
    workers = [psutil.Process(int(stage.stdout.readline())) for _ in range(2)]
    stop(stage)
    code = stage.wait(10)
    _, alive = psutil.wait_procs(workers, timeout=5)
    for worker in alive:
        worker.kill()
    assert not alive
    return code, stage.stderr.read()
