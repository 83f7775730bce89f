"""params.yaml, typed: every stage reads its settings here, and a wrong one is one line before any work.

DVC writes `-S lr=2e-6` as `2e-06`, which PyYAML (YAML 1.1) reads as text. Number fields therefore take numbers written
as text; what they do not take is true and false, which Python would count as 1 and 0.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from models.parts.errors import UserError
from stages.common import licences
from stages.common.languages import CODES, primary
from stages.common.weights import KEPT

if TYPE_CHECKING:
    import torch


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "must be a number")
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise PydanticCustomError("number", "must be a number") from None
    return value


def _as_written(value: Any) -> Any:
    """YAML reads 2010 as a number and 2010-05-01 as a date."""
    return value if value is None else str(value)


def _language(value: str) -> str:
    if value in CODES:
        return value
    if primary(value) in CODES:
        raise PydanticCustomError("language", "must be the code alone, {code}", {"code": primary(value)})
    raise PydanticCustomError("language", "is no code of a language; they are {codes}", {"codes": " ".join(CODES)})


def _folder(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", value):
        raise PydanticCustomError("folder", "must be a name of letters, digits, - and _, as its folder in data has")
    return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
CountOrZero = Annotated[int, BeforeValidator(_number), Field(ge=0)]
Seed = Annotated[int, BeforeValidator(_number), Field(ge=0, lt=2**32)]
Text = Annotated[str, Field(min_length=1)]
Folder = Annotated[Text, AfterValidator(_folder)]


class Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TakesParams(Block):
    voices: list[Folder]  # of the released weights
    texts: Path


class CorpusParams(Block):
    source: Path
    speaker: Text
    date: Annotated[Text | None, BeforeValidator(_as_written)]
    language: Annotated[Text, AfterValidator(_language)]
    validation: Share
    test: Share
    min_seconds: NotNegative
    max_seconds: Positive
    trim_db: Positive
    keep_silence: NotNegative

    @model_validator(mode="after")
    def _together(self) -> CorpusParams:
        if self.validation + self.test >= 1:
            raise PydanticCustomError("together", "validation and test together must leave something to train on")
        if self.min_seconds >= self.max_seconds:
            raise PydanticCustomError("together", "min_seconds must be less than max_seconds")
        return self


class ReadingParams(Block):
    segment_words: Count | None
    long_whole: bool


class Lenience(Block):
    dropped: CountOrZero
    inserted: CountOrZero
    share: Share


class GateParams(Block):
    reading: dict[str, ReadingParams]  # by profile
    listener: Text
    second_listener: Text | None
    seed: Seed
    checkpoints: Literal["all", "last"]
    screen: Count
    finalists: Count
    batch: Count
    budget: Count
    pass_rate: Annotated[Number, Field(gt=0, lt=1)]
    false_pass: Annotated[Number, Field(gt=0, lt=0.5)]
    false_fail: Annotated[Number, Field(gt=0, lt=0.5)]
    extra_dropped: CountOrZero
    extra_inserted: CountOrZero
    extra_share: Share
    longest_run: CountOrZero
    lenience: dict[str, Lenience] = {}  # by profile
    rate_drift: Share
    trailing_silence: NotNegative
    pause: NotNegative
    unexplained: NotNegative
    bandwidth: Share

    @model_validator(mode="after")
    def _together(self) -> GateParams:
        if self.budget % self.batch:
            raise PydanticCustomError("together", "budget must be a multiple of batch")
        return self


class ReportParams(Block):
    title: Text


class TrainParams(Block):
    """With `epochs: 0` nothing is trained and params.yaml need not say how; `_UNUSED` stands for what it leaves out."""

    mode: Literal["lora", "sft"]
    lr: Positive
    rank: Count
    alpha: Positive
    dropout: Annotated[Number, Field(ge=0, lt=1)]
    targets: Annotated[list[Text], Field(min_length=1)]
    epochs: CountOrZero
    save_every_n_epochs: Count
    batch_frames: Count
    accumulate: Count
    warmup: CountOrZero
    schedule: Literal["cosine", "constant"]
    clip: Positive
    weight_decay: NotNegative
    gradient_checkpointing: bool = False
    parts: list[Text] = ["llm"]  # what trains; the card lists what can
    processes: Count = 1  # that share out the batches of a step, on GPUs one a card
    shard: bool = False  # each holds a part of the network alone

    @model_validator(mode="before")
    @classmethod
    def _nothing_to_train(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("epochs") in (0, "0"):
            return _UNUSED | values
        return values

    @model_validator(mode="after")
    def _together(self) -> TrainParams:
        if self.epochs and self.processes > self.accumulate:
            words = "{processes} processes share out the batches of a step, and accumulate makes it {accumulate}; set it to {processes} or a multiple, and batch_frames smaller"
            raise PydanticCustomError("together", words, {"processes": self.processes, "accumulate": self.accumulate})
        if self.shard and self.processes == 1:
            raise PydanticCustomError("together", "shard cuts the network among processes, and processes makes them 1; set it to the number of GPUs, or shard: false")
        return self


_UNUSED: dict[str, Any] = {
    "lr": 1.0, "rank": 1, "alpha": 1.0, "dropout": 0.0, "targets": ["none"], "save_every_n_epochs": 1,
    "batch_frames": 1, "accumulate": 1, "warmup": 0, "schedule": "constant", "clip": 1.0, "weight_decay": 0.0,
}  # fmt: skip


class SamplingParams(Block):
    temperature: NotNegative  # 0: always the likeliest
    top_k: Count
    top_p: Annotated[Number, Field(gt=0, le=1)]
    max_ratio: Positive  # cap on the length: frames at most so many times the expected ones
    # Only for families whose card names them under `sampling`:
    guidance: NotNegative = 0.0  # weight of classifier-free guidance
    euler_steps: Count = 8  # of a flow-matching head, from noise to data
    retries: CountOrZero = 0  # how often a take that does not end is made again, with the next seed
    min_p: Share = 0.0  # what is less likely than so much of the likeliest is left out
    repetition_penalty: Annotated[Number, Field(ge=1)] = 1.0  # scores of codes that were there are divided by it
    repetition_window: CountOrZero = 0  # a code among so many last ones is drawn anew
    positions: Literal["contiguous", "cached"] = "contiguous"  # of codes: as in training, or as upstream's cache counts them


class FamilyParams(Block):
    weights: Path
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the network's parameters; what trains is float32
    train: TrainParams
    sampling: SamplingParams
    scales: Annotated[list[NotNegative], Field(min_length=1)]  # of the LoRA when it is merged: the first screens, the others are tried on what survives

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch  # most stages need no network, and loading it takes seconds

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @model_validator(mode="after")
    def _together(self) -> FamilyParams:
        if self.dtype == "bfloat16" and self.train.mode == "sft" and self.train.epochs:
            raise PydanticCustomError("together", "dtype bfloat16 is for a base that stays as it is, and mode sft trains it; set dtype float32, or mode lora")
        return self


class Params(Block):
    profile: Text
    models: Annotated[list[Text], Field(min_length=1)]
    external: list[Folder]  # trained elsewhere
    lr: Positive | None
    seed: Seed
    intended_use: Literal["research", "commercial"]
    takes: TakesParams
    corpus: CorpusParams
    gate: GateParams
    report: ReportParams
    families: dict[str, dict[str, FamilyParams]]  # family -> profile -> its block

    def family(self, name: str) -> FamilyParams:
        """The block of family `name` for the chosen profile."""
        if name in self.external:
            raise UserError(f"--model {name}: a system from elsewhere: its audio is judged, reported and compared, and there is no model of it here")
        if name not in self.models:
            raise UserError(f"--model {name}: not among the models of params.yaml ({', '.join(self.models)})")
        return self.families[name][self.profile]

    @property
    def compared(self) -> list[str]:
        """Every family and every system from elsewhere."""
        return [*self.models, *self.external]

    @property
    def reading(self) -> ReadingParams:
        """How texts are read, for the chosen profile."""
        return self.gate.reading[self.profile]

    def learning_rate(self, name: str) -> float:
        """The rate that family `name` trains with: the top-level `lr`, or its own where that is null."""
        return self.lr if self.lr is not None else self.family(name).train.lr


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check everything: types, bounds, families, weights folders, licences. UserError is always one line."""
    params, here = read_params(path), licences.families()
    problems = [f"models: {name} stands there twice" for name in {*params.models} if params.models.count(name) > 1]
    problems += [problem for name in params.models for problem in _check_family(params, name, here)]
    problems += [problem for name in dict.fromkeys(params.external) if (problem := _check_system(params, name, here))]
    if params.profile not in params.gate.reading:
        problems.append(f"gate.reading: says nothing of profile {params.profile!r}; it has {', '.join(params.gate.reading)}")
    if problems:
        raise UserError(f"{path}: " + "; ".join(problems))
    if more := params.gate.lenience.get(params.profile):
        extra = {f"extra_{what}": getattr(params.gate, f"extra_{what}") + getattr(more, what) for what in ("dropped", "inserted", "share")}
        params = params.model_copy(update={"gate": params.gate.model_copy(update=extra)})
    licences.check(params.intended_use, {name: licences.card(name)["licence"]["weights"] for name in params.models})
    return params


