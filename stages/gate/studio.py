"""What a worker process of the gate does: it lets a candidate speak, and listens.

Kept apart from exam.py because of its weight: a gate that finds every take where it left it imports none of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import torch

import models
from models.parts.family import Sampling
from models.parts.precision import repeatable
from stages.common.checkpoints import Checkpoints
from stages.common.codes import brought_codes
from stages.common.files import read_jsonl, staged, write_jsonl
from stages.common.params import Params
from stages.common.tokens import read_voice
from stages.gate.audio import read_audio, resampled, write_flac
from stages.gate.candidates import CODEC, RECORDING, Candidate
from stages.gate.corpus import Corpus, joined
from stages.gate.exam import Batch
from stages.gate.hearing import Hearing
from stages.gate.keys import alone
from stages.gate.listener import Listener
from stages.gate.reader import Reader, Script
from stages.gate.speaker import Speaker
from stages.gate.verdict import NOTHING

Take = tuple[np.ndarray | None, int, dict[str, Any]]  # audio and its rate, and how it ended
WHOLE_TAKE = {"finish": "stop", "error": None}


def studio(params: Params, corpus: Corpus, name: str | None) -> Callable[[], Callable[[Batch], int]]:
    """What a worker process starts with: it gives the function that works on a batch and returns its number of takes.

    What processes can share is made here, before they fork: the speaker's voice, and the family's modules, which take seconds to load.
    """
    repeatable()
    if name:
        models.load(name)
    return partial(_Studio, params, corpus, corpus.speaker(), name)


class _Studio:
    """`name`: the family; None for recordings, and for takes that somebody brings, alone."""

    def __init__(self, params: Params, corpus: Corpus, speaker: Speaker, name: str | None):
        repeatable()  # a process that is no fork does not have it from the first one
        self.name, self.params, self.corpus = name or "", params, corpus
        self.hearing = Hearing(Listener(params.gate.listener, corpus.stats["language"]), speaker)
        self._speaks: tuple[Candidate, torch.nn.Module] | None = None

    @cached_property
    def reader(self) -> Reader:
        block, family = self.params.family(self.name), models.load(self.name)
        return Reader(
            family, family.codec(block.weights), read_voice(Path(f"data/{self.name}/tokens")),
            Sampling(**block.sampling.model_dump()), self.corpus.stats["chars_per_second"],
        )  # fmt: skip

    @cached_property
    def _brought_codes(self) -> dict[str, np.ndarray] | None:
        return brought_codes(self.corpus.folder, self.reader.codec.contract)

    def network(self, candidate: Candidate) -> torch.nn.Module:
        """The candidate's, kept for the next batch; one at a time, for it may fill the memory."""
        if self._speaks is None or self._speaks[0] != candidate:
            self._speaks = None
            checkpoints = Checkpoints(self.reader.family, self.params.family(self.name), Path(f"data/{self.name}/checkpoints"))
            self._speaks = candidate, checkpoints.network(candidate.name)
        return self._speaks[1]

    def __call__(self, batch: Batch) -> int:
        """Make the takes of `batch` and hear them, unless another gate, which wants the same recordings, has done so meanwhile."""
        with alone(batch.folder):
            if not (batch.folder / batch.heard).is_file():
                self._work(batch)
        return len(batch.prompts)

    def _work(self, batch: Batch) -> None:
        if not batch.folder.is_dir():
            with staged(batch.folder) as folder:
                (folder / "audio").mkdir()
                write_jsonl(folder / "takes.jsonl", self._make(batch, folder))
        takes = read_jsonl(batch.folder / "takes.jsonl")
        made = [(take["wav"], prompt.text) for take, (prompt, _) in zip(takes, batch.prompts, strict=True) if take["wav"]]
        heard = iter(self.hearing.hear([sf.read(batch.folder / wav, dtype="float32") for wav, _ in made], [text for _, text in made]))
        write_jsonl(batch.folder / batch.heard, [take | (next(heard) if take["wav"] else NOTHING) for take in takes])

    def _make(self, batch: Batch, folder: Path) -> Iterator[dict[str, Any]]:
        known = {RECORDING.checkpoint: self._recordings, CODEC.checkpoint: self._through_codec}
        makes = self._brought if batch.files else known.get(batch.candidate.checkpoint, self._read)
        spoken = makes(batch)
        for (prompt, seed), (audio, rate, ended) in zip(batch.prompts, spoken, strict=True):
            wav = None
            if audio is not None:
                wav = f"audio/{prompt.id}-{seed}.flac"
                write_flac(folder / wav, audio, rate)
            yield {"wav": wav} | ended

    def _recordings(self, batch: Batch) -> list[Take]:
        return [(*self.corpus.recording(prompt), WHOLE_TAKE) for prompt, _ in batch.prompts]

    def _brought(self, batch: Batch) -> list[Take]:
        return [(*read_audio(file), WHOLE_TAKE) for file in batch.files]

    def _through_codec(self, batch: Batch) -> list[Take]:
        """Clip by clip, as they were tokenised: joined ones may be longer than an encoder takes."""
        codec, takes = self.reader.codec, list[Take]()
        if batch.decoder:
            codec = codec.tuned(self.network(batch.decoder))
        for prompt, _ in batch.prompts:
            clips = self.corpus.clips(prompt)
            if self._brought_codes is None:
                codes = codec.encode([resampled(clip.audio, clip.sample_rate, codec.contract.sample_rate) for clip in clips])
            else:
                codes = [self._brought_codes[clip.id] for clip in clips]
            decoded = codec.decode(codes, self.reader.voice)
            takes.append((joined(decoded, codec.output_sample_rate), codec.output_sample_rate, WHOLE_TAKE))
        return takes

    def _read(self, batch: Batch) -> list[Take]:
        scripts = [Script(prompt.id, prompt.text, seed) for prompt, seed in batch.prompts]
        spoken = self.reader.read(self.network(batch.candidate), scripts, batch.segment_words)
        rate = self.reader.codec.output_sample_rate
        return [(one.audio, rate, {"frames": one.frames, "finish": one.finish, "error": one.error}) for one in spoken]
