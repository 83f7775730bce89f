"""A small release of CosyVoice 2 or 3, as `make weights` leaves it, and a place where stages run on it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import models
from models.parts.family import Example, Voice
from models.parts.speech_lm import SpeechLMFamily
from models.released.cosyvoice.codec import CosyVoiceCodec
from stages.common.files import write_json, write_jsonl
from stages.common.shards import Clip, write_shards
from stages.common.weights import record
from stages.weights.convert import convert, converted

ROOT = Path(__file__).parents[1]
RATE = 24000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(RATE * seconds))).astype(np.float32)


def codes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 6561, (count, 1)).astype(np.int32)


class Release:
    def __init__(self, version: int, place: Path):
        self.version = version
        family: Any = models.load(f"cosyvoice{version}")
        self.family: SpeechLMFamily = family
        self.folder = place / "weights"
        self.family.write_release(place / "release", "small")
        for path in (place / "release").rglob("*"):
            if path.is_file():
                name = path.relative_to(place / "release").as_posix()
                target = self.folder / converted(name)
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.name == path.name:
                    target.write_bytes(path.read_bytes())
                else:
                    convert(path, name, target)
        codec = self.family.codec(self.folder)
        assert isinstance(codec, CosyVoiceCodec)
        self.codec = codec
        clip = noise(2.51)
        prompt = Example("ref", "Hold the 2 lines.", "ann", self.codec.prompt(clip))
        self.voice = Voice("ann", self.codec.speaker_embedding(clip), (prompt,), clip, RATE)


_places: list[tempfile.TemporaryDirectory[str]] = []


@cache
def release(version: int) -> Release:
    """The release of a version, made once for all tests of a process, which leave it as it is."""
    _places.append(tempfile.TemporaryDirectory(prefix=f"cosyvoice{version}-"))
    return Release(version, Path(_places[-1].name))


def workplace(place: Path, name: str, weights: Path, seconds: Sequence[float], **train: Any) -> Path:
    """A folder with params.yaml and resampled noises of these lengths, all to train on but the last, for tokenise and train of
    the family `name` on the release in `weights`. `train`: changes of its settings."""
    place.mkdir(parents=True, exist_ok=True)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params |= {"models": [name]}
    params[name]["tiny"] |= {"weights": str(weights), "train": params[name]["full"]["train"] | train}
    (place / "params.yaml").write_text(yaml.safe_dump(params))
    clips = [Clip(f"clip-{number:02d}", RATE, noise(length, number)) for number, length in enumerate(seconds)]
    write_shards(place / f"data/{name}/resampled", clips)
    rows = [
        {
            "id": clip.id, "text": "Please hold the line.", "speaker": "ann", "language": "en", "sample_rate": RATE, "samples": len(clip.audio),
            "split": "validation" if clip is clips[-1] else "train", "seconds": length, "sha256": hashlib.sha256(clip.audio.tobytes()).hexdigest(),
        }
        for clip, length in zip(clips, seconds, strict=True)
    ]  # fmt: skip
    write_jsonl(place / "data/corpus/manifest.jsonl", rows)
    write_json(place / f"data/{name}/weights.json", record(weights, {}, {}))
    return place
