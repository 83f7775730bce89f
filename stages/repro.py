"""Bring everything up to date, if `dvc status` finds something to do.

    python -m stages.repro        (make repro)

DVC runs one stage at a time, and much of a small stage keeps one core busy: PyTorch loads, hashes are looked up, a page is written.
So the small families run side by side, each on its share of the cores and with a `dvc repro` of its own; what they make does not
depend on it. The large ones of profile `full`, which fill a machine, take turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

import yaml
from dvc.cli import main as dvc
from tqdm import tqdm

from models.parts.errors import UserError
from stages.common.cli import run

EVERYTHING = ("dvc", "repro", "--all-pipelines")  # the same as without, but DVC reads its files once and not twice
LANE_GIB = 2  # of memory that a small family takes at most
BEGINS = ("Running stage", "Stage '")  # what DVC says of a stage that runs, or that has not changed
CHORES = ("Updating lock file", "Use `dvc push`", "To track the changes", "\tgit add", "To enable auto staging", "\tdvc config")


def main(argv: list[str]) -> None:
    if argv:
        raise UserError(f"stages.repro: {argv[0]}: takes no arguments; for one family there is `make demo MODEL=cosyvoice3`")
    if dvc(["status", "--quiet"]) == 0:  # in this process, which looks for fewer cycles of objects (stages/__init__.py)
        print("Everything is up to date.")
        return
    from stages.common.params import load_params  # here: it takes a quarter of a second

    params = load_params()
    chains = {name: chain("model", name) for name in params.models} | {name: chain("system", name) for name in params.external}
    shares = cores_each(len(chains)) if params.profile == "tiny" else []
    if len(shares) > 1:
        if call("dvc", "repro", "corpus"):
            sys.exit(1)
        if failed := side_by_side(chains, shares):
            raise UserError(f"{', '.join(failed)}: did not get through; what was wrong stands above")
    sys.exit(call(*EVERYTHING))


def chain(kind: str, name: str) -> list[str]:
    """The stages of one family (a "model") or one system from elsewhere, in dvc.yaml's order."""
    stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return [f"{stage}@{name}" for stage, of in stages.items() if kind in of.get("matrix", {})]


def cores_each(chains: int) -> list[set[int]]:
    """The cores of each of the families that may run at once; one where the system can't bind a process to cores."""
    if not hasattr(os, "sched_getaffinity"):
        return [set()]
    cores, memory = sorted(os.sched_getaffinity(0)), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    lanes = max(1, min(chains, len(cores), int(memory / LANE_GIB)))
    return [{*cores[lane::lanes]} for lane in range(lanes)]


def side_by_side(chains: dict[str, list[str]], shares: Sequence[set[int]]) -> list[str]:
    """`dvc repro` of the stages of each family, in order. Returns the families that failed, after the others have ended."""
    free: SimpleQueue[set[int]] = SimpleQueue()
    for share in shares:
        free.put(share)
    waiting, running = [*chains], dict[int, set[int]]()  # processes, and the cores of each

    def follow(name: str) -> bool:
        cores = free.get()
        waiting.remove(name)
        # Stage by stage: to look at what they depend on, DVC would want the corpus for itself, which another family is reading.
        command = ("dvc", "--wait-for-lock", "repro", "--single-item", *chains[name])
        quiet = os.environ | {"TQDM_DISABLE": "1"}  # bars of several families would mix
        with subprocess.Popen(command, env=quiet, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            bind(process.pid, cores)
            assert process.stdout
            for line in process.stdout:
                if line.strip() and not line.startswith(CHORES):
                    bar.write(f"{name:<12} {line.rstrip()}")
                bar.update(line.startswith(BEGINS))
        del running[process.pid]
        free.put(cores)
        if not waiting:  # those that are not done yet have its cores too
            for other, theirs in [*running.items()]:
                bind(other, theirs | cores)
        return process.returncode == 0

    def bind(process: int, cores: set[int]) -> None:
        """What it starts from now on runs on these."""
        running[process] = cores
        with suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(process, cores)

    with ThreadPoolExecutor(len(shares)) as pool, tqdm(total=sum(map(len, chains.values())), desc="families", unit="stage", disable=None) as bar:
        return [name for name, passed in zip(chains, pool.map(follow, chains), strict=True) if not passed]


def call(*command: str) -> int:
    return subprocess.run(command).returncode


if __name__ == "__main__":
    run(main)
