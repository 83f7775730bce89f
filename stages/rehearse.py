"""Rehearse the full path without the released weights: a folder in their layout goes through every stage, as theirs would.

    python -m stages.rehearse --model qwen3_tts                    small sizes, 24 clips of the demo, under a minute
    python -m stages.rehearse --model qwen3_tts --size released    the true sizes, two clips, one step: what it takes

The weights are random, so nothing speaks and nothing is promoted; files, names, keys and shapes are the release's, but all is
computed in float32. It happens in a temporary copy of the repository. Prints time and peak memory of every step.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

import models
from models.parts.errors import UserError
from stages.common import licences
from stages.common.cli import run
from stages.common.files import write_jsonl
from stages.common.params import read_params
from stages.common.training import checkpoint_name

CLIPS = {"small": 24, "released": 2}
SPLIT = {"small": 0.15, "released": 0.0}  # with two clips, both are there to train on
FEWEST_WORDS = 3  # of a clip's text: the gate takes less for no phrase
TEXT = "Please hold the line."
PATH = os.environ["PATH"].split(os.pathsep)
# What `python` is to the stages that DVC starts: it has this process do it.
ASK = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as door:
    door.connect(sys.argv[1])
    socket.send_fds(door, [repr((os.getcwd(), sys.argv[2:])).encode()], [1, 2])
    sys.exit(int(door.recv(8) or 1))
"""


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.rehearse", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--size", choices=[*CLIPS], default="small")
    asked = parser.parse_args(argv)
    if asked.model not in (families := read_params().families):
        raise UserError(f"params.yaml: says nothing of {asked.model}; there are {', '.join(families)}")
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as place:
        rehearse(asked.model, asked.size, Path(place))


def rehearse(name: str, size: str, place: Path) -> None:
    # 1. A release and a copy of the repository, with the demo cut down.
    torch.set_num_threads(1)  # a process with OpenMP's threads can't be forked: they are not there, and are waited for
    family = models.load(name)
    release, root = place / "release", place / "repository"
    began = time.perf_counter()
    family.write_release(release, size)
    written = sum(path.stat().st_size for path in release.rglob("*") if path.is_file())
    print(f"{'release':<13} {time.perf_counter() - began:7.1f} s   {written / 1e9:6.2f} GB written", flush=True)
    copy_repository(root)
    checkpoint = checkpoint_name(shorten(root, name, size))

    # 2. Every step as a user takes it.
    step(root, "make weights", "stages.weights.bring", "--model", name, "--from", str(release))
    step(root, "dvc repro", "dvc", "repro", f"report@{name}", f"export@{name}")
    made = [*(f"takes-{voice}" for voice in own_voices(name)), "corpus"]
    for stage in (*made, *(f"{stage}-{name}" for stage in ("resample", "tokenise", "train", "gate"))):
        took = json.loads((root / f"reports/metrics/{stage}.json").read_text())
        tell(f"  {took['stage']}", took["seconds"], took["peak_mib"] / 2**10)
    step(root, "make export", "stages.export", "--model", name, "--checkpoint", checkpoint)

    # 3. The export loads strictly and speaks.
    export = f"data/{name}/export-{checkpoint}"
    step(root, "make speak", "stages.gate.speak", "--model", name, "--checkpoint", export, "--text", TEXT, "--out", "take.wav")
    files = sorted(path.relative_to(root / export).as_posix() for path in (root / export).rglob("*") if path.is_file())
    print(f"{name}: from released files to an exported voice, {len(files)} files: {', '.join(files)}")


