"""Systems that were trained elsewhere: somebody brings their takes as files, and these are judged as a family's are.

`make prompts` writes the texts. A folder in data/external/<system> is a checkpoint, and an audio file in it, named by the id of
a text, a take. What is screened, and the first batch of what confirms, must be there; a length whose takes end after that is
judged by those before, and is undecided where they prove nothing.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from models.parts.errors import UserError
from stages.common.audio import SUFFIXES
from stages.common.files import sha256, write_text
from stages.common.params import Params
from stages.gate.audio import read_audio
from stages.gate.candidates import CODEC, RECORDING, Candidate
from stages.gate.corpus import CORPUS, Corpus
from stages.gate.exam import Listening, packed
from stages.gate.prompts import Prompt, Reading, Round
from stages.gate.spoken import spoken
from stages.gate.verdict import Row

FOLDER = Path("data/external")
PROMPTS = Path("reports/prompts.csv")
LEAST = 2  # rounds: the screening, and a batch that confirms


def take_id(reading: Reading) -> str:
    """What the audio of a text is named. The text is in it: audio for another corpus is never taken for this one's."""
    prompt, seed = reading
    return f"{prompt.id}-{seed}-{hashlib.sha256(prompt.text.encode()).hexdigest()[:6]}"


def asked(corpus: Corpus, params: Params) -> list[Round]:
    """How a system goes through a long text is its own affair: it reads each once."""
    return corpus.rounds(params.gate, whole=False)


def ids(rounds: Sequence[Round]) -> list[str]:
    return [take_id(reading) for round in rounds for readings in round.values() for reading in readings]


def write_prompts(params: Params) -> str:
    """Write `PROMPTS`, in the order in which the gate asks for the texts; returns what to do with it."""
    corpus = Corpus(CORPUS)
    rounds, text = asked(corpus, params), io.StringIO()
    readings = [reading for round in rounds for some in round.values() for reading in some]
    csv.writer(text, lineterminator="\n").writerows([
        ("id", "length", "text"), *((take_id(reading), reading[0].tier, reading[0].text) for reading in readings)
    ])  # fmt: skip
    write_text(PROMPTS, text.getvalue())
    seconds = sum(len(spoken(prompt.text)) for prompt, _ in readings) / corpus.stats["words_per_second"]
    return (
        f"{PROMPTS}: {len(readings)} texts, about {seconds:.0f} s of speech; put each into {FOLDER}/<system>/<checkpoint>/<id>.wav, and <system> "
        f"into `external` of params.yaml (the first {len(ids(rounds[:LEAST]))} are the least, the others decide what these leave open)"
    )


class External(Listening):
    """What a system from elsewhere made of the texts. It has the methods of `Exam`."""

    scale = None

    def __init__(self, name: str, params: Params, corpus: Corpus):
        super().__init__(params, corpus, name)
        self.rounds = asked(corpus, params)
        folder = FOLDER / name
        if not folder.is_dir():
            raise UserError(f"{folder}: not there; `make prompts` writes what {name} has to read, and says where the audio goes")
        self._brought = {path.name: _takes(path) for path in sorted(folder.iterdir(), key=_natural) if path.is_dir() and path.name[0] != "."}
        if loose := [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]:
            raise UserError(f"{min(loose)}: audio outside of a checkpoint's folder; make one, {folder}/<checkpoint>/, and move it there")
        if not self._brought:
            raise UserError(f"{folder}: holds no checkpoint; each is a folder, {folder}/<checkpoint>/<id>.wav, with the ids of `make prompts`")

    def candidates(self) -> list[Candidate]:
        """Every checkpoint, by name. UserError where takes are missing that are always asked for, or are no audio; prints what
        else is missing, or is there for no text."""
        least, every, problems = ids(self.rounds[:LEAST]), ids(self.rounds), []
        for name, takes in self._brought.items():
            folder, here = FOLDER / str(self.name) / name, takes.keys()
            if missing := [one for one in least if one not in here]:
                problems.append(f"{folder}: {len(missing)} of the {len(least)} texts that every checkpoint has to read have no audio, like {missing[0]}.wav")
            elif missing := [one for one in every if one not in here]:
                print(f"{folder}: {len(missing)} of {len(every)} texts have no audio, like {missing[0]}.wav: a length is heard until its takes end")
            if unknown := sorted(here - {*every}):
                print(f"{folder}: {len(unknown)} of {len(here)} files are of no text that is asked for, like {takes[unknown[0]].name}: not heard")
        if problems:
            raise UserError(f"{'; '.join(problems)}; `make prompts` writes the texts, {PROMPTS}")
        for takes in self._brought.values():
            for one in every:
                if one in takes:
                    read_audio(takes[one])
        return [Candidate(name, name, number, None) for number, name in enumerate(self._brought, 1)]

    def rescaled(self, promising: Sequence[Candidate]) -> list[Candidate]:
        """Nothing of it can be scaled here."""
        return []

    def has(self, candidate: Candidate, readings: Sequence[Reading]) -> bool:
        """Whether there are takes of all of these texts."""
        return all(take_id(reading) in self._brought[candidate.name] for reading in readings)

    def through_codec(self, prompts: Sequence[Prompt], label: str) -> list[Row]:
        """Its codec, if it has one, is not here."""
        return []

    def through_tuned(self, candidates: Sequence[Candidate], prompts: Sequence[Prompt], label: str) -> list[Row]:
        return []

    def takes(self, asked: Iterable[tuple[Candidate, Sequence[Reading]]], label: str) -> list[Row]:
        """The rows of the takes of these texts, each length by itself: one may end, and go on another day, where others do not."""
        batches = []
        for candidate, readings in asked:
            lengths = groupby(readings, key=lambda reading: reading[0].tier)
            for some in (some for _, length in lengths for some in packed([*length])):
                files = [self._brought[candidate.name][take_id(reading)] for reading in some]
                batches.append(self._batch(candidate, some, None, [*self._inputs, *map(sha256, files)], files))
        return self._rows(batches, label)


def _takes(folder: Path) -> dict[str, Path]:
    """The audio files of a checkpoint by their names without suffix."""
    if folder.name in (RECORDING.name, CODEC.name):
        raise UserError(f"{folder}: `{folder.name}` is what the pages call something else; give the checkpoint another name")
    if folder.is_symlink():
        raise UserError(f"{folder}: a link to a folder, in which DVC sees no change; put the files here")
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."):
        if path.stem in found:
            raise UserError(f"{path}: {found[path.stem].name} is a take of the same text; keep one of them")
        found[path.stem] = path
    return found


def _natural(path: Path) -> list[tuple[str, int]]:
    """Sorts e2 before e10."""
    return [(word, int(number or 0)) for word, number in re.findall(r"(\D*)(\d*)", path.name)]
