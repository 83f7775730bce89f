"""Files that are either whole or absent: everything is written beside its target and renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.parts.errors import UserError

EXPORT = "export.json"  # in an exported folder: what it is and where it comes from
REFERENCE = "reference.wav"  # in a tokenised set and an export: the recording of the speaker that a decoder hears
SCRATCH = Path(".scratch")  # ignored by git and DVC: what a resumable stage has done so far


@contextmanager
def staged(target: Path, *, keep: bool = False) -> Iterator[Path]:
    """A folder to write in, which becomes `target` when the block ends well. If it fails, `target` is as it was.

    The folder is fresh, stands beside `target`, and goes away on failure. With `keep` it is `.scratch/<target>`, holds
    what an earlier, interrupted run left there, and stays on failure: for stages that continue where they stopped.
    """
    folder = SCRATCH / target if keep else _beside(target, "partial")
    recover(target)
    if not keep:
        _remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        if not keep:
            _remove(folder)
        raise
    publish(folder, target)


def publish(folder: Path, target: Path) -> None:
    """Let a finished folder take the place of `target`, which is whole at every moment but between two renames."""
    old = _beside(target, "old")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove(old)
    if target.exists():
        target.rename(old)
    folder.rename(target)
    _remove(old)


def recover(target: Path) -> None:
    """Put back what `publish` had just moved aside when it was killed."""
    old = _beside(target, "old")
    if old.exists() and not target.exists():
        old.rename(target)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{suffix}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `path` (UTF-8, newlines as given) by rename, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path, "partial")
    partial.write_text(text, encoding="utf-8", newline="")
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Sorted keys, one space of indent, a newline at the end. NaN and infinity are not JSON and raise ValueError."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One object a line, keys in the order given."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """The value in `path`; UserError naming the file when it is missing or not JSON."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}: not JSON ({error.msg})") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of `path`, one a line; empty lines do not count. UserError naming the file and the line."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # not splitlines: texts may hold U+2028
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {number}: not JSON ({error.msg}); each line is one JSON object") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number}: not a JSON object, which each line must be")
        rows.append(row)
    return rows


def read_text(path: Path) -> str:
    """UserError naming the file when it is missing or not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, not a file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start}: not UTF-8 text; save the file as UTF-8") from None


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
