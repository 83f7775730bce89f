"""From judged takes to one candidate: which ones are worth confirming, what was proven of each, and which may be deployed.

Words decide. Similarity to the speaker ranks candidates that are equally good in words, and never saves a lost one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from stages.gate.candidates import Candidate
from stages.gate.evidence import FAILS, PASSES, UNDECIDED, Asked
from stages.gate.verdict import Row, score


@dataclass(frozen=True)
class Standing:
    """A candidate's figures: of screening, and of confirming, which stay None where it was not worth that."""

    candidate: Candidate
    screened: dict[str, Any]
    confirmed: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        one = self.candidate
        return {"checkpoint": one.checkpoint, "epoch": one.epoch, "scale": one.scale, "screened": self.screened, "confirmed": self.confirmed}


SCREENED = attrgetter("screened")
CONFIRMED = attrgetter("confirmed")


def tally(rows: Sequence[Row], tier: str) -> tuple[int, int]:
    """Of the takes of a tier how many passed, and how many there are."""
    takes = _of(rows, tier)
    return sum(row["passed"] for row in takes), len(takes)


def _of(rows: Sequence[Row], tier: str) -> list[Row]:
    return [row for row in rows if row["tier"] == tier]


def figures(rows: Sequence[Row], tiers: Sequence[str], recordings: Sequence[Row], asked: Asked | None = None) -> dict[str, Any]:
    """A candidate's score; of each tier how many takes passed, what was wrong with the others, and, where something is `asked`, the
    verdict and how many takes might decide if these do not.

    Then the score is over the first batch of each tier alone, which every candidate of every family reads: who goes on reads other
    texts, harder or easier, and more of one length.
    """

    def of_tier(tier: str) -> dict[str, Any]:
        passed, takes = tally(rows, tier)
        found: dict[str, Any] = {"takes": takes, "passed_takes": passed}
        if asked:
            verdict = asked.verdict(passed, takes)
            found |= {"verdict": verdict, "needed": asked.needed(passed, takes) if verdict == UNDECIDED else None}
        return found | {"reasons": [f"{row['prompt']}: {reason}" for row in _of(rows, tier) for reason in row["reasons"]]}

    same = [row for tier in tiers for row in _of(rows, tier)[: asked.batch]] if asked else rows
    return score(same, recordings) | {"tiers": {tier: of_tier(tier) for tier in tiers}}


def plausible(standings: Sequence[Standing], most: int) -> list[Candidate]:
    """The candidates that screening leaves, in their order: the best in words, and of those whose word error rate lies
    within its confidence interval the nearest to the speaker. The base is not among them."""
    trained = [one for one in standings if one.candidate.epoch]
    if not trained:
        return []
    best, *equal = _equal_in_words(trained, SCREENED)
    chosen = [best, *sorted(equal, key=lambda one: -_nearness(one.screened))][:most]
    return [one.candidate for one in trained if one in chosen]


def promote(standings: Sequence[Standing]) -> tuple[Candidate | None, str]:
    """The candidate to deploy, or None, and why in words. `standings`: by epoch, the base first.

    Of those proven to pass every length, words keep the ones whose error rate lies within the confidence interval of the
    best one's. Of these it is the earliest that is as near to the speaker as the nearest, within the interval of that one's
    similarity: the first epochs of a model that carries the voice itself still speak with the voice of the base.
    The base is what the others are compared with, and is never promoted.
    """
    trained = [one for one in standings if one.candidate.epoch]
    if not trained:
        return None, "This is the zero-shot control: it is judged, and there is nothing to promote."
    confirmed = [one for one in trained if one.confirmed]
    passing = [one for one in confirmed if all(tier["verdict"] == PASSES for tier in CONFIRMED(one)["tiers"].values())]
    if not passing:
        return None, _why_none(confirmed, len(trained))
    equal = _equal_in_words(passing, CONFIRMED)
    best = equal[0]
    nearest = CONFIRMED(max(equal, key=lambda one: _nearness(CONFIRMED(one))))
    near = min((nearest["similarity_ci"] or [0.0])[0], _nearness(nearest))
    chosen = next(one for one in passing if one in equal and _nearness(CONFIRMED(one)) >= near)
    return chosen.candidate, _why(chosen, best, [(one, one in equal) for one in passing[: passing.index(chosen)]])


def _why(chosen: Standing, best: Standing, earlier: Sequence[tuple[Standing, bool]]) -> str:
    """`best`: in words. `earlier`: those that pass too, and whether chance explains the words that they lose."""
    found, name = CONFIRMED(best), chosen.candidate.name
    rate = f"{CONFIRMED(chosen)['word_error_rate']:.1%}"
    if chosen is best:
        words = f"{name} is proven to pass at every length, with the lowest word error rate, {rate}"
    else:
        low, high = found["ci"]
        words = (
            f"{name} is proven to pass at every length, and its word error rate ({rate}) is inside the confidence interval "
            f"of the best ({best.candidate.name}: {found['word_error_rate']:.1%}, {low:.1%} to {high:.1%})"
        )
    told = {False: "lose more words", True: "are further from the voice"}
    reasons = [told[equal] for equal in (False, True) if any(one == equal for _, one in earlier)]
    if not reasons:
        return f"{words}; no earlier one is proven to."
    return f"{words}; earlier ones that pass {' or '.join(reasons)} than chance explains."


def _equal_in_words(standings: Sequence[Standing], figures: Callable[[Standing], dict[str, Any]]) -> list[Standing]:
    """The one with the lowest word error rate, and then those for which chance explains the difference."""
    best = min(standings, key=lambda one: (figures(one)["word_error_rate"], -_nearness(figures(one))))
    # An interval of few takes can miss its own mean: whoever is best counts as good enough itself.
    limit = max(figures(best)["ci"][1], figures(best)["word_error_rate"])
    return [best, *(one for one in standings if one is not best and figures(one)["word_error_rate"] <= limit)]


def _nearness(found: dict[str, Any]) -> float:
    """Similarity to the speaker; an unknown one is as far as can be."""
    return found["similarity"] or 0.0


def _why_none(confirmed: Sequence[Standing], trained: int) -> str:
    """Names the candidate that came nearest and what keeps it back at each length."""

    def rank(one: Standing) -> tuple[int, float]:
        verdicts = [tier["verdict"] for tier in CONFIRMED(one)["tiers"].values()]
        return verdicts.count(PASSES) - verdicts.count(FAILS), -CONFIRMED(one)["word_error_rate"]

    nearest = max(confirmed, key=rank)
    short = [f"{name} {_short_of(tier)}" for name, tier in CONFIRMED(nearest)["tiers"].items() if tier["verdict"] != PASSES]
    many = f"None of {trained} candidates is" if trained > 1 else "The only candidate is not"
    return f"{many} proven to pass at every length; the nearest, {nearest.candidate.name}: {', '.join(short)}."


def _short_of(tier: dict[str, Any]) -> str:
    count = f"{tier['passed_takes']} of {tier['takes']} takes pass"
    if tier["verdict"] == FAILS:
        return f"fails ({count}; {tier['reasons'][0]})"
    more = f"; {tier['needed']} takes might decide" if tier["needed"] else ""
    return f"is undecided ({count}{more})"
