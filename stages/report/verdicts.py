"""What people heard: the verdict files that the listening page saves and the repository reads back.

The page downloads `verdicts-<family>-<rater>.json`; `make verdict FILE=…` checks it and puts it into
reports/verdicts/<family>/<rater>.json, from where the next page shows it. A file there is what `make prune` asks for.
Every entry carries the hash of the audio it was given for, so that a verdict never sticks to a take that has been
generated anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from models.parts.errors import UserError
from stages.common.files import read_json, sha256, write_json
from stages.report.findings import counted
from stages.report.records import NoiseFloor, Recordings, Take, made_by, read_one, read_rows, recorded_as, validated

FOLDER = Path("reports/verdicts")
RATINGS = ("bad", "acceptable", "good")
RECORDED = ("recording", "codec")  # who speaks without being a checkpoint: the real thing, and what the codec makes of it
Sha256 = Field(pattern="^[0-9a-f]{64}$")


class Heard(BaseModel):
    """One take: `checkpoint` is a candidate's name, or of `RECORDED`; `sha256` is of the audio file; `blind` whether names
    were hidden."""

    model_config = ConfigDict(extra="forbid")
    checkpoint: str
    prompt: str
    seed: int
    sha256: str = Sha256
    rating: Literal["good", "acceptable", "bad"] | None
    note: str = Field(max_length=4000)
    blind: bool

    @property
    def take(self) -> tuple[str, str, int]:
        return self.checkpoint, self.prompt, self.seed


class Decision(BaseModel):
    """What a person would do with one candidate; `sha256` stands for all the takes of it that were on the page."""

    model_config = ConfigDict(extra="forbid")
    checkpoint: str
    sha256: str = Sha256
    verdict: Literal["ship", "do not ship", "unsure"] | None
    note: str = Field(max_length=4000)


class Verdicts(BaseModel):
    """One rater's file. `shuffle` is the seed that ordered the columns in blind mode."""

    model_config = ConfigDict(extra="forbid")
    family: str
    rater: str = Field(min_length=1, max_length=80)
    shuffle: int
    verdicts: list[Heard]
    checkpoints: list[Decision]

    @model_validator(mode="after")
    def _once(self) -> Verdicts:
        if not self.slug:
            raise PydanticCustomError("slug", "rater: a name has a letter or a number")
        if len(self.by_take()) < len(self.verdicts):
            raise PydanticCustomError("twice", "two verdicts on the same take")
        if len({one.checkpoint for one in self.checkpoints}) < len(self.checkpoints):
            raise PydanticCustomError("twice", "two verdicts on the same checkpoint")
        return self

    @property
    def slug(self) -> str:
        """The rater's name as a file has it."""
        return re.sub(r"\W+", "-", self.rater.lower()).strip("-_")

    def by_take(self) -> dict[tuple[str, str, int], Heard]:
        return {heard.take: heard for heard in self.verdicts}


def of_takes(hashes: Iterable[str]) -> str:
    """One hash for all the takes of a candidate, in whatever order."""
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()


def read_verdicts(family: str) -> list[Verdicts]:
    """The verdicts on `family`, by rater. UserError, one line, for a file that is malformed or stands in the wrong place."""
    way_out = f"listen to reports/families/{family}/index.html, save the verdicts there, and `make verdict FILE=...`"
    old = FOLDER / f"{family}.json"
    if old.exists():
        raise UserError(f"{old}: verdicts stand in a folder of the family, a file a rater; move it away, {way_out}")
    found = []
    for path in sorted((FOLDER / family).glob("*.json")):
        verdicts = read_file(path, way_out)
        if (verdicts.family, verdicts.slug) != (family, path.stem):
            raise UserError(f"{path}: these are the verdicts of {verdicts.rater!r} on {verdicts.family!r}; {way_out}")
        found.append(verdicts)
    return found


def read_file(path: Path, way_out: str) -> Verdicts:
    try:
        value = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; {way_out}") from None
    return validated(Verdicts, value, str(path), way_out)


def bring_in(path: Path, families: Iterable[str]) -> str:
    """Put a rater's file into its place; returns what was done. UserError, one line, for one that does not fit: of a family
    that is not here, or all of it on audio that is not here."""
    verdicts = read_file(path, "save it from a listening page, reports/families/<family>/index.html")
    family = verdicts.family
    if family not in families:
        raise UserError(f"{path}: on {family!r}, which is not among the models of params.yaml ({', '.join(families)})")
    audio = audio_of(family)
    given = len(verdicts.verdicts) + len(verdicts.checkpoints)
    if not given:
        raise UserError(f"{path}: no verdict in it; rate takes on reports/families/{family}/index.html, and save again")
    candidates = {name: of_takes(digest for (who, _, _), digest in audio.items() if who == name) for name, _, _ in audio}
    current = sum(audio.get(one.take) == one.sha256 for one in verdicts.verdicts)
    current += sum(candidates.get(one.checkpoint) == one.sha256 for one in verdicts.checkpoints)
    if not current:
        raise UserError(f"{path}: none of its verdicts is on audio that data/{family}/gate has; listen to today's page and save again")
    target = FOLDER / family / f"{verdicts.slug}.json"
    replaces = target.exists()
    if replaces and (there := read_file(target, "move it away")).rater != verdicts.rater:
        raise UserError(f"{path}: {target} is there, by {there.rater!r}; let {verdicts.rater!r} take another name")
    write_json(target, verdicts.model_dump())
    changed = f", {given - current} of them on audio that has changed since" if given > current else ""
    return f"{target}: {counted(given, 'verdict')} by {verdicts.rater}{changed}{'; replaces the earlier ones' if replaces else ''}; `make report` shows them"


def audio_of(family: str) -> dict[tuple[str, str, int], str]:
    """The hash of every take of the gate."""
    gate, stage = Path("data") / family / "gate", made_by("gate", family)
    takes = read_rows(Take, gate / "rows.jsonl", stage)
    wavs = {(one.checkpoint, one.prompt, one.seed): one.wav for one in takes if one.wav}
    real = [read_one(NoiseFloor, gate / "floor.json", stage).rows, read_one(Recordings, gate / "codec.json", stage).rows]
    for who, rows in zip(RECORDED, real, strict=True):
        said = {one.prompt: one.wav for one in rows if one.wav}
        wavs |= {(who, one.prompt, one.seed): said[recorded_as(one.prompt)] for one in takes if recorded_as(one.prompt) in said}
    return {take: sha256(gate / wav) for take, wav in wavs.items() if (gate / wav).is_file()}
