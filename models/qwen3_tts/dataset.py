"""Qwen3-TTS's training format: JSONL with `audio`, `text`, `ref_audio` and `audio_codes` (T frames of K integers).

Upstream (QwenLM/Qwen3-TTS, finetuning/README.md and dataset.py) has paths in `audio` and `ref_audio` and measures the
reference's speaker vector anew for every item of every epoch. Here both are ids of clips in the resampled shards (a
clip is its own reference), `speaker` names who speaks, and the vectors stand beside the rows in their order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from models.parts.errors import UserError
from models.parts.family import Example

ROWS, VECTORS = "data.jsonl", "ref_audio.safetensors"
AGAIN = "run the tokenise stage again"
TEXTS = ("audio", "text", "ref_audio", "speaker")


def write(examples: Sequence[Example], folder: Path) -> None:
    """UserError for an utterance without frames, before anything is written."""
    lines = []
    for example in examples:
        if not len(example.codes):
            raise UserError(f"utterance {example.id}: no frames, so nothing to learn from; leave it out of the corpus")
        row = {
            "audio": example.id, "text": example.text, "ref_audio": example.id, "speaker": example.speaker,
            "audio_codes": example.codes.tolist(),
        }
        lines.append(json.dumps(row) + "\n")
    vectors = np.stack([e.speaker_embedding for e in examples]) if examples else np.zeros((0, 0), np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ROWS).write_text("".join(lines), encoding="ascii")
    save_file({"vectors": vectors}, folder / VECTORS)


def read(folder: Path) -> list[Example]:
    """What `write` wrote, in order. UserError names the file and the line that is cut or of another shape."""
    path = folder / ROWS
    if not path.is_file():
        raise UserError(f"{path}: not there; run the tokenise stage")
    try:
        *lines, rest = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; {AGAIN}") from None
    if rest:
        raise UserError(f"{path}: line {len(lines) + 1} is cut; {AGAIN}")
    vectors = _vectors(folder / VECTORS)
    if len(vectors) != len(lines):
        raise UserError(f"{path}: {len(lines)} lines, but {VECTORS} has {len(vectors)} vectors; {AGAIN}")
    examples: list[Example] = []
    for number, (line, vector) in enumerate(zip(lines, vectors, strict=True), start=1):
        where = f"{path}: line {number}"
        row = _row(line, where)
        codes = _codes(row["audio_codes"], where)
        if examples and codes.shape[1] != examples[0].codes.shape[1]:
            wanted = examples[0].codes.shape[1]
            raise UserError(f"{where}: {codes.shape[1]} codebooks, but the first line has {wanted}; {AGAIN}")
        examples.append(Example(row["audio"], row["text"], row["speaker"], codes, vector))
    return examples


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        raise UserError(f"{where} is not JSON; {AGAIN}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object; {AGAIN}")
    if wrong := [name for name in TEXTS if not isinstance(row.get(name), str)]:
        raise UserError(f"{where}: {wrong[0]} is missing or not a text; {AGAIN}")
    return row | {"audio_codes": row.get("audio_codes")}


def _codes(values: Any, where: str) -> np.ndarray:
    """(T, K) int32 of a list of T frames of K codes."""
    try:
        codes = np.array(values)
    except ValueError:  # frames of unequal length
        codes = np.zeros(0)
    if codes.ndim != 2 or not codes.size or codes.dtype != np.int64:
        raise UserError(f"{where}: audio_codes are not frames of equally many whole numbers; {AGAIN}")
    if codes.min() < 0 or codes.max() > np.iinfo(np.int32).max:
        raise UserError(f"{where}: audio_codes from {codes.min()} to {codes.max()} can't all be codes; {AGAIN}")
    return codes.astype(np.int32)


def _vectors(path: Path) -> np.ndarray:
    """Float32 (rows, E)."""
    if not path.is_file():
        raise UserError(f"{path}: the speaker vectors are missing; {AGAIN}")
    try:
        vectors = load_file(path).get("vectors")
    except SafetensorError:
        raise UserError(f"{path}: not a whole safetensors file; {AGAIN}") from None
    if vectors is None or vectors.ndim != 2 or vectors.dtype != np.float32:
        raise UserError(f"{path}: no float32 matrix of speaker vectors; {AGAIN}")
    return vectors
