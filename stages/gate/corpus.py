"""data/corpus as the gate needs it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.common.files import SCRATCH, read_json, sha256, write_json
from stages.common.params import GateParams
from stages.common.shards import Clip, Shards, read_manifest
from stages.gate.audio import resampled
from stages.gate.keys import alone, code_of, key
from stages.gate.prompts import Prompt, Round, bank, rounds

if TYPE_CHECKING:
    from stages.gate.speaker import Speaker

CORPUS = Path("data/corpus")
PAUSE = 0.3         # seconds between joined recordings
SPEAKER_CLIPS = 20  # training clips that stand for the speaker in similarities


class Corpus:
    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.stats: dict[str, Any] = read_json(folder / "stats.json")

    @cached_property
    def shards(self) -> Shards:
        return Shards(self.folder)

    def speaker(self) -> Speaker:
        """Who the longest training clips show. Their voice is kept, since every family's gate asks for it."""
        from stages.gate.speaker import Speaker  # loads PyTorch, which a gate that only decides anew can do without

        kept = SCRATCH / "speakers" / f"{key(code_of('stages/gate'), sha256(self.folder / 'manifest.jsonl'))}.json"
        with alone(kept):
            if not kept.is_file():
                train = [row for row in self.manifest if row["split"] == "train"]
                longest = sorted(train, key=lambda row: (-row["seconds"], row["id"]))[:SPEAKER_CLIPS]
                voice = Speaker().of((clip.audio, clip.sample_rate) for clip in (self.shards[row["id"]] for row in longest))
                write_json(kept, None if voice is None else voice.tolist())
        voice = read_json(kept)
        return Speaker(None if voice is None else np.asarray(voice, np.float32))

    def rounds(self, gate: GateParams, whole: bool) -> list[Round]:
        """What candidates are asked to read; with `whole` the longest texts in one go too, as a tier of their own."""
        return rounds(bank(self.manifest, self.stats["words_per_second"], self.stats["language"], gate.seed, whole), gate)

    def clips(self, prompt: Prompt) -> list[Clip]:
        """The recordings that say a held-out prompt."""
        return [self.shards[clip] for clip in prompt.clips]

    def recording(self, prompt: Prompt) -> tuple[np.ndarray, int]:
        """The same, joined, at the highest rate among them."""
        clips = self.clips(prompt)
        rate = max(clip.sample_rate for clip in clips)
        return joined([resampled(clip.audio, clip.sample_rate, rate) for clip in clips], rate), rate


def joined(waves: Sequence[np.ndarray], rate: int) -> np.ndarray:
    """With pauses between them."""
    pause = np.zeros(round(PAUSE * rate), np.float32)
    return np.concatenate([part for wave in waves for part in (pause, wave)][1:])
