"""What the stages left for the report, as typed records. A reader names the stage to run when its file is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

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
    unreleased: str = ""
    traps: list[str] = []
    sources: list[str] = []


class LossValue(BaseModel):
    total: float


class Validation(BaseModel):
    """`total` is null where no sentence was held out."""

    total: float | None


class Training(BaseModel):
    """train.json. `lr` is null, and `epochs` is empty, for the zero-shot control."""

    mode: str
    settings: dict[str, Any]
    lr: float | None
    epochs: list[int]
    weights: Path
    parameters: int
    trainable_parameters: int
    base_validation: Validation


class HistoryRow(BaseModel):
    epoch: float
    step: int
    train: LossValue | None = None
    validation: Validation | None = None


Operation = Literal["ok", "substituted", "dropped", "inserted", "merged", "repeated", "unclear"]


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


class Second(BaseModel):
    """What the second listener says of a take whose verdict would be another by its ears."""

    listener: str
    transcript: str | None
    passed: bool
    reasons: list[str]


class Take(Recording):
    """One row of the gate: what one candidate made of one prompt with one seed. `checkpoint` is the candidate's name, as in
    verdict.json; `rate` is words per second. All candidates read the texts of `screen`, those of `confirm` only the base
    and the finalists."""

    phase: Literal["screen", "confirm"]
    checkpoint: str
    tier: str
    kind: str
    seed: int
    text: str
    finish: str
    error: str | None
    passed: bool
    reasons: list[str]
    second: Second | None = None


def recorded_as(prompt: str) -> str:
    """The prompt whose recording says the text of `prompt`: a text that is also read in one go has an id for that."""
    return prompt.removesuffix("-whole")


class Recordings(BaseModel):
    """Of the prompts."""

    rows: list[Recording]


class Resynthesised(Recording):
    """By the decoder of a candidate whose training changed it: `checkpoint` names that."""

    checkpoint: str


class Codec(Recordings):
    """codec.json: the recordings of the prompts, encoded and decoded again."""

    tuned: list[Resynthesised] = []


class Utterance(BaseModel):
    """One of the speaker's, by which the network or the decoder knows the voice."""

    id: str
    text: str


class Voice(BaseModel):
    """voice.json. The first of `prompts` is the reference, where there is a recording of one."""

    prompts: list[Utterance]


class Pace(BaseModel):
    """Words per second of the recordings of one length; None where there is none."""

    rate: float | None


class NoiseFloor(Recordings):
    """floor.json: what the listener makes of real recordings, those of the prompts among them. `aliases`: pairs of spellings
    that cost no word errors."""

    tolerances: dict[str, Pace]
    aliases: list[tuple[str, str]] = []


class TierCount(BaseModel):
    """Of the takes of one length, how many passed, and what was wrong with the others."""

    takes: int
    passed_takes: int
    reasons: list[str]


class TierVerdict(TierCount):
    """`needed`: takes that might decide what these leave undecided; None where none would help."""

    verdict: Literal["passes", "fails", "undecided"]
    needed: int | None


class Score(BaseModel):
    """Micro-averaged word error rate and mean similarity to the speaker, with confidence intervals; mean DNSMOS."""

    word_error_rate: float
    ci: tuple[float, float]
    similarity: float | None
    similarity_ci: tuple[float, float] | None
    dnsmos: float | None


class Screened(Score):
    """Of few takes, the same texts for every candidate: what one candidate may be compared with another by."""

    tiers: dict[str, TierCount]


class Confirmed(Score):
    """Of fresh takes, which did not choose the candidate: what may be claimed of it."""

    tiers: dict[str, TierVerdict]


class Candidate(BaseModel):
    """A checkpoint at one scale of its adapter; the base (epoch 0) has none. `confirmed` is None where screening ruled it out.
    The `epoch` of one from elsewhere is its place in the order."""

    checkpoint: str
    epoch: int
    scale: float | None
    screened: Screened
    confirmed: Confirmed | None


class Asked(BaseModel):
    """The sequential test: the share of takes that must pass, its error rates, and how many takes it may look at."""

    rate: float
    false_pass: float
    false_fail: float
    batch: int
    budget: int


class Judgement(BaseModel):
    """verdict.json. `order` lists the candidates by epoch, the base first where there is one."""

    promoted: str | None
    why: str
    tiers: list[str] = Field(min_length=1)
    order: list[str] = Field(min_length=1)
    asked: Asked
    candidates: dict[str, Candidate]

    @model_validator(mode="after")
    def _together(self) -> Judgement:
        if {*self.order} != {*self.candidates}:
            raise PydanticCustomError("together", "order and candidates do not name the same")
        if any(not one.epoch and not one.confirmed for one in self.candidates.values()):
            raise PydanticCustomError("together", "the base was not confirmed, and nothing can be compared with it")
        if not any(one.confirmed for one in self.candidates.values()):
            raise PydanticCustomError("together", "no candidate was confirmed, and nothing can be claimed")
        for name, one in self.candidates.items():
            if any({*found.tiers} != {*self.tiers} for found in (one.screened, one.confirmed) if found):
                raise PydanticCustomError("together", "candidates.{name}: other lengths than tiers has", {"name": name})
        if self.promoted and not (self.promoted in self.candidates and self.candidates[self.promoted].confirmed):
            raise PydanticCustomError("together", "promoted: {name} was not confirmed", {"name": self.promoted})
        return self


class StageCost(BaseModel):
    """The part of reports/metrics/<stage>-<family>.json that says what the stage took, and of tokenise the voice of the release
    that said the corpus; None where people did."""

    seconds: float
    peak_mib: float
    own_voice: str | None = None


def made_by(stage: str, name: str) -> str:
    """`stage` as DVC names it for a family, or for a system from elsewhere."""
    return f"{stage}@{name}" if name in licences.families() else f"{stage}-external@{name}"


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
    return read_one(StageCost, path, made_by(stage, family)) if path.exists() else None
