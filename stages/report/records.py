"""What the stages left for the report, as typed records. A reader names the stage to run when its file is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from models.parts.errors import UserError
from stages.common import licences
from stages.common.files import read_json, read_jsonl
from stages.common.metrics import FOLDER as METRICS

Record = TypeVar("Record", bound=BaseModel)


class Terms(BaseModel):
    """One licence: its name, whether it allows commercial use, and what its text says of that."""

    name: str
    commercial: bool
    says: str


class Licence(BaseModel):
    weights: Terms
    code: Terms


class Lora(BaseModel):
    framework: str


class Card(BaseModel):
    """The part of models/<family>/card.yaml that the report shows. `parameters` counts the released model."""

    title: str
    paradigm: str
    paradigm_text: str
    parameters: int
    codec: str
    token_rate: float
    codebooks: int
    input_sample_rate: int
    output_sample_rate: int
    lora: Lora
    licence: Licence
    traps: list[str] = []
    sources: list[str] = []


class LossValue(BaseModel):
    total: float


class Training(BaseModel):
    """train.json. `lr` is null, and `epochs` is empty, for the zero-shot control."""

    mode: str
    settings: dict[str, Any]
    lr: float | None
    epochs: list[int]
    weights: Path
    parameters: int
    trainable_parameters: int
    base_validation: LossValue


class HistoryRow(BaseModel):
    epoch: float
    train: LossValue | None = None
    validation: LossValue | None = None


Operation = Literal["ok", "substituted", "dropped", "inserted", "merged", "repeated"]


class Recording(BaseModel):
    """The recording of a held-out prompt, real or through the codec, as the gate's listener hears it.

    `wav` is relative to the gate's folder.
    """

    prompt: str
    wav: str | None
    seconds: float | None
    transcript: str | None
    words: list[tuple[Operation, str | None, str | None]]
    word_error_rate: float | None
    rate: float | None = None
    similarity: float | None = None
    dnsmos: float | None = None


class Take(Recording):
    """One row of the gate: what one checkpoint made of one prompt with one seed. `rate` is words per second."""

    checkpoint: str
    tier: str
    kind: str
    seed: int
    text: str
    finish: str
    error: str | None
    passed: bool
    reasons: list[str]


class Recordings(BaseModel):
    """floor.json: what the listener makes of real recordings, those of the prompts among them. codec.json: of those of
    the prompts, encoded and decoded again."""

    rows: list[Recording]


class TierVerdict(BaseModel):
    passed: bool
    takes: int
    passed_takes: int
    reasons: list[str]


class Score(BaseModel):
    """Micro-averaged word error rate and mean similarity to the speaker, with confidence intervals; mean DNSMOS."""

    word_error_rate: float
    ci: tuple[float, float]
    similarity: float | None
    similarity_ci: tuple[float, float] | None
    dnsmos: float | None


class Judgement(BaseModel):
    """verdict.json. `order` lists the checkpoints by epoch, "base" first."""

    promoted: str | None
    why: str
    tiers: dict[str, dict[str, TierVerdict]]
    scores: dict[str, Score]
    order: list[str] = Field(min_length=1)


class StageCost(BaseModel):
    """The part of reports/metrics/<stage>-<family>.json that says what the stage took."""

    seconds: float
    peak_mib: float


def validated(kind: type[Record], value: Any, where: str, way_out: str) -> Record:
    """`value` as a `kind`, or one line that names `where`, the first field that is wrong, and `way_out`."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: {field + ': ' if field else ''}{first['msg']}; {way_out}") from None


def read_one(kind: type[Record], path: Path, stage: str) -> Record:
    """A JSON file that `stage` (as DVC names it) writes."""
    way_out = f"run `dvc repro {stage}`"
    with _naming(way_out):
        value = read_json(path)
    return validated(kind, value, str(path), way_out)


def read_rows(kind: type[Record], path: Path, stage: str) -> list[Record]:
    """A JSON-lines file that `stage` writes."""
    way_out = f"run `dvc repro {stage}`"
    with _naming(way_out):
        rows = read_jsonl(path)
    return [validated(kind, row, f"{path}: row {number}", way_out) for number, row in enumerate(rows, 1)]


@contextmanager
def _naming(way_out: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; {way_out}") from None


def read_card(family: str) -> Card:
    return validated(Card, licences.card(family), f"models/{family}/card.yaml", "mend the card")


def read_cost(stage: str, family: str) -> StageCost | None:
    """None when the stage left no metrics: the report then says "not measured"."""
    path = METRICS / f"{stage}-{family}.json"
    return read_one(StageCost, path, f"{stage}@{family}") if path.exists() else None