def copy_repository(root: Path, source: Path = Path(".")) -> None:
    """What git tracks in `source`, and what is new and not ignored, as a repository of its own with one commit."""
    listed = _git(source, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--exclude=/data/*/")  # data that is not tracked is large
    for name in filter(None, listed.split("\0")):
        if (source / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, root / name)
    for command in ("init -q", "config user.name copy", "config user.email copy@localhost", "add -A", "commit -qm copy"):
        _git(root, *command.split())


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def shorten(root: Path, name: str, size: str) -> int:
    """Few and short clips, one text a length, one epoch, and takes as short as they may be. Returns the last epoch."""
    demo = root / "data/demo/transcripts.jsonl"
    rows = [json.loads(line) for line in demo.read_text().splitlines()]
    phrases = [row for row in rows if "exclude" not in row and len(row["text"].split()) >= FEWEST_WORDS]
    write_jsonl(demo, sorted(phrases, key=lambda row: len(row["text"]))[: CLIPS[size]])
    path = root / "params.yaml"
    params: dict[str, Any] = yaml.safe_load(path.read_text())
    params |= {"profile": "full", "models": [name]}
    params["corpus"] |= {"validation": SPLIT[size], "test": SPLIT[size]}
    params["gate"] |= {"checkpoints": "last", "screen": 1, "finalists": 1, "batch": 1, "budget": 1}
    params["gate"]["reading"]["full"]["segment_words"] = 60  # two pieces of the longest text, since each adds a second
    block = params[name]["full"]
    if block["train"]["epochs"]:  # the control trains nothing
        block["train"] |= {"epochs": 1, "accumulate": 1, "processes": 1, "shard": False}
    block["sampling"]["max_ratio"] = 0.01
    for voice in own_voices(name):  # it says the corpus
        params["takes"] |= {"voices": [voice], "texts": "data/demo/transcripts.jsonl"}
        params["corpus"] |= {"source": f"data/takes/{voice}", "speaker": voice}
    block["dtype"] = "float32"  # many processors take ten times as long in bfloat16
    if size == "small":
        block["scales"] = block["scales"][:1]  # a listener takes long over what random networks say
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    epochs: int = block["train"]["epochs"]
    return epochs


def own_voices(name: str) -> list[str]:
    """The voice that says the corpus, of a family whose release can't turn recordings into codes."""
    card = licences.card(name)
    return card["voices"][:1] if "unreleased" in card else []


def step(root: Path, label: str, module: str, *arguments: str) -> None:
    """`python -m module` in the copy, and what it took; UserError with its last words if it fails.

    It is a fork of this process, and so are the stages that it starts as `python -m …`: PyTorch and the family, which take
    seconds to load, are loaded once for all.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryDirectory(prefix="python-") as folder:
        with socket.create_server(address := f"{folder}/asked", family=socket.AF_UNIX) as door:
            shim = Path(folder, "python")
            shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -ISc {shlex.quote(ASK)} {shlex.quote(address)} "$@"\n')
            shim.chmod(0o755)
            os.environ["PATH"] = os.pathsep.join([folder, str(Path(sys.executable).parent), *PATH])
            status, gib = attended(door, fork(root, (said.fileno(), said.fileno()), module, arguments))
        seconds = time.perf_counter() - began
        said.seek(0)
        if status:
            words = [line for line in said.read().splitlines() if line.strip() and not line.startswith("ERROR: failed to reproduce")]
            raise UserError(f"rehearsal: {label}: {module} {' '.join(arguments)}: {' / '.join(words[-3:])}")
    tell(label, seconds, gib)


def attended(door: socket.socket, process: int) -> tuple[int, float]:
    """How `process` ended, and the most memory in GiB that it held or one that it asked for at the `door` in the meantime."""
    door.settimeout(0.05)
    most = 0.0
    while True:
        try:
            asking, _ = door.accept()
        except TimeoutError:
            ended, status, usage = os.wait4(process, os.WNOHANG)
            if ended:
                return status, max(most, usage.ru_maxrss / 2**20)
            continue
        with asking:
            said, files, *_ = socket.recv_fds(asking, 2**16, 2)
            folder, (_, module, *arguments) = ast.literal_eval(said.decode())  # as `-m module argument …`
            _, status, usage = os.wait4(fork(Path(folder), files, module, arguments), 0)
            for file in files:
                os.close(file)
            most = max(most, usage.ru_maxrss / 2**20)
            asking.send(str(os.waitstatus_to_exitcode(status)).encode())


def fork(root: Path, files: Sequence[int], module: str, arguments: Sequence[str]) -> int:
    """`python -m module` in `root` as a fork of this process, which writes to two `files`; its number."""
    if not (process := os.fork()):
        os.chdir(root)
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        sys.argv[1:] = arguments
        os._exit(ended(module))
    return process


def ended(module: str) -> int:
    """Run `module` as a program, and give its exit code."""
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


def tell(label: str, seconds: float, gib: float) -> None:
    print(f"{label:<13} {seconds:7.1f} s   {gib:6.2f} GiB at most", flush=True)


if __name__ == "__main__":
    run(main)
