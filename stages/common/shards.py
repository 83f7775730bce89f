"""Audio packed in few large files: Parquet shards of FLAC clips.

DVC slows down with thousands of loose files, so a stage never writes one file per clip. A shard holds up to
`PER_SHARD` clips in the order given; rows are `id` (text), `sample_rate` (Hz), `samples` (count) and `audio`
(FLAC, 24 bit, mono). Bytes depend on the clips alone, so the same input gives the same hash.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from models.parts.errors import UserError
from stages.common.files import read_jsonl

PER_SHARD = 500
PER_GROUP = 50  # clips that one random read loads
SCHEMA = pa.schema(
    [("id", pa.string()), ("sample_rate", pa.int32()), ("samples", pa.int64()), ("audio", pa.binary())]
)


@dataclass(frozen=True)
class Clip:
    """One mono clip: `audio` is float32 in [-1, 1], shape (samples,)."""

    id: str
    sample_rate: int
    audio: np.ndarray


def pcm24(audio: np.ndarray) -> np.ndarray:
    """`audio` as 24-bit integers (int32), clipped at full scale. Exact for what came from 24 bits or fewer."""
    scaled = np.rint(audio.astype(np.float64) * 2**23)
    return np.clip(scaled, -(2**23), 2**23 - 1).astype(np.int32)


def pcm_sha256(audio: np.ndarray) -> str:
    """Hash of a clip's content: of `pcm24(audio)` as little-endian int32, whatever file it was in."""
    return hashlib.sha256(pcm24(audio).astype("<i4").tobytes()).hexdigest()


def encode_flac(audio: np.ndarray, sample_rate: int) -> bytes:
    """FLAC bytes, 24 bit: the rounding (6e-8) is far below what any recording holds."""
    buffer = io.BytesIO()
    # As integers, in the upper 24 of 32 bits: the rounding is ours, so what `pcm_sha256` hashes is what is written.
    sf.write(buffer, pcm24(audio) << 8, sample_rate, format="FLAC", subtype="PCM_24")
    return buffer.getvalue()


def decode_flac(data: bytes) -> np.ndarray:
    """Float32 samples, shape (samples,), of what `encode_flac` made."""
    audio, _ = sf.read(io.BytesIO(data), dtype="float32", always_2d=False)
    return audio


def write_shards(folder: Path, clips: Iterable[Clip]) -> int:
    """Write `clips` to `folder` as shard-00000.parquet …; returns how many clips were written."""
    folder.mkdir(parents=True, exist_ok=True)
    left, count, index = iter(clips), 0, 0
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(left, PER_SHARD)):
            audio = list(pool.map(lambda clip: encode_flac(clip.audio, clip.sample_rate), batch))
            _write(folder / f"shard-{index:05d}.parquet", batch, audio)
            count, index = count + len(batch), index + 1
    return count


def _write(path: Path, clips: list[Clip], audio: list[bytes]) -> None:
    table = pa.table(
        {
            "id": [clip.id for clip in clips],
            "sample_rate": [clip.sample_rate for clip in clips],
            "samples": [len(clip.audio) for clip in clips],
            "audio": audio,
        },
        schema=SCHEMA,
    )
    pq.write_table(table, path, compression="none", row_group_size=PER_GROUP)  # FLAC is compressed already


def read_manifest(corpus: Path) -> list[dict[str, Any]]:
    """The rows of the manifest that stage `corpus` wrote, one a clip; UserError when there is none."""
    path = corpus / "manifest.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: not there; run `dvc repro corpus`")
    return read_jsonl(path)


class Shards:
    """Clips of a folder written by `write_shards`, by id, in order. Reads one row group at a time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files = sorted(folder.glob("shard-*.parquet"))
        if not self.files:
            raise UserError(f"{folder}: no audio shards here; run `dvc repro` to make them")
        self._where: dict[str, tuple[int, int, int]] = {}
        self._cached: tuple[tuple[int, int], pa.Table] | None = None
        for index, file in enumerate(self.files):
            try:
                handle = pq.ParquetFile(file)
                for group in range(handle.num_row_groups):
                    ids = handle.read_row_group(group, columns=["id"]).column("id").to_pylist()
                    self._where.update({clip_id: (index, group, row) for row, clip_id in enumerate(ids)})
            except (pa.ArrowException, OSError, KeyError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{file}: damaged ({reason}); delete {folder} and run `dvc repro`") from None

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._where

    def ids(self) -> list[str]:
        return list(self._where)

    def __getitem__(self, clip_id: str) -> Clip:
        if clip_id not in self._where:
            raise UserError(f"{self.folder}: has no clip {clip_id!r}; delete the folder and run `dvc repro`")
        index, group, row = self._where[clip_id]
        cached = self._cached  # one look: another thread may put its own group there
        if cached is None or cached[0] != (index, group):
            self._cached = cached = (index, group), pq.ParquetFile(self.files[index]).read_row_group(group)
        entry = cached[1].slice(row, 1).to_pylist()[0]
        return Clip(entry["id"], entry["sample_rate"], decode_flac(entry["audio"]))

    def __iter__(self) -> Iterator[Clip]:
        return (self[clip_id] for clip_id in self._where)