def read_params(path: str | Path = "params.yaml") -> Params:
    """The same, whatever the families lack that are to run: types and bounds alone."""
    raw = _read(Path(path))
    here = licences.families()
    values: dict[str, Any] = {key: value for key, value in raw.items() if key not in here}
    values["families"] = {key: value for key, value in raw.items() if key in here}
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        findings = [_explain(item, values["families"]) for item in error.errors()]
        raise UserError(f"{path}: " + "; ".join(findings)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the root of the repository") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{path}: {where}not YAML ({getattr(error, 'problem', None) or 'unreadable'})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: not a list of settings; restore it with git")
    return {str(key): value for key, value in raw.items()}


# Pydantic's findings in the words of params.yaml, where its own are not.
_WORDS = {
    "missing": "is missing",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "list_type": "must be a list",
    "dict_type": "must be a block of settings",
    "model_type": "must be a block of settings",
    "string_type": "must be a text",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
}


def _explain(item: Any, families: dict[str, Any]) -> str:
    """One finding of pydantic as a line: the dotted key, the value, what it must be."""
    kind, key = item["type"], ".".join(str(part) for part in item["loc"] if part != "families")
    if kind == "extra_forbidden":
        return f"{key}: unknown key{_nearest(key, _keys(families))}"
    words = _WORDS.get(kind) or item["msg"].replace("Input should", "must")
    value = "" if kind in ("missing", "together") else f"{_short(item['input'])} "
    return f"{key}: {value}{words}"


