"""Rehearse the full path without the released weights: a folder in their layout goes through every stage, as theirs would.

    python -m stages.rehearse --model qwen3_tts                    small sizes, 24 clips of the demo, under a minute
    python -m stages.rehearse --model qwen3_tts --size released    the true sizes, two clips, one step: what it takes

The weights are random, so nothing speaks and nothing is promoted; files, names, keys and shapes are the release's. It all
happens in a temporary copy of the repository. Prints time and peak memory of every step.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

import models
from models.parts.errors import UserError
from stages.common.cli import run
from stages.common.files import write_jsonl
from stages.common.params import load_params

CLIPS = {"small": 24, "released": 2}
SPLIT = {"small": 0.15, "released": 0.0}  # with two clips, both are there to train on
WORDS = range(4, 9)  # of the clips' texts
CHECKPOINT = "epoch-01"
TEXT = "Please hold the line."


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.rehearse", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--size", choices=[*CLIPS], default="small")
    asked = parser.parse_args(argv)
    load_params().family(asked.model)
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as place:
        rehearse(asked.model, asked.size, Path(place))


def rehearse(name: str, size: str, place: Path) -> None:
    # 1. A release and a copy of the repository, with the demo cut down.
    family = models.load(name)
    release, root = place / "release", place / "repository"
    began = time.perf_counter()
    family.write_release(release, size)
    written = sum(path.stat().st_size for path in release.rglob("*") if path.is_file())
    print(f"{'release':<13} {time.perf_counter() - began:7.1f} s   {written / 1e9:6.2f} GB written", flush=True)
    copy_repository(root)
    shorten(root, name, size)

    # 2. Every step as a user takes it.
    step(root, "make weights", "python", "-m", "stages.weights.bring", "--model", name, "--from", str(release))
    step(root, "dvc repro", "dvc", "repro", f"report@{name}", f"export@{name}")
    for stage in ("corpus", *(f"{stage}-{name}" for stage in ("resample", "tokenise", "train", "gate"))):
        took = json.loads((root / f"reports/metrics/{stage}.json").read_text())
        tell(f"  {took['stage']}", took["seconds"], took["peak_mib"] / 2**10)
    step(root, "make export", "python", "-m", "stages.export", "--model", name, "--checkpoint", CHECKPOINT)

    # 3. The export loads strictly and speaks.
    export = f"data/{name}/export-{CHECKPOINT}"
    step(root, "make speak", "python", "-m", "stages.gate.speak", "--model", name, "--checkpoint", export, "--text", TEXT, "--out", "take.wav")
    files = sorted(path.relative_to(root / export).as_posix() for path in (root / export).rglob("*") if path.is_file())
    print(f"{name}: from released files to an exported voice, {len(files)} files: {', '.join(files)}")


def copy_repository(root: Path, source: Path = Path(".")) -> None:
    """What git tracks in `source`, and what is new and not ignored, as a repository of its own with one commit."""
    listed = _git(source, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (source / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, root / name)
    for command in ("init -q", "config user.name copy", "config user.email copy@localhost", "add -A", "commit -qm copy"):
        _git(root, *command.split())


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def shorten(root: Path, name: str, size: str) -> None:
    """Few clips, one text a length, one epoch, and takes of a second or two: random weights never stop by themselves."""
    demo = root / "data/demo/transcripts.jsonl"
    rows = [json.loads(line) for line in demo.read_text().splitlines()]
    chosen = [row for row in rows if "exclude" not in row and len(row["text"].split()) in WORDS][: CLIPS[size]]
    write_jsonl(demo, chosen)
    path = root / "params.yaml"
    params: dict[str, Any] = yaml.safe_load(path.read_text())
    params |= {"profile": "full", "models": [name]}
    params["corpus"] |= {"validation": SPLIT[size], "test": SPLIT[size]}
    params["gate"] |= {"prompts": 1, "checkpoints": "last"}
    block = params[name]["full"]
    block["train"] |= {"epochs": 1, "accumulate": 1}
    block["sampling"]["max_ratio"] = 0.1
    if size == "small":
        block["dtype"] = "float32"  # many processors take ten times as long in bfloat16
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def step(root: Path, label: str, *command: str) -> None:
    """Run one command in the copy and print what it took; UserError with its last words if it fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=root, env=os.environ | {"PATH": path}, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)  # of the command and all that it started
        seconds = time.perf_counter() - began
        said.seek(0)
        if status:
            words = [line for line in said.read().splitlines() if line.strip() and not line.startswith("ERROR: failed to reproduce")]
            raise UserError(f"rehearsal: {label}: {' '.join(command)}: {' / '.join(words[-3:])}")
    tell(label, seconds, usage.ru_maxrss / 2**20)


def tell(label: str, seconds: float, gib: float) -> None:
    print(f"{label:<13} {seconds:7.1f} s   {gib:6.2f} GiB at most", flush=True)


if __name__ == "__main__":
    run(main)
