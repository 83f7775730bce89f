"""What the results say, in plain words. Every sentence is derived from the families' summaries; none is typed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Summary = dict[str, Any]  # what stages.report.results.summarise makes
SPEAKS = 0.30  # above this word error rate on held-out texts, what comes out is no reading of them


class Advice(NamedTuple):
    """One line of routing advice: for this need, this family, because of this."""

    need: str
    choice: str
    because: str


def percent(share: float) -> str:
    return f"{share:.1%}"


def listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def score(summary: Summary, which: str) -> dict[str, Any]:
    """The "base", "best" or "last" checkpoint of a summary."""
    found: dict[str, Any] = summary["checkpoints"][summary["chosen"][which]]
    return found


def headline(summaries: Sequence[Summary]) -> str:
    trained = [one for one in summaries if not one["control"]]
    passed = [one for one in trained if one["promoted"]]
    if not trained:
        return "No family was trained in this run; what follows is what the bases do by themselves."
    families = _count(len(trained), "fine-tuned family", "fine-tuned families")
    if not passed:
        closest = min(trained, key=lambda one: score(one, "best")["word_error_rate"])
        rate = percent(score(closest, "best")["word_error_rate"])
        return (
            f"No checkpoint may be deployed: of {families} none passes the gate at all three lengths. "
            f"Closest is {closest['title']} {closest['chosen']['best']}, with a word error rate of {rate}."
        )
    verb = "has" if len(passed) == 1 else "have"
    names = listed([f"{one['title']} ({one['promoted']})" for one in passed])
    return f"{len(passed)} of {families} {verb} a checkpoint that passes the gate at all three lengths: {names}."


def speaks(summary: Summary) -> bool:
    """Does the best checkpoint say held-out texts? Where there are none, nobody knows that it does not."""
    rate = summary["held_out_word_error_rate"]
    return rate is None or rate <= SPEAKS


def silent(summaries: Sequence[Summary]) -> str:
    """Names the families that do not speak; empty where all do."""
    names = [one["title"] for one in summaries if not speaks(one)]
    if not names:
        return ""
    verb, whose = ("does", "its") if len(names) == 1 else ("do", "their")
    return (
        f"{listed(names)} {verb} not speak: even {whose} best checkpoint gets more than {SPEAKS:.0%} of the words of "
        "held-out texts wrong."
    )


def findings(summaries: Sequence[Summary]) -> list[tuple[str, list[str]]]:
    """For each family its title and what happened to it, in a few sentences."""
    return [(one["title"], _of_speech(one) + (_of_control(one) if one["control"] else _of_trained(one))) for one in summaries]


def _of_speech(summary: Summary) -> list[str]:
    if speaks(summary):
        return []
    name, rate = summary["chosen"]["best"], percent(summary["held_out_word_error_rate"])
    return [f"It does not speak: {name} gets {rate} of the words of held-out texts wrong."]


def _of_control(summary: Summary) -> list[str]:
    base = score(summary, "base")
    passed = sum(tier["passed"] for tier in base["tiers"].values())
    rate = percent(base["word_error_rate"])
    return [summary["why"], f"Its word error rate is {rate}; it passes {passed} of {len(base['tiers'])} lengths."]


def _of_trained(summary: Summary) -> list[str]:
    base, best, last = (score(summary, which) for which in ("base", "best", "last"))
    name = summary["chosen"]["best"]
    before, after = percent(base["word_error_rate"]), percent(best["word_error_rate"])
    if best["ci"][1] < base["ci"][0]:
        sentences = [f"Fine-tuning lowers the word error rate from {before} to {after} ({name})."]
    elif best["ci"][0] > base["ci"][1]:
        sentences = [f"Fine-tuning costs words: the word error rate goes from {before} to {after} ({name})."]
    else:
        sentences = [
            f"Word error rate {before} before and {after} after fine-tuning ({name}): the confidence intervals overlap."
        ]
    if base["similarity"] is not None and best["similarity"] is not None:
        verb = "rises" if best["similarity"] > base["similarity"] else "does not rise"
        sentences.append(f"Similarity to the speaker {verb}: {base['similarity']:.3f} to {best['similarity']:.3f}.")
    losses = [one["validation_loss"] for one in (base, best)]
    if None not in losses:
        verb = "falls" if losses[1] < losses[0] else "does not fall"
        sentences.append(f"Validation loss {verb}: {losses[0]:.2f} to {losses[1]:.2f}.")
    if last is not best and last["ci"][0] > best["ci"][1]:
        end, rate = summary["chosen"]["last"], percent(last["word_error_rate"])
        sentences.append(f"Training to the end would have cost words: {end} stands at {rate}.")
    return [*sentences, summary["why"]]


def routing(summaries: Sequence[Summary]) -> list[Advice]:
    """Which family for which need, among those that passed. Empty when none did: nothing is recommended that fails."""
    passed = [one for one in summaries if one["promoted"]]
    if not passed:
        return []

    def best(
        values: Callable[[Summary], float | None], pick: Callable[..., Any], need: str, because: str
    ) -> list[Advice]:
        known = [(value, index) for index, one in enumerate(passed) if (value := values(one)) is not None]
        if not known:
            return []
        value, index = pick(known, key=lambda pair: pair[0])
        return [Advice(need, f"{passed[index]['title']} {passed[index]['promoted']}", because.format(value))]

    advice = best(
        lambda one: score(one, "best")["word_error_rate"], min, "Every word as written", "word error rate {:.1%}"
    )
    advice += best(lambda one: score(one, "best")["similarity"], max, "Closest to the voice", "similarity {:.3f}")
    advice += best(_minutes, min, "Least preparation and training", "{:.1f} minutes in this run")
    free = [f"{one['title']} {one['promoted']}" for one in passed if commercial(one)]
    because = "weights and code allow it" if free else "no family that passed has weights and code that allow it"
    return [*advice, Advice("Commercial use", listed(free) or "none", because)]


def _minutes(summary: Summary) -> float | None:
    parts = summary["seconds"]["prep"], summary["seconds"]["train"]
    return None if None in parts else sum(parts) / 60


def commercial(summary: Summary) -> bool:
    return all(terms["commercial"] for terms in summary["licence"].values())


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
