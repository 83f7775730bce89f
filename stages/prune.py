"""`make prune`: make room by deleting the checkpoints that lost, from the workspace and from DVC's cache.

    python -m stages.prune --model fish_s2          what would go, what stays and why, and how much is freed
    python -m stages.prune --model fish_s2 --yes    does it

Only after a person has listened. dvc.lock stays as it is, and so does the list of files that DVC's cache has of the output:
the run can still be made again. To DVC its checkpoints are "not in cache", and what needs them trains again, to the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.rwlock import rwlock

from models.parts.errors import UserError
from stages.common.cli import run
from stages.common.files import read_json, read_jsonl, sha256
from stages.common.params import load_params

VERDICTS = Path("reports/verdicts")
EXPERIMENTS = "refs/exps"
QUEUES = (f"{EXPERIMENTS}/stash", f"{EXPERIMENTS}/celery/stash", f"{EXPERIMENTS}/celery/failed")  # every entry of their reflogs is one
BOOKKEEPING = (f"{EXPERIMENTS}/exec/", f"{EXPERIMENTS}/apply/")  # of DVC: where HEAD was, not what somebody ran
AFTERWARDS = (
    "dvc.lock is as it was, and to DVC the output is not in its cache now. `dvc pull` brings it from a remote that has it. `dvc repro` of this family, "
    "or of everything, trains again, to the same bytes; of another family (`dvc repro report@...`) it leaves this one alone."
)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.prune", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--yes", action="store_true", help="delete, not only show")
    asked = parser.parse_args(argv)
    load_params().family(asked.model)
    with nobody_else_at_work(f"data/{asked.model}/checkpoints") as repo:
        prune(asked.model, repo, asked.yes)


@contextmanager
def nobody_else_at_work(folder: str) -> Iterator[Repo]:
    """The DVC repository, while no other command of DVC starts and no stage that runs reads or writes `folder`."""
    try:
        with Repo() as repo, repo.lock, rwlock(repo.tmp_dir, repo.fs, "make prune", [], [os.path.abspath(folder)], False):
            yield repo
    except DvcException as error:
        raise UserError(f"{folder}: nothing is deleted; {str(error).splitlines()[0]}") from None


def prune(name: str, repo: Repo, yes: bool) -> None:
    folder, gate, cache = Path(f"data/{name}/checkpoints"), Path(f"data/{name}/gate"), Cache(Path(repo.cache.local.path))

    # 1. What dvc.lock means by the checkpoints; what the gate found on just these; and that a person has listened.
    lock = parsed(Path("dvc.lock").read_text(encoding="utf-8")) if Path("dvc.lock").is_file() else {}
    output, files = outputs(lock, f"train@{name}", folder, cache)
    _, judged = outputs(lock, f"gate@{name}", gate, cache)
    decided = gate / "verdict.json"
    finished = output and recorded(lock, f"gate@{name}", folder, "deps") == output
    if not (finished and decided.is_file() and md5(decided) == judged.get("verdict.json")):
        raise UserError(f"{gate}: the gate has not finished on the checkpoints that are here; run `dvc repro gate@{name}`")
    verdict, wanted = read_json(decided), listened(name, gate)

    # 2. Which ones stay, and why.
    checkpoints = {one: {digest for path, digest in files.items() if path.startswith(f"{one}/")} for one in sorted(map(top, files)) if one not in files}
    kept = {one: needed_by(one, verdict, wanted) for one in checkpoints}
    for who, theirs in experiments(Path(repo.tmp_dir) / "exps"):
        _, named = outputs(parsed(theirs), f"train@{name}", folder, cache)
        for one, contents in checkpoints.items():
            kept[one] += [who] if contents & {*named.values()} else []

    # 3. What can go. Two files with the same bytes are one in the cache.
    shared = {digest for path, digest in files.items() if kept.get(top(path)) != []}
    going: dict[str, list[Path]] = {}
    for path, digest in files.items():
        if kept.get(top(path)) == []:
            places = [folder / path, *([] if digest in shared else [cache.place(digest)])]
            going.setdefault(top(path), []).extend(filter(os.path.lexists, places))
    going = {one: places for one, places in going.items() if places}
    everything = [place for places in going.values() for place in places]

    # 4. Show it, or do it.
    print(f"{folder}, and its files in {cache.folder}:")
    for one, why in kept.items():
        if why or one in going:
            print(f"  {one}  stays: {', '.join(why)}" if why else f"  {one}  goes: {size(going[one])}")
    if not going:
        print("Nothing to delete.")
        return
    total = size(everything)
    if yes:
        for place in everything:
            place.unlink()
        for one in going:
            remove_empty(folder / one)
        print(f"Freed {total}. {AFTERWARDS}")
        return
    print(f"This would free {total}; `make prune MODEL={name} YES=1` does it.")
    if recorded(parsed(git("show", "HEAD:./dvc.lock")), f"train@{name}", folder) != output:
        print("The last commit has another dvc.lock: commit first, or nobody can tell how these were made.")
    if not cache.folder.is_relative_to(repo.root_dir):
        print("This cache is outside of the repository: others that share it lose the files too.")


def needed_by(checkpoint: str, verdict: dict[str, Any], wanted: dict[str, list[str]]) -> list[str]:
    """Why the gate or a person still needs `checkpoint`. `wanted`: who would ship which candidates."""
    candidates = {one: found for one, found in verdict["candidates"].items() if found["checkpoint"] == checkpoint}
    if not candidates:
        return ["the gate has not judged it"]
    why = ["promoted"] if verdict["promoted"] in candidates else []
    if not why and any(found["confirmed"] for found in candidates.values()):
        why = ["a runner-up"]  # whom the gate confirmed beside the promoted may yet take its place
    return [*why, *(f"{rater} would ship it" for rater, names in wanted.items() if {*names} & {*candidates})]


# --- what DVC knows ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cache:
    folder: Path

    def place(self, digest: str) -> Path:
        """Where the bytes with this hash are, if they are there."""
        return self.folder / digest[:2] / digest[2:]

    def listed(self, digest: str) -> dict[str, str]:
        """The files of a folder by its hash: relative path to hash. None where the list is not there."""
        path = self.place(digest)
        return {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text(encoding="utf-8"))} if path.is_file() else {}


def parsed(lock: str) -> dict[str, Any]:
    found: dict[str, Any] | None = yaml.safe_load(lock)
    return found or {}


def recorded(lock: dict[str, Any], stage: str, path: Path, kind: str = "outs") -> str | None:
    """The hash that a dvc.lock has of what `stage` made, or used, at `path`."""
    entries = lock.get("stages", {}).get(stage, {}).get(kind, [])
    return next((entry["md5"] for entry in entries if entry["path"] == path.as_posix()), None)


def outputs(lock: dict[str, Any], stage: str, path: Path, cache: Cache) -> tuple[str | None, dict[str, str]]:
    """The same with the files of the folder."""
    found = recorded(lock, stage, path)
    return found, cache.listed(found) if found else {}


def experiments(copies: Path) -> Iterator[tuple[str, str]]:
    """What to call each experiment that is kept, queued, failed, or running in one of DVC's `copies`, and its dvc.lock."""
    for line in git("for-each-ref", "--format=%(objectname) %(refname)", EXPERIMENTS).splitlines():
        commit, _, ref = line.partition(" ")
        if ref in QUEUES:
            for entry in git("log", "-g", "--format=%H", ref).split():
                yield f"named by an experiment of the queue (`dvc queue remove {entry[:7]}`)", git("show", f"{entry}:./dvc.lock")
        elif not ref.startswith(BOOKKEEPING):
            name = ref.rpartition("/")[2]
            yield f"named by an experiment (`dvc exp remove {name}`)", git("show", f"{commit}:./dvc.lock")
    for path in sorted([*copies.glob("*/dvc.lock"), *copies.glob("*/*/dvc.lock")]):
        yield f"named by a run in {path.parent}", path.read_text(encoding="utf-8")


