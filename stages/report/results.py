"""One family's results: everything its stages left, and the summary of it that the comparison is made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from models.parts.errors import UserError
from stages.common.averages import mean, words_in
from stages.report.records import (
    Card,
    HistoryRow,
    Judgement,
    Recording,
    Recordings,
    StageCost,
    Take,
    Training,
    read_card,
    read_cost,
    read_one,
    read_rows,
)
from stages.report.verdicts import FOLDER as VERDICTS
from stages.report.verdicts import Verdicts, read_verdicts

TIERS = ("5s", "15s", "30s")
STAGES = ("resample", "tokenise", "train", "gate")


class Chosen(NamedTuple):
    """The three checkpoints that a comparison shows. `last` and `best` are "base" for the zero-shot control."""

    base: str
    best: str
    last: str


class Floor(NamedTuple):
    """What the listener makes of recordings; None where there are none."""

    word_error_rate: float | None
    similarity: float | None
    dnsmos: float | None


@dataclass(frozen=True)
class Results:
    family: str
    card: Card
    origin: str
    training: Training
    history: list[HistoryRow]
    takes: list[Take]
    judgement: Judgement
    recordings: list[Recording]
    resynthesised: list[Recording]
    costs: dict[str, StageCost | None]
    verdicts: Verdicts | None

    @property
    def control(self) -> bool:
        return not self.training.epochs

    @property
    def chosen(self) -> Chosen:
        """Best is what the gate promoted; where it promoted none, the earliest with the lowest word error rate."""
        order, scores = self.judgement.order, self.judgement.scores
        trained = order[1:] or order
        best = self.judgement.promoted or min(trained, key=lambda name: scores[name].word_error_rate)
        return Chosen(order[0], best, order[-1])

    @property
    def floor(self) -> Floor:
        """The noise floor: real recordings."""
        return _floor(self.recordings)

    @property
    def ceiling(self) -> Floor:
        """The recordings of the held-out prompts through the frozen codec: the best that a checkpoint can sound like."""
        return _floor(self.resynthesised)

    def validation_losses(self) -> dict[float, float]:
        """Validation loss by epoch; epoch 0 is the base."""
        losses = {row.epoch: row.validation.total for row in self.history if row.validation}
        return {0.0: self.training.base_validation.total, **losses}


def _floor(recordings: list[Recording]) -> Floor:
    """Counted as the gate counts a checkpoint's scores: errors over all words, means of the rest."""
    return Floor(
        _word_error_rate(recordings),
        mean([one.similarity for one in recordings]),
        mean([one.dnsmos for one in recordings]),
    )


def _word_error_rate(heard: Sequence[Recording]) -> float | None:
    words = [words_in(one.words) for one in heard]
    wrong = sum((one.word_error_rate or 0.0) * count for one, count in zip(heard, words, strict=True))
    return wrong / sum(words) if sum(words) else None


def epoch_of(checkpoint: str) -> int:
    """ "epoch-04" is 4; "base" is 0."""
    return 0 if checkpoint == "base" else int(checkpoint.removeprefix("epoch-"))


def read_results(family: str) -> Results:
    gate, checkpoints = Path("data") / family / "gate", Path("data") / family / "checkpoints"
    card = read_card(family)
    training = read_one(Training, checkpoints / "train.json", f"train@{family}")
    judgement = read_one(Judgement, gate / "verdict.json", f"gate@{family}")
    missing = set(judgement.order) - (judgement.tiers.keys() & judgement.scores.keys())
    if missing:
        where, way_out = gate / "verdict.json", f"run `dvc repro gate@{family}`"
        raise UserError(f"{where}: no score or no tiers for {min(missing)}; {way_out}")
    recordings = read_one(Recordings, gate / "floor.json", f"gate@{family}")
    resynthesised = read_one(Recordings, gate / "codec.json", f"gate@{family}")
    verdicts = VERDICTS / f"{family}.json"
    return Results(
        family=family,
        card=card,
        origin=_origin(training, card),
        training=training,
        history=read_rows(HistoryRow, checkpoints / "history.jsonl", f"train@{family}"),
        takes=read_rows(Take, gate / "rows.jsonl", f"gate@{family}"),
        judgement=judgement,
        recordings=recordings.rows,
        resynthesised=resynthesised.rows,
        costs={stage: read_cost(stage, family) for stage in STAGES},
        verdicts=read_verdicts(verdicts, family) if verdicts.exists() else None,
    )


