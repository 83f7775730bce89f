"""One family's results: everything its stages left, and the summary of it that the comparison is made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stages.common.averages import mean, words_in
from stages.common.files import REFERENCE
from stages.common.params import Params, ReadingParams
from stages.report.records import (
    Candidate,
    Card,
    Codec,
    Confirmed,
    HistoryRow,
    Judgement,
    NoiseFloor,
    Recording,
    Screened,
    StageCost,
    Take,
    Training,
    Voice,
    made_by,
    read_card,
    read_cost,
    read_one,
    read_rows,
    recorded_as,
)
from stages.report.verdicts import Verdicts, read_verdicts

EXTERNAL = Path("data/external")
STAGES = ("resample", "tokenise", "train", "gate")


class Chosen(NamedTuple):
    """The candidates that a comparison shows. `best` was confirmed; `last` may be screened alone. `last` and `best` are
    "base" for the zero-shot control; a system from elsewhere has no `base`."""

    base: str | None
    best: str
    last: str


class Reference(NamedTuple):
    """The recording of the speaker that the decoder hears whenever it speaks, and what is said in it."""

    id: str
    text: str
    wav: Path


class Floor(NamedTuple):
    """What the listener makes of recordings; None where there are none."""

    word_error_rate: float | None
    similarity: float | None
    dnsmos: float | None


@dataclass(frozen=True)
class Results:
    """Of a family, or of a system from elsewhere, which has no `card`, no `training` and no `history`."""

    family: str
    card: Card | None
    origin: str
    training: Training | None
    history: list[HistoryRow]
    takes: list[Take]
    judgement: Judgement
    reading: ReadingParams
    noise: NoiseFloor
    codec: Codec
    reference: Reference | None
    costs: dict[str, StageCost | None]
    verdicts: list[Verdicts]  # one a rater

    @property
    def external(self) -> bool:
        return self.training is None

    @property
    def own_voice(self) -> str | None:
        """The voice of the release that said the corpus; None where people did."""
        tokenised = self.costs.get("tokenise")
        return tokenised.own_voice if tokenised else None

    @property
    def control(self) -> bool:
        return self.training is not None and not self.training.epochs

    @property
    def title(self) -> str:
        return self.card.title if self.card else self.family

    @property
    def candidates(self) -> dict[str, Candidate]:
        """In their order, the base first where there is one."""
        return {name: self.judgement.candidates[name] for name in self.judgement.order}

    @property
    def confirmed(self) -> dict[str, Confirmed]:
        return {name: one.confirmed for name, one in self.candidates.items() if one.confirmed}

    @property
    def over_epochs(self) -> list[Candidate]:
        """The base and every checkpoint at the scale that all were screened at."""
        return [one for name, one in self.candidates.items() if name == one.checkpoint]

    @property
    def chosen(self) -> Chosen:
        """Best is what the gate promoted; where it promoted none, the finalist with the lowest word error rate."""
        confirmed = self.confirmed
        base = next((name for name, one in self.candidates.items() if not one.epoch), None)
        finalists = [name for name in confirmed if name != base] or [*confirmed]
        best = self.judgement.promoted or min(finalists, key=lambda name: confirmed[name].word_error_rate)
        return Chosen(base, best, self.over_epochs[-1].checkpoint)

    @property
    def floor(self) -> Floor:
        """The noise floor: real recordings."""
        return _floor(self.noise.rows)

    @property
    def ceiling(self) -> Floor:
        """The recordings of the held-out prompts through the frozen codec: the best that a checkpoint can sound like."""
        return _floor(self.codec.rows)

    @property
    def tuned_ceilings(self) -> dict[str, Floor]:
        """The same by the decoders that were trained, each by its candidate."""
        names = dict.fromkeys(row.checkpoint for row in self.codec.tuned)
        return {name.removeprefix("codec-"): _floor([row for row in self.codec.tuned if row.checkpoint == name]) for name in names}

    def validation_losses(self) -> dict[float, float]:
        """Validation loss by epoch; epoch 0 is the base. Empty where no sentence was held out, or nothing trained here."""
        if not self.training:
            return {}
        losses = {0.0: self.training.base_validation.total} | {row.epoch: row.validation.total for row in self.history if row.validation}
        return {epoch: loss for epoch, loss in losses.items() if loss is not None}

    @property
    def steps(self) -> dict[int, int]:
        """The optimizer step of each epoch that has a checkpoint; 0 is the base."""
        steps = {row.epoch: row.step for row in self.history}
        return {one.epoch: steps.get(one.epoch, 0) for one in self.over_epochs}

    def sweeps(self) -> dict[str, dict[float, Screened]]:
        """Of each checkpoint that was tried at several scales, what screening made of each; the base is scale 0."""
        found: dict[str, dict[float, Screened]] = {}
        for one in self.candidates.values():
            if one.scale is not None:
                found.setdefault(one.checkpoint, {})[one.scale] = one.screened
        base = self.candidates[self.judgement.order[0]].screened
        return {name: {0.0: base} | scales for name, scales in found.items() if len(scales) > 1}

    def drift(self, name: str) -> list[float]:
        """Of a candidate's screening takes, how much faster than the recordings they are: 0.1 is ten percent."""
        paces = {tier: one.rate for tier, one in self.noise.tolerances.items()}
        takes = [one for one in self.takes if one.checkpoint == name and one.phase == "screen" and one.rate]
        return [one.rate / pace - 1 for one in takes if one.rate and (pace := paces.get(one.tier))]