def git(*arguments: str) -> str:
    """What git prints; nothing where it fails, as for a commit without a dvc.lock."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout


# --- what people said -------------------------------------------------------------------------------------------------


def listened(name: str, gate: Path) -> dict[str, list[str]]:
    """The raters whose file is on takes that are here, each with the candidates that they would ship. UserError if there is none."""
    takes: dict[str, list[str]] = {}
    for row in read_jsonl(gate / "rows.jsonl"):
        if row["wav"]:
            takes.setdefault(row["checkpoint"], []).append(sha256(gate / row["wav"]))
    # A page gives a rating the hash of its take, and a verdict on a checkpoint one of all its takes.
    together = (hashlib.sha256("".join(sorted(some)).encode()).hexdigest() for some in takes.values())
    here = {*together, *(digest for some in takes.values() for digest in some)}
    found = {}
    for path in sorted((VERDICTS / name).glob("*.json")):
        value = read_json(path)
        try:
            said = [one["sha256"] for one in value["verdicts"] if one["rating"]] + [one["sha256"] for one in value["checkpoints"] if one["verdict"]]
            ship = [one["checkpoint"] for one in value["checkpoints"] if one["verdict"] == "ship"]
            if here & {*said}:
                found[value["rater"]] = ship
        except (KeyError, TypeError):
            raise UserError(f"{path}: not a verdict file; save it again on reports/families/{name}/index.html, and `make verdict FILE=...`") from None
    if not found:
        raise UserError(
            f"{VERDICTS / name}: nobody's verdict on these takes, and what is deleted can't be heard again; "
            f"listen to reports/families/{name}/index.html, save what you say there, and `make verdict FILE=...`"
        )
    return found


# --- files ------------------------------------------------------------------------------------------------------------


def top(path: str) -> str:
    """Of a path in the checkpoints folder, the checkpoint, or the file beside them."""
    return path.partition("/")[0]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def size(places: list[Path]) -> str:
    """What deleting them frees; one file under two names counts once."""
    files = {(one.st_dev, one.st_ino): one.st_size for one in map(os.lstat, places)}
    total = sum(files.values())
    return f"{total / 2**20:.1f} MiB" if total >= 2**20 else f"{total / 2**10:.1f} KiB"


def remove_empty(folder: Path) -> None:
    for path in sorted([folder, *folder.rglob("*")], reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


if __name__ == "__main__":
    run(main)
