"""VoxCPM's training format: `data.jsonl`, a row an utterance, and `latents.npy`, the patches of all of them.

Upstream (OpenBMB/VoxCPM, scripts/train_voxcpm_finetune.py) takes JSONL with `audio`, a path, and `text`, and encodes the audio
anew in every step. Here `audio` is the id of a clip in the resampled shards, whose latents are encoded once: float32 (N, K), a
row a patch, K = patch × latent, one utterance after the other. A row has `speaker` and `patches`, how many of N are its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.parts.array_set import AGAIN, read_array, read_rows
from models.parts.errors import UserError
from models.parts.family import Example

ROWS, LATENTS = "data.jsonl", "latents.npy"
FIELDS = {"audio": str, "text": str, "speaker": str, "patches": int}


def write(examples: Sequence[Example], folder: Path) -> None:
    """Write the set; an empty one has no latents.npy."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LATENTS).unlink(missing_ok=True)
    lines = []
    for example in examples:
        if example.speaker_embedding.size:
            raise ValueError(f"{example.id}: this format has no place for a speaker embedding")
        row = {"audio": example.id, "text": example.text, "speaker": example.speaker, "patches": len(example.codes)}
        lines.append(json.dumps(row) + "\n")
    (folder / ROWS).write_text("".join(lines), encoding="ascii")
    if examples:
        np.save(folder / LATENTS, np.concatenate([example.codes for example in examples]).astype(np.float32))


def read(folder: Path) -> list[Example]:
    """What `write` wrote, in order. UserError names the file and the row that is missing, cut or of another shape."""
    rows = read_rows(folder / ROWS, FIELDS, "patches")
    # A set without utterances has no array; an array without rows has lost them.
    latents = read_array(folder / LATENTS, np.float32, "patches × values") if rows or (folder / LATENTS).exists() else np.zeros((0, 1), np.float32)
    counts = [row["patches"] for row in rows]
    if sum(counts) != len(latents):
        raise UserError(f"{folder / LATENTS}: {len(latents)} patches, but the rows of {ROWS} have {sum(counts)}; {AGAIN}")
    parts = np.split(latents, np.cumsum(counts)[:-1]) if rows else []
    return [Example(row["audio"], row["text"], row["speaker"], part.copy()) for row, part in zip(rows, parts, strict=True)]