def _origin(training: Training, card: Card) -> str:
    """What the base is, in the words of its own config.json; released weights have no such key."""
    config = training.weights / "config.json"
    text = json.loads(config.read_text(encoding="utf-8")).get("origin") if config.exists() else None
    return text or f"The released {card.title}."


def summarise(results: Results) -> dict[str, Any]:
    """What the comparison needs of a family, as plain JSON. Audio paths are relative to the family's report folder.

    `seconds` are wall times of the stages; null where a stage left no metrics. `held_out_word_error_rate` is the best
    checkpoint's; null where the corpus has no held-out texts.
    """
    card, training, judgement = results.card, results.training, results.judgement
    losses = results.validation_losses()
    cost = results.costs
    prep = [one.seconds for stage in ("resample", "tokenise") if (one := cost[stage]) is not None]
    return {
        "family": results.family,
        "title": card.title,
        "origin": results.origin,
        "paradigm": card.paradigm,
        "paradigm_text": card.paradigm_text,
        "codec": card.codec,
        "token_rate": card.token_rate,
        "codebooks": card.codebooks,
        "tokens_per_10s": round(card.token_rate * card.codebooks * 10),
        "input_sample_rate": card.input_sample_rate,
        "output_sample_rate": card.output_sample_rate,
        "licence": card.licence.model_dump(),
        "control": results.control,
        "mode": training.mode,
        "rank": training.settings.get("rank"),
        "lr": training.lr,
        "epochs": max(training.epochs, default=0),
        "parameters": training.parameters,
        "trainable_parameters": training.trainable_parameters,
        "promoted": judgement.promoted,
        "why": judgement.why,
        "chosen": results.chosen._asdict(),
        "held_out_word_error_rate": _word_error_rate(
            [one for one in results.takes if one.checkpoint == results.chosen.best and one.kind == "held-out"]
        ),
        "recordings": results.floor._asdict(),
        "through_codec": results.ceiling._asdict(),
        "checkpoints": {
            name: {
                "epoch": epoch_of(name),
                "validation_loss": losses.get(epoch_of(name)),
                **judgement.scores[name].model_dump(),
                "tiers": {tier: judgement.tiers[name][tier].model_dump() for tier in TIERS},
            }
            for name in judgement.order
        },
        "seconds": {
            "prep": sum(prep) if len(prep) == 2 else None,
            "train": cost["train"].seconds if cost["train"] else None,
            "gate": cost["gate"].seconds if cost["gate"] else None,
        },
        "peak_mib": cost["train"].peak_mib if cost["train"] else None,
        "heard": sum(1 for one in results.verdicts.verdicts if one.rating) if results.verdicts else 0,
        "samples": _samples(results),
    }


def _samples(results: Results) -> list[dict[str, Any]]:
    """The best checkpoint's takes of held-out prompts (first seed), each with the recording of its words, if any."""
    recordings = {one.prompt: one.wav for one in results.recordings}
    first: dict[str, Take] = {}
    for take in results.takes:
        if take.checkpoint == results.chosen.best and take.kind == "held-out" and take.wav:
            first.setdefault(take.prompt, take)
    fields = {"tier", "prompt", "text", "wav", "words", "transcript", "word_error_rate", "similarity", "passed"}
    return [{**take.model_dump(include=fields), "recording": recordings.get(take.prompt)} for take in first.values()]
