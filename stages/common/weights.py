"""Which weights a family has. Of released ones, `manifest.json` beside them says it in full, `weights.lock` in git in short."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from models.parts.errors import UserError
from stages.common.files import read_json, sha256, write_text

FOLDER = Path("data/weights")
MANIFEST = "manifest.json"
KEPT, KEPT_TEXT = ".gitignore", "# Keeps the folder in git, so that DVC finds it; `make weights` puts the released weights here.\n"
LOCK = Path("weights.lock")
LOCK_HEADER = """\
# Which released weights this repository works with; `make weights` writes it.
# commits: of the repositories that they came from, {} for a folder.
# sha256: of the lines that sha256sum prints for the files, sorted by name.
# {} instead of both: nothing was brought in. DVC wants an entry for every family.
"""


def identify(name: str, weights: Path) -> dict[str, Any]:
    """What `weights` of family `name` are, and one hash of it all, for data/NAME/weights.json.

    DVC can't pick a dependency by profile, so this is the same as long as these weights are: released weights that come in
    make no stage of the tiny profile train again, and one other byte in them makes every stage of the full profile do so.
    UserError where they are not what they should be, or where DVC would not see a change.
    """
    tiny = Path("models") / name / "tiny"
    if weights == tiny:  # a base of this repository's, in git
        read = [path for kind in ("*.safetensors", "config.json", "tokenizer.json") for path in weights.rglob(kind)]
        return record(weights, {}, {path.relative_to(weights).as_posix(): sha256(path) for path in read})
    if weights != FOLDER / name:
        raise UserError(
            f"params.yaml: weights of {name}: {weights}: only {tiny} and {FOLDER / name} are watched; bring them "
            f"in with `make weights MODEL={name} FROM={weights}` and set weights: {FOLDER / name}"
        )
    if not (weights / MANIFEST).is_file():
        raise UserError(f"{weights}: no {MANIFEST}, so nobody knows what it holds; bring weights in with `make weights MODEL={name}`")
    manifest = check_bytes(weights, name)
    return record(weights, manifest["commits"], hashes(manifest))


def record(weights: Path, commits: dict[str, str], files: dict[str, str]) -> dict[str, Any]:
    return {"folder": str(weights), "commits": commits, "files": files, "sha256": digest(files)}


def contents(folder: Path) -> list[str]:
    """The files of a weights folder by name, without what we put beside them."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name not in (MANIFEST, KEPT))


def hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of each file of a manifest."""
    return {name: file["sha256"] for name, file in manifest["files"].items()}


def digest(files: Mapping[str, str]) -> str:
    """One hash of files: of their names and hashes."""
    return hashlib.sha256("".join(f"{files[name]}  {name}\n" for name in sorted(files)).encode()).hexdigest()


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / MANIFEST)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(isinstance(file, dict) and "sha256" in file for file in files.values()):
        raise UserError(f"{folder / MANIFEST}: not a manifest of `make weights`; run it again")
    return dict(manifest)


def check_bytes(folder: Path, family: str) -> dict[str, Any]:
    """The manifest of `folder`, once every file has the bytes that it says and weights.lock means these weights."""
    manifest, way_out = manifest_of(folder), f"run `make weights MODEL={family}` again"
    files, here = hashes(manifest), contents(folder)
    for name in sorted({*files, *here}):
        if name not in files:
            raise UserError(f"{folder / name}: not in {MANIFEST}; take it out of the folder")
        if name not in here:
            raise UserError(f"{folder / name}: not there, but in {MANIFEST}; {way_out}")
        if sha256(folder / name) != files[name]:
            raise UserError(f"{folder / name}: other bytes than {MANIFEST} says; {way_out}")
    locked = read_lock().get(family, {})
    if locked.get("sha256") != digest(files):
        meant = f"means others ({_short(locked)})" if locked else "knows of none"
        raise UserError(f"{folder}: not the weights that {LOCK} means, which {meant}; {way_out}, or restore {LOCK} with git")
    return manifest


def _short(locked: Mapping[str, Any]) -> str:
    return ", ".join(f"{id} at {commit[:12]}" for id, commit in locked["commits"].items()) or "from a folder"


def read_lock() -> dict[str, dict[str, Any]]:
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
        if entry != {} and not (isinstance(entry, dict) and isinstance(entry.get("commits"), dict) and isinstance(entry.get("sha256"), str)):
            raise UserError(f"{LOCK}: {family}: must have commits and sha256, or be {{}}; {way_out}")
    return lock


def write_lock(family: str, commits: Mapping[str, str], sha: str) -> None:
    """Note what was brought in."""
    lock = read_lock() | {family: {"commits": dict(commits), "sha256": sha}}
    write_text(LOCK, LOCK_HEADER + yaml.safe_dump(lock, sort_keys=True, width=200))