def _keys(families: dict[str, Any]) -> list[str]:
    """Every dotted key that params.yaml may have."""

    def below(block: type[Block], prefix: str) -> Iterator[str]:
        for name, field in block.model_fields.items():
            yield prefix + name
            if isinstance(field.annotation, type) and issubclass(field.annotation, Block):
                yield from below(field.annotation, f"{prefix}{name}.")

    keys = [*below(Params, ""), *families]
    profiles = [(name, profile) for name, blocks in families.items() if isinstance(blocks, dict) for profile in blocks]
    return keys + [key for name, profile in profiles for key in below(FamilyParams, f"{name}.{profile}.")]


def _nearest(word: str, names: list[str]) -> str:
    nearest = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_system(params: Params, name: str, here: list[str]) -> str:
    """Why a system from elsewhere cannot have this name; empty where it can."""
    if params.external.count(name) > 1:
        return f"external: {name} stands there twice"
    if name in here:
        return f"external: {name} is a family of models/; give the system, and its folder in data/external, another name"
    if Path("data") / name in (params.corpus.source, *(Path("data") / other for other in ("corpus", "demo", "external", "takes", "weights"))):
        return f"external: data/{name} is for something else; give the system, and its folder in data/external, another name"
    return ""


def _check_family(params: Params, name: str, here: list[str]) -> list[str]:
    """What keeps family `name` from running with the chosen profile."""
    if name not in here:
        return [f"models: there is no family {name!r}{_nearest(name, here)}"]
    profiles = params.families.get(name, {})
    if params.profile not in profiles:
        return [f"{name}: has no block for profile {params.profile!r}; it has {', '.join(profiles) or 'none'}"]
    block, problems = profiles[params.profile], []
    if not any(path.name != KEPT for path in block.weights.glob("*")):
        ours = block.weights.is_relative_to("models")  # made by this repository, not released by somebody
        way_out = f"make it with `make bases MODEL={name}`" if ours else f"bring them in with `make weights MODEL={name}`"
        problems.append(f"{name}.{params.profile}.weights: {block.weights}: no weights there; {way_out}")
    trainable = licences.card(name).get("parts", ["llm"])
    if block.train.parts not in (choices := [trainable[:count] for count in range(1, len(trainable) + 1)]):
        known = " or ".join(f"[{', '.join(parts)}]" for parts in choices)
        problems.append(f"{name}.{params.profile}.train.parts: [{', '.join(block.train.parts)}] must be {known}")
    optional = {key for key, field in SamplingParams.model_fields.items() if not field.is_required()}
    unused = (optional & block.sampling.model_fields_set) - {*licences.card(name).get("sampling", [])}
    return problems + [f"{name}.{params.profile}.sampling.{key}: {name} has no use for it; take it out" for key in sorted(unused)]
