"""Takes: asked for in batches, made and heard in worker processes, and kept by what went into them.

A batch is a folder in `.scratch/takes`, named by the hash of all that its bytes depend on. So a killed run goes on where it
was, and another tolerance, budget or scale takes up what is there: nothing is spoken twice, and nothing is heard twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from stages.common.files import SCRATCH, read_json, read_jsonl, sha256
from stages.common.parallel import Workers
from stages.common.params import Params
from stages.common.training import adapter_file, read_training
from stages.gate.candidates import CODEC, RECORDING, Candidate, candidates
from stages.gate.corpus import Corpus
from stages.gate.keys import code_of, key
from stages.gate.prompts import TIERS, WHOLE, Prompt, Reading
from stages.gate.verdict import Row, measured

TAKES = SCRATCH / "takes"
BATCH_SECONDS = 30.0  # of speech: enough to go through a network together, and little enough that no core waits long for another


@dataclass(frozen=True)
class Batch:
    """What one candidate reads in one go: texts, each with a seed. `segment_words`: how long texts are cut; None: not at all.
    `files`: takes that somebody brings, and no network makes. `decoder`: whose decoder is used, where training changed it."""

    candidate: Candidate
    prompts: tuple[Reading, ...]
    segment_words: int | None
    folder: Path  # where its takes are kept ...
    heard: str  # ... and the file in it that says what the listener heard
    files: tuple[Path, ...] = ()
    decoder: Candidate | None = None


class Listening:
    """`with Listening(...) as listening`: what is heard of recordings. Worker processes start when a take is not there
    yet, and end with the block. `family`: whose networks they load."""

    family: str | None = None

    def __init__(self, params: Params, corpus: Corpus, name: str | None = None):
        self.name, self.params, self.corpus = name, params, corpus
        speaker = sha256(corpus.folder / "manifest.jsonl")
        self._inputs: list[Any] = [speaker, code_of("stages/gate", "stages/common")]
        self._listener = key(speaker, params.gate.listener, corpus.stats["language"])
        self._workers: Workers[Batch, int] | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def recordings(self, prompts: Sequence[Prompt], label: str) -> list[Row]:
        """The rows of recordings."""
        return self._rows([self._batch(RECORDING, some, None, self._inputs) for some in packed([(prompt, 0) for prompt in prompts])], label)

    def _batch(
        self, candidate: Candidate, prompts: Sequence[Reading], segment_words: int | None, inputs: list[Any], files: Sequence[Path] = (),
        decoder: Candidate | None = None,
    ) -> Batch:  # fmt: skip
        asked = [[prompt.id, prompt.text, prompt.clips, seed] for prompt, seed in prompts]
        folder = TAKES / key(inputs, candidate.checkpoint, candidate.scale, asked, segment_words)
        return Batch(candidate, tuple(prompts), segment_words, folder, f"heard-{self._listener}.jsonl", tuple(files), decoder)

    def _rows(self, batches: list[Batch], label: str) -> list[Row]:
        """What was heard, compared with the texts; takes that are not there yet are made first."""
        missing = [batch for batch in batches if not (batch.folder / batch.heard).is_file()]
        if missing:
            with tqdm(total=sum(len(batch.prompts) for batch in missing), desc=label, unit="take", disable=None) as bar:
                for takes in self._team().map(missing):
                    bar.update(takes)
        return [row for batch in batches for row in self._read(batch)]

    def _team(self) -> Workers[Batch, int]:
        if self._workers is None:
            # Not before: PyTorch and the listener take seconds, which a gate that only decides anew saves.
            from models.parts.precision import cards
            from stages.gate.studio import studio

            self._workers = self._open.enter_context(Workers(studio(self.params, self.corpus, self.family), cards=cards()))
        return self._workers

    def _read(self, batch: Batch) -> list[Row]:
        one, heard = batch.candidate, read_jsonl(batch.folder / batch.heard)
        return [
            {
                "family": self.name, "checkpoint": one.name, "epoch": one.epoch, "scale": one.scale,
                "tier": prompt.tier, "prompt": prompt.id, "kind": prompt.kind, "seed": seed, "text": prompt.text,
                **measured(prompt.text, row), "wav": row["wav"] and str(batch.folder / row["wav"]),
            }
            for (prompt, seed), row in zip(batch.prompts, heard, strict=True)
        ]  # fmt: skip


class Exam(Listening):
    """The same, and what a family's candidates make of texts, and its codec of recordings."""

    def __init__(self, name: str, params: Params, corpus: Corpus):
        super().__init__(params, corpus, name)
        self.family, self.rounds = name, corpus.rounds(params.gate, params.reading.long_whole)
        self._block, self._checkpoints = params.family(name), Path(f"data/{name}/checkpoints")
        self.scale, *self._scales = self._block.scales
        self._made = [
            *self._inputs, code_of("models/parts", "models/small", "models/released", f"models/{name}"),
            read_json(Path(f"data/{name}/weights.json"))["sha256"], sha256(Path(f"data/{name}/tokens/voice.json")),
        ]  # fmt: skip
        self._adapters: dict[str, str] = {}

    def candidates(self) -> list[Candidate]:
        """The base and every checkpoint, at the first scale."""
        trained = read_training(self._checkpoints)["epochs"]
        epochs = [0, *(trained if self.params.gate.checkpoints == "all" else trained[-1:])]
        return candidates(epochs, self.scale, self.scale)

    def rescaled(self, promising: Sequence[Candidate]) -> list[Candidate]:
        """The same at the other scales."""
        return [one for scale in self._scales for one in candidates([one.epoch for one in promising], scale, self.scale)]

    def has(self, candidate: Candidate, readings: Sequence[Reading]) -> bool:
        """Whether there are, or can be, takes of these texts: a network reads whatever it is given."""
        return True

    def through_codec(self, prompts: Sequence[Prompt], label: str) -> list[Row]:
        """The rows of the recordings of `prompts`, encoded and decoded again."""
        return self._rows([self._batch(CODEC, some, None, self._made) for some in packed([(prompt, 0) for prompt in prompts])], label)

    def through_tuned(self, candidates: Sequence[Candidate], prompts: Sequence[Prompt], label: str) -> list[Row]:
        """The same with the decoder of each candidate, where training changed it: a row's checkpoint is `codec-` and the candidate."""
        if read_training(self._checkpoints)["settings"].get("parts", ["llm"]) == ["llm"]:
            return []
        batches = []
        for one in candidates:
            inputs = [*self._made, self._adapter(one), one.scale]
            through = replace(CODEC, name=f"{CODEC.name}-{one.name}")
            batches += [self._batch(through, some, None, inputs, decoder=one) for some in packed([(prompt, 0) for prompt in prompts])]
        return self._rows(batches, label)

    def takes(self, asked: Iterable[tuple[Candidate, Sequence[Reading]]], label: str) -> list[Row]:
        """The rows of what each candidate makes of its texts, `BATCH_SECONDS` in a batch; those of `WHOLE` are read in one go."""
        batches = []
        for candidate, prompts in asked:
            inputs = [*self._made, self._adapter(candidate), self._block.dtype, self._block.sampling.model_dump()]
            whole = [one for one in prompts if one[0].tier == WHOLE]
            segmented = [one for one in prompts if one[0].tier != WHOLE]
            batches += [self._batch(candidate, some, None, inputs) for some in packed(whole)]
            batches += [self._batch(candidate, some, self.params.reading.segment_words, inputs) for some in packed(segmented)]
        return self._rows(batches, label)

    def _adapter(self, candidate: Candidate) -> str:
        """The hash of its adapter."""
        if candidate.checkpoint not in self._adapters:
            folder = self._checkpoints / candidate.checkpoint
            self._adapters[candidate.checkpoint] = sha256(adapter_file(folder)) if candidate.epoch else ""
        return self._adapters[candidate.checkpoint]


def packed(prompts: Sequence[Reading]) -> list[list[Reading]]:
    """`prompts` in lists of at most `BATCH_SECONDS`."""
    lists: list[list[Reading]] = []
    left = 0.0
    for prompt, seed in prompts:
        seconds = TIERS[prompt.tier.removesuffix("-whole")]
        if seconds > left:
            lists.append([])
            left = BATCH_SECONDS
        lists[-1].append((prompt, seed))
        left -= seconds
    return lists
