"""A corpus made in a moment: noise with the rhythm of syllables, as long as its text asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import yaml

from stages.common.params import CorpusParams
from stages.corpus.sources import Source, read_source

ROOT = Path(__file__).parents[1]
RATE = 24000
SILENCE = 0.4  # seconds at each end of a clip


def speech(text: str, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Float32 (samples,): noise over the whole band, 60 ms a character, between two silences."""
    generator = np.random.default_rng(seed)
    time = np.arange(round((0.3 + 0.06 * len(text)) * rate)) / rate
    sound = 0.1 * generator.standard_normal(len(time)) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))
    return np.pad(sound, round(SILENCE * rate)).astype(np.float32)


def sentences(count: int) -> list[str]:
    nouns = ("river", "garden", "station", "letter", "window", "market", "summer")
    return [f"The {nouns[number % 7]} is number {number} of our walk" for number in range(count)]


def write_folder(folder: Path, count: int = 40) -> Path:
    """`count` clips of 24 kHz WAV, each with its text beside it."""
    folder.mkdir(parents=True)
    for number, text in enumerate(sentences(count)):
        sf.write(folder / f"clip{number:02d}.wav", speech(text, seed=number), RATE)
        (folder / f"clip{number:02d}.txt").write_text(text)
    return folder


def corpus_params(source: Path, **changes: Any) -> CorpusParams:
    """The repository's own settings, for another source, with shares that fill each split of a small corpus."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())["corpus"]
    return CorpusParams(**values | {"source": source, "validation": 0.2, "test": 0.2} | changes)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read(root: Path) -> Source:
    """What the corpus stage finds in a folder, or in a manifest."""
    return read_source(root, "me", "en")


def touch(folder: Path, *names: str) -> None:
    """Files that hold their own names: enough where only names count."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
