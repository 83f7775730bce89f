"""CosyVoice 2's training format: Parquet, without an instruction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.parts import parquet_set
from models.parts.family import Example


def write(examples: Sequence[Example], folder: Path) -> None:
    parquet_set.write(examples, folder, None)


def read(folder: Path) -> list[Example]:
    return parquet_set.read(folder, None)
