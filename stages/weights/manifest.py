"""Which released weights are here: `manifest.json` beside them says it in full, `weights.lock` in git says it in short."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from models.parts.errors import UserError
from stages.common import licences
from stages.common.files import read_json, sha256, write_text

FOLDER = Path("data/weights")
MANIFEST = "manifest.json"
LOCK = Path("weights.lock")
LOCK_HEADER = """\
# Which released weights this repository works with; `make weights` writes it. null: never brought in.
# commits: of the repositories that they came from, {} for a folder.
# sha256: of the lines that sha256sum prints for the files, sorted by name.
"""


def contents(folder: Path) -> list[str]:
    """The files of a weights folder by name, without what we put beside them."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name != MANIFEST)


def digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """One hash of the files of a manifest: of their names and hashes."""
    return hashlib.sha256("".join(f"{files[name]['sha256']}  {name}\n" for name in sorted(files)).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / MANIFEST)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(isinstance(file, dict) and "sha256" in file for file in files.values()):
        raise UserError(f"{folder / MANIFEST}: not a manifest of `make weights`; run it again")
    return dict(manifest)


def check_bytes(folder: Path, family: str) -> dict[str, Any]:
    """The manifest of `folder`, once every file has the bytes that it says and weights.lock means these weights."""
    manifest, way_out = read_manifest(folder), f"run `make weights MODEL={family}` again"
    files, here = manifest["files"], contents(folder)
    for name in sorted({*files, *here}):
        if name not in files:
            raise UserError(f"{folder / name}: not in {MANIFEST}; take it out of the folder")
        if name not in here:
            raise UserError(f"{folder / name}: not there, but in {MANIFEST}; {way_out}")
        if sha256(folder / name) != files[name]["sha256"]:
            raise UserError(f"{folder / name}: other bytes than {MANIFEST} says; {way_out}")
    locked = read_lock().get(family) or {}
    if locked.get("sha256") != digest(files):
        meant = f"means others ({_short(locked)})" if locked else "knows of none"
        raise UserError(f"{folder}: not the weights that {LOCK} means, which {meant}; {way_out}, or restore {LOCK} with git")
    return manifest


def _short(locked: Mapping[str, Any]) -> str:
    return ", ".join(f"{id} at {commit[:12]}" for id, commit in locked["commits"].items()) or "from a folder"


def read_lock() -> dict[str, dict[str, Any] | None]:
    """weights.lock by family; without the file, nobody has brought anything in."""
    if not LOCK.is_file():
        return {}
    way_out = "restore it with git"
    try:
        lock = yaml.safe_load(LOCK.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{LOCK}: line {mark.line + 1 if mark else 1}: not YAML; {way_out}") from None
    if not isinstance(lock, dict):
        raise UserError(f"{LOCK}: not a list of families; {way_out}")
    for family, entry in lock.items():
        if entry is not None and not (isinstance(entry, dict) and isinstance(entry.get("commits"), dict) and isinstance(entry.get("sha256"), str)):
            raise UserError(f"{LOCK}: {family}: must have commits and sha256; {way_out}")
    return lock


def write_lock(family: str, commits: Mapping[str, str], sha: str) -> None:
    """Note what was brought in. Every family has its line, so that DVC can name it."""
    lock = {name: None for name in licences.families()} | read_lock() | {family: {"commits": dict(commits), "sha256": sha}}
    write_text(LOCK, LOCK_HEADER + yaml.safe_dump({name: lock[name] for name in sorted(lock)}, sort_keys=True, width=200))
