"""How far people agree with each other, and with the gate. Only what they said of audio that has not changed counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import isnan
from typing import NamedTuple

from stages.report.records import Take
from stages.report.verdicts import RATINGS, RECORDED, Decision, Heard, Verdicts


class Fresh(NamedTuple):
    """A rater's ratings by take and decisions by candidate, on audio that is still the same."""

    rater: str
    ratings: dict[tuple[str, str, int], Heard]
    decisions: dict[str, Decision]


class Pair(NamedTuple):
    """Of `takes` that both rated, how many alike; `kappa` weighs how far apart the others are, and what chance does: 1 is
    full agreement, 0 is chance; None where either said the same of all. `decided` and `same` count candidates."""

    raters: tuple[str, str]
    takes: int
    alike: int
    kappa: float | None
    decided: int
    same: int


class WithGate(NamedTuple):
    """Of the `takes` of candidates that a rater rated, those that the gate `failed` and they did not call bad, and those
    that it `passed` and they did."""

    rater: str
    takes: int
    failed: int
    passed: int


def fresh(verdicts: Verdicts, hash_of: Callable[[tuple[str, str, int]], str | None], candidates: Mapping[str, str]) -> Fresh:
    """`hash_of`: of the audio of a take today; `candidates`: the hash of all takes of each."""
    ratings = {one.take: one for one in verdicts.verdicts if one.sha256 == hash_of(one.take)}
    return Fresh(verdicts.rater, ratings, {one.checkpoint: one for one in verdicts.checkpoints if one.sha256 == candidates.get(one.checkpoint)})


def pairs(raters: Sequence[Fresh]) -> list[Pair]:
    """Every two raters that have something in common."""
    found = []
    for one, other in combinations(raters, 2):
        both = [take for take in one.ratings if take in other.ratings and one.ratings[take].rating and other.ratings[take].rating]
        ratings = [[RATINGS.index(rater.ratings[take].rating or "") for take in both] for rater in (one, other)]
        decided = [name for name in one.decisions if name in other.decisions and one.decisions[name].verdict and other.decisions[name].verdict]
        same = sum(one.decisions[name].verdict == other.decisions[name].verdict for name in decided)
        if both or decided:
            alike = sum(a == b for a, b in zip(*ratings, strict=True))
            found.append(Pair((one.rater, other.rater), len(both), alike, _kappa(*ratings), len(decided), same))
    return found


def _kappa(one: list[int], other: list[int]) -> float | None:
    """Cohen's kappa with linear weights."""
    if not one:
        return None
    from sklearn.metrics import cohen_kappa_score  # a second that pages without several raters save

    kappa = float(cohen_kappa_score(one, other, labels=range(len(RATINGS)), weights="linear")) if len({*one, *other}) > 1 else float("nan")
    return None if isnan(kappa) else kappa


def with_gate(raters: Sequence[Fresh], takes: Sequence[Take]) -> list[WithGate]:
    """Everybody who rated takes of candidates."""
    passed = {(one.checkpoint, one.prompt, one.seed): one.passed for one in takes}
    found = []
    for rater in raters:
        rated = {take: one.rating == "bad" for take, one in rater.ratings.items() if one.rating and take[0] not in RECORDED}
        if rated:
            kinder = sum(not bad and not passed[take] for take, bad in rated.items())
            harsher = sum(bad and passed[take] for take, bad in rated.items())
            found.append(WithGate(rater.rater, len(rated), kinder, harsher))
    return found
