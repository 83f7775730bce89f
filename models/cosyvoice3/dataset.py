"""CosyVoice 3's training format: Parquet with `instruct`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.cosyvoice3.network import INSTRUCT
from models.parts import parquet_set
from models.parts.family import Example


def write(examples: Sequence[Example], folder: Path) -> None:
    parquet_set.write(examples, folder, INSTRUCT)


def read(folder: Path) -> list[Example]:
    return parquet_set.read(folder, INSTRUCT)
