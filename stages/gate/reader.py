"""A network reads texts: segments, batches, length caps, and failures that stay rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.parts.errors import UserError
from models.parts.family import Codec, Family, Generation, Sampling, Voice
from stages.gate.segments import segments
from stages.gate.spoken import spoken

BATCH = 16    # segments generated together
PAUSE = 0.25  # seconds between the segments of a take
SPARE = 1.0   # seconds that a length cap allows on top: short texts vary more


@dataclass(frozen=True)
class Script:
    """One take to be spoken: `id` and `seed` decide its randomness."""

    id: str
    text: str
    seed: int


@dataclass(frozen=True)
class Spoken:
    """`audio` float32 (samples,), or None with `error`. `finish`: stop | length (a segment hit its cap) | failed."""

    audio: np.ndarray | None
    frames: int
    finish: str
    error: str | None = None


@dataclass(frozen=True)
class Reader:
    """What every network of `family` reads with: its codec, a voice, and how to draw."""

    family: Family
    codec: Codec
    voice: Voice
    sampling: Sampling
    chars_per_second: float

    def read(
        self, network: torch.nn.Module, scripts: Sequence[Script], segment_words: int | None,
        done_with: Callable[[int], object] = lambda _: None,
    ) -> list[Spoken]:  # fmt: skip
        """Read every script in segments of at most so many words (None: in one go).

        Segments of like length go through the network together, and `done_with` counts them.
        """
        jobs = [
            (which, index, text) for which, script in enumerate(scripts)
            for index, text in enumerate(segments(script.text, segment_words))
        ]  # fmt: skip
        jobs.sort(key=lambda job: (len(job[2]), job[0], job[1]))
        done: dict[tuple[int, int], tuple[Generation, np.ndarray] | Exception] = {}
        for start in range(0, len(jobs), BATCH):
            batch = jobs[start : start + BATCH]
            seeds = [_seed(scripts[which], index) for which, index, _ in batch]
            results = self._batch(network, [text for _, _, text in batch], seeds)
            done |= {(which, index): result for (which, index, _), result in zip(batch, results, strict=True)}
            done_with(len(batch))
        parts = [[done[key] for key in sorted(done) if key[0] == which] for which in range(len(scripts))]
        return [self._joined(part) for part in parts]

    def _batch(self, network: torch.nn.Module, texts: list[str], seeds: list[int]) -> list[tuple[Generation, np.ndarray] | Exception]:
        """If a batch fails, each text is tried alone, so that one bad text costs one take."""
        caps = [self._cap(text) for text in texts]
        try:
            generations = self.family.generate(network, texts, self.voice, self.sampling, seeds, caps)
            waves = iter(self.codec.tuned(network).render([one for one in generations if len(one.codes)], self.voice))
            silent = np.zeros(0, np.float32)
            return [(one, next(waves) if len(one.codes) else silent) for one in generations]
        except UserError:
            raise
        except Exception as error:  # whatever a network does: it is a failed take, with its reason
            if len(texts) == 1:
                return [error]
            return [self._batch(network, [text], [seed])[0] for text, seed in zip(texts, seeds, strict=True)]

    def _cap(self, text: str) -> int:
        """Most frames that `text` may take: numbers count as they are spoken."""
        seconds = max(len(text), len(" ".join(spoken(text)))) / self.chars_per_second
        return round((seconds * self.sampling.max_ratio + SPARE) * self.family.card["token_rate"])

    def _joined(self, parts: list[tuple[Generation, np.ndarray] | Exception]) -> Spoken:
        for part in parts:
            if isinstance(part, Exception):
                return Spoken(None, 0, "failed", f"{type(part).__name__}: {part}")
        done = [part for part in parts if not isinstance(part, Exception)]
        pause = np.zeros(round(PAUSE * self.codec.output_sample_rate), np.float32)
        waves = [piece for _, wave in done for piece in (pause, wave)][1:]
        audio = np.concatenate(waves) if waves else np.zeros(0, np.float32)
        frames = sum(len(generation.codes) for generation, _ in done)
        if not np.isfinite(audio).all():
            return Spoken(None, frames, "failed", "the audio holds samples that are not numbers")
        capped = any(generation.finish == "length" for generation, _ in done)
        return Spoken(audio, frames, "length" if capped else "stop")


def _seed(script: Script, index: int) -> int:
    """Fixed by the take's seed, the prompt and the segment, whatever else is generated."""
    digest = hashlib.sha256(f"{script.id}/{index}".encode()).digest()
    return (script.seed + int.from_bytes(digest[:4], "big")) % 2**32
