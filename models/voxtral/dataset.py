"""Voxtral's training format: `utterances.jsonl`, a row each, and `codes.npy`, the frames of all of them.

`codes.npy` is int32 (K, T), K = 37: row 0 semantic, the others acoustic, each code + 2 as upstream stores it (0 is
EMPTY_AUDIO, 1 END_AUDIO). An utterance is its frames and the end frame: END_AUDIO, then EMPTY_AUDIO for every value.
A row has `id`, `text`, `speaker`, and `start` and `frames`, which say where in T it is (the end frame not counted).
Upstream has published neither trainer nor format; one array for all keeps the number of files small.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.parts.array_set import AGAIN, read_array, read_rows
from models.parts.errors import UserError
from models.parts.family import Example
from models.voxtral.config import EMPTY, END, SPECIALS

ROWS, CODES = "utterances.jsonl", "codes.npy"
FIELDS = {"id": str, "text": str, "speaker": str, "start": int, "frames": int}


def write(examples: Sequence[Example], folder: Path) -> None:
    """Write the set; an empty one has no codes.npy."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CODES).unlink(missing_ok=True)
    lines, parts, start = [], [], 0
    for example in examples:
        if example.speaker_embedding.size:
            raise ValueError(f"{example.id}: this format has no place for a speaker embedding")
        frames, codebooks = example.codes.shape
        row = {"id": example.id, "text": example.text, "speaker": example.speaker, "start": start, "frames": frames}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        end = np.full((1, codebooks), EMPTY, np.int32)
        end[0, 0] = END
        parts += [example.codes.astype(np.int32) + SPECIALS, end]
        start += frames + 1
    (folder / ROWS).write_bytes("".join(lines).encode())
    if parts:
        np.save(folder / CODES, np.ascontiguousarray(np.concatenate(parts).T))


def read(folder: Path) -> list[Example]:
    """What `write` wrote, in order. UserError names the file and the row that is missing, cut or of another shape."""
    path = folder / ROWS
    rows = read_rows(path, FIELDS, "frames")
    # A set without utterances has no array; an array without rows has lost them.
    codes = read_array(folder / CODES, np.int32, "codebooks × frames", fewest=1) if rows or (folder / CODES).exists() else np.zeros((1, 0), np.int32)
    examples, start = [], 0
    for number, row in enumerate(rows, 1):
        end = start + row["frames"]
        if row["start"] != start or end >= codes.shape[1]:
            raise UserError(
                f"{path}: row {number} ({row['id']}) says frames {row['start']} to {row['start'] + row['frames']}, "
                f"but {CODES} goes on at {start} and has {codes.shape[1]}; {AGAIN}"
            )
        frames = codes[:, start:end]
        if codes[0, end] != END or (codes[1:, end] != EMPTY).any() or (frames < SPECIALS).any():
            raise UserError(f"{folder / CODES}: utterance {row['id']} does not end where its row says; {AGAIN}")
        examples.append(Example(row["id"], row["text"], row["speaker"], np.ascontiguousarray(frames.T) - SPECIALS))
        start = end + 1
    if start != codes.shape[1]:
        raise UserError(f"{folder / CODES}: {codes.shape[1]} frames, but the rows of {ROWS} end at {start}; {AGAIN}")
    return examples