def _floor(recordings: Sequence[Recording]) -> Floor:
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


def read_results(family: str, params: Params) -> Results:
    gate, stage = Path("data") / family / "gate", made_by("gate", family)
    card, training, history = None, None, list[HistoryRow]()
    origin = f"A system from elsewhere: its takes are the files of {EXTERNAL / family}, and what else is known of it is not told here."
    if family not in params.external:
        checkpoints, trained = Path("data") / family / "checkpoints", made_by("train", family)
        card, training = read_card(family), read_one(Training, checkpoints / "train.json", trained)
        history, origin = read_rows(HistoryRow, checkpoints / "history.jsonl", trained), _origin(training, card)
    return Results(
        family=family,
        card=card,
        origin=origin,
        training=training,
        history=history,
        takes=read_rows(Take, gate / "rows.jsonl", stage),
        judgement=read_one(Judgement, gate / "verdict.json", stage),
        reading=params.reading,
        noise=read_one(NoiseFloor, gate / "floor.json", stage),
        codec=read_one(Codec, gate / "codec.json", stage),
        reference=_reference(family),
        costs={stage: read_cost(stage, family) for stage in STAGES},
        verdicts=read_verdicts(family),
    )


def _reference(family: str) -> Reference | None:
    """What tokenise chose; None for a decoder that hears no recording."""
    folder = Path("data") / family / "tokens"
    if not (folder / REFERENCE).is_file():
        return None
    first = read_one(Voice, folder / "voice.json", f"tokenise@{family}").prompts[0]
    return Reference(first.id, first.text, folder / REFERENCE)


def _origin(training: Training, card: Card) -> str:
    """What the base is, in the words of its own config.json; released weights have no such key."""
    config = training.weights / "config.json"
    text = json.loads(config.read_text(encoding="utf-8")).get("origin") if config.exists() else None
    return text or f"The released {card.title}."


def summarise(results: Results) -> dict[str, Any]:
    """What the comparison needs of a family, as plain JSON. Audio paths are relative to the family's report folder.

    `seconds` are wall times of the stages; null where a stage left no metrics. `held_out_word_error_rate` is the best
    candidate's, of its confirming takes; null where the corpus has no held-out texts. What is not known of a system from
    elsewhere, its model and its training, is not in it.
    """
    judgement = results.judgement
    losses = results.validation_losses()
    cost = results.costs
    prep = [one.seconds for stage in ("resample", "tokenise") if (one := cost[stage]) is not None]
    return {
        "family": results.family,
        "title": results.title,
        "origin": results.origin,
        **(_of_model(results.card, results.training) if results.card and results.training else {}),
        "control": results.control,
        "external": results.external,
        "promoted": judgement.promoted,
        "why": judgement.why,
        "chosen": results.chosen._asdict(),
        "held_out_word_error_rate": _word_error_rate(
            [one for one in _best_takes(results) if one.kind == "held-out"]
        ),
        "recordings": results.floor._asdict(),
        "through_codec": results.ceiling._asdict(),
        "asked": judgement.asked.model_dump(),
        "tiers": judgement.tiers,
        "candidates": {
            name: one.model_dump() | {"validation_loss": losses.get(one.epoch), "step": None if results.external else results.steps[one.epoch]}
            for name, one in results.candidates.items()
        },
        "seconds": {
            "prep": sum(prep) if len(prep) == 2 else None,
            "train": cost["train"].seconds if cost["train"] else None,
            "gate": cost["gate"].seconds if cost["gate"] else None,
        },
        "peak_mib": cost["train"].peak_mib if cost["train"] else None,
        "samples": _samples(results),
    }


def _of_model(card: Card, training: Training) -> dict[str, Any]:
    return {
        "paradigm": card.paradigm,
        "paradigm_text": card.paradigm_text,
        "codec": card.codec,
        "token_rate": card.token_rate,
        "codebooks": card.codebooks,
        "tokens_per_10s": round(card.token_rate * card.codebooks * 10),
        "input_sample_rate": card.input_sample_rate,
        "output_sample_rate": card.output_sample_rate,
        "licence": card.licence.model_dump(),
        "mode": training.mode,
        "rank": training.settings.get("rank"),
        "lr": training.lr,
        "epochs": max(training.epochs, default=0),
        "parameters": training.parameters,
        "trainable_parameters": training.trainable_parameters,
    }


def _best_takes(results: Results) -> list[Take]:
    return [one for one in results.takes if one.checkpoint == results.chosen.best and one.phase == "confirm"]


def _samples(results: Results) -> list[dict[str, Any]]:
    """The best candidate's confirming takes of held-out prompts (first seed), each with the recording of its words, if any."""
    recordings = {one.prompt: one.wav for one in results.noise.rows}
    first: dict[str, Take] = {}
    for take in _best_takes(results):
        if take.kind == "held-out" and take.wav:
            first.setdefault(take.prompt, take)
    fields = {"tier", "prompt", "text", "wav", "words", "transcript", "word_error_rate", "similarity", "passed"}
    return [take.model_dump(include=fields) | {"recording": recordings.get(recorded_as(take.prompt))} for take in first.values()]
