"""The noise floor: what the gate's listener makes of real recordings that nobody trained on.

The clips of the test split, each by itself and joined into takes of each length tier, are judged like any other take;
from these rows each tier's tolerance follows. It belongs to the corpus, not to a family, so it is computed once and kept in `.scratch/floor`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from tqdm import tqdm

from stages.common.files import SCRATCH, read_json, read_jsonl, staged, write_json
from stages.common.params import GateParams
from stages.common.shards import Shards
from stages.gate.hearing import Hearing
from stages.gate.listener import resampled
from stages.gate.prompts import Prompt, clips, recordings
from stages.gate.verdict import TIERS, Row, Tolerance, judge, tolerance

PAUSE = 0.3        # seconds between joined recordings
SPEAKER_CLIPS = 20  # training clips that stand for the speaker in similarities


class Corpus:
    """data/corpus as the gate needs it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_jsonl(folder / "manifest.jsonl")
        self.stats: dict[str, Any] = read_json(folder / "stats.json")

    @cached_property
    def shards(self) -> Shards:
        return Shards(self.folder)

    def speaker(self) -> list[tuple[np.ndarray, int]]:
        """The longest training clips, as (audio, rate)."""
        train = [row for row in self.manifest if row["split"] == "train"]
        longest = sorted(train, key=lambda row: (-row["seconds"], row["id"]))[:SPEAKER_CLIPS]
        return [(clip.audio, clip.sample_rate) for clip in (self.shards[row["id"]] for row in longest)]

    def recording(self, prompt: Prompt) -> tuple[np.ndarray, int]:
        """The clips of a held-out prompt, joined with pauses, at the highest rate among them."""
        clips = [self.shards[clip] for clip in prompt.clips]
        rate = max(clip.sample_rate for clip in clips)
        pause = np.zeros(round(PAUSE * rate), np.float32)
        parts = [part for clip in clips for part in (pause, resampled(clip.audio, clip.sample_rate, rate))]
        return np.concatenate(parts[1:]), rate


@dataclass(frozen=True)
class Floor:
    """`rows`: recordings as rows of rows.jsonl. `folder` holds their audio, or is None when there are none."""

    rows: list[Row]
    tolerances: dict[str, Tolerance]
    folder: Path | None = None

    def as_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "tolerances": {tier: asdict(one) for tier, one in self.tolerances.items()}}


def from_params(gate: GateParams) -> Floor:
    """The floor where there is no corpus: the settings of params.yaml count from zero."""
    return Floor([], {tier: tolerance([], gate, None) for tier in TIERS})


def noise_floor(corpus: Corpus, gate: GateParams, hearing: Hearing) -> Floor:
    """Hear the test split, or read what an earlier call with the same corpus and the same code heard."""
    key = fingerprint(corpus.folder / "manifest.jsonl", *Path(__file__).parent.glob("*.py"))
    folder = SCRATCH / "floor" / key
    if not folder.is_dir():
        takes = [prompt for tier in TIERS for prompt in recordings(corpus.manifest, tier)] + clips(corpus.manifest)
        with staged(folder) as partial:
            (partial / "audio").mkdir()  # stays empty where no sentence was held out
            write_json(partial / "rows.json", list(_hear(takes, corpus, hearing, partial)))
    heard = read_json(folder / "rows.json")
    rate = corpus.stats["words_per_second"]
    tolerances = {tier: tolerance([row for row in heard if row["tier"] == tier], gate, rate) for tier in TIERS}
    rows = []
    for row in heard:
        reasons = judge(row, tolerances[row["tier"]])
        rows.append(row | {"passed": not reasons, "reasons": reasons})
    return Floor(rows, tolerances, folder)


def _hear(takes: list[Prompt], corpus: Corpus, hearing: Hearing, folder: Path) -> Iterable[Row]:
    def hear(prompt: Prompt) -> Row:
        wav = f"audio/recording/{prompt.id}.flac"
        audio, rate = write_flac(folder / wav, *corpus.recording(prompt))
        return {
            "system": "recording", "tier": prompt.tier, "prompt": prompt.id, "clips": prompt.clips, "text": prompt.text,
            "wav": wav, "finish": "stop", "error": None, **hearing.measure(prompt.text, audio, rate),
        }  # fmt: skip

    with ThreadPoolExecutor() as pool:
        yield from tqdm(pool.map(hear, takes), desc="noise floor", total=len(takes), unit="take", disable=None)


def write_flac(path: Path, audio: np.ndarray, sample_rate: int) -> tuple[np.ndarray, int]:
    """Write 16-bit FLAC and return what it holds: the gate hears exactly what people will."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.clip(audio, -1.0, 1.0 - 2**-15), sample_rate, format="FLAC", subtype="PCM_16")
    return sf.read(path, dtype="float32")[0], sample_rate


def fingerprint(*inputs: object) -> str:
    """One hash of files' bytes and of values' text, in a fixed order."""
    total = hashlib.sha256()
    for path in sorted(one for one in inputs if isinstance(one, Path)):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    total.update(repr([one for one in inputs if not isinstance(one, Path)]).encode())
    return total.hexdigest()[:16]
