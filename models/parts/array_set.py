"""Reading a training set of JSON rows, one an utterance, and one NumPy array with the frames of all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from models.parts.errors import UserError

AGAIN = "run the tokenise stage again"


def read_rows(path: Path, fields: dict[str, type], count: str) -> list[dict[str, Any]]:
    """The rows of `path`, with exactly these fields, of which `count` is not below 0. UserError names the row that is not so, or cut."""
    if not path.is_file():
        raise UserError(f"{path}: not there; run the tokenise stage")
    *lines, rest = path.read_bytes().split(b"\n")
    if rest:
        raise UserError(f"{path}: row {len(lines) + 1} is cut; {AGAIN}")
    return [_row(line, fields, count, f"{path}: row {number}") for number, line in enumerate(lines, 1)]


def _row(line: bytes, fields: dict[str, type], count: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        raise UserError(f"{where} is not JSON; {AGAIN}") from None
    if not isinstance(row, dict) or {key: type(value) for key, value in row.items()} != fields or row[count] < 0:
        raise UserError(f"{where} does not hold {', '.join(fields)}; {AGAIN}")
    return row


def read_array(path: Path, dtype: type[np.generic], axes: str, fewest: int = 0) -> np.ndarray:
    """The array of `path`, of two axes, the first at least `fewest` long. `axes` says in words what they are."""
    if not path.is_file():
        raise UserError(f"{path}: not there; {AGAIN}")
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise UserError(f"{path}: not a whole NumPy array; {AGAIN}") from None
    if array.dtype != dtype or array.ndim != 2 or len(array) < fewest:
        raise UserError(f"{path}: {array.dtype} {array.shape}, not {np.dtype(dtype)} {axes}; {AGAIN}")
    return array
