"""What a person heard: the verdict file that the listening page saves and the repository reads back.

The page downloads `verdicts-<family>.json`; put in place as reports/verdicts/<family>.json it is shown on the next page
and allows `make prune`. Every entry carries the hash of the audio it was given for, so that a verdict never
sticks to a take that has been generated anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.parts.errors import UserError
from stages.common.files import read_json
from stages.report.records import validated

FOLDER = Path("reports/verdicts")


class Heard(BaseModel):
    """One take: `checkpoint` may be "recording"; `sha256` is of the audio file; `blind` whether names were hidden."""

    model_config = ConfigDict(extra="forbid")
    checkpoint: str
    prompt: str
    seed: int
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    rating: Literal["good", "acceptable", "bad"] | None
    note: str = Field(max_length=4000)
    blind: bool


class Verdicts(BaseModel):
    """`shuffle` is the seed that ordered the columns in blind mode."""

    model_config = ConfigDict(extra="forbid")
    family: str
    shuffle: int
    verdicts: list[Heard]

    def by_take(self) -> dict[tuple[str, str, int], Heard]:
        return {(heard.checkpoint, heard.prompt, heard.seed): heard for heard in self.verdicts}


def read_verdicts(path: Path, family: str) -> Verdicts:
    """The verdicts at `path`. UserError, one line, for a file that is missing, malformed or another family's."""
    way_out = f"listen to reports/families/{family}/index.html and save the verdicts there"
    try:
        value = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; {way_out}") from None
    verdicts = validated(Verdicts, value, str(path), way_out)
    if verdicts.family != family:
        raise UserError(f"{path}: these are the verdicts on {verdicts.family!r}, not on {family!r}; {way_out}")
    if len(verdicts.by_take()) < len(verdicts.verdicts):
        raise UserError(f"{path}: two verdicts on the same take; {way_out}")
    return verdicts
