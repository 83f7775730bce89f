"""What the results say, in plain words. Every sentence is derived from the families' summaries; none is typed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from stages.common.params import ReadingParams
from stages.report.records import Asked

Summary = dict[str, Any]  # what stages.report.results.summarise makes
SPEAKS = 0.30  # above this word error rate on held-out texts, what comes out is no reading of them


class Advice(NamedTuple):
    """One line of routing advice: for this need, this family, because of this."""

    need: str
    choice: str
    because: str


class Parting(NamedTuple):
    """The checkpoint after which validation loss still falls while words get worse."""

    epoch: int
    sentence: str


def percent(share: float) -> str:
    return f"{share:.1%}"


def tier_name(tier: str) -> str:
    """ "15s" is "15 s", "30s-whole" is "30 s in one go"."""
    length, _, whole = tier.partition("-")
    return f"{length.removesuffix('s')} s{' in one go' if whole else ''}"


def counted(number: int, one: str, many: str = "") -> str:
    """ "1 take", "2 takes"."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def score(summary: Summary, which: str, phase: str = "confirmed") -> dict[str, Any]:
    """Of the "base", "best" or "last" candidate of a summary: what was "confirmed", or "screened"."""
    found: dict[str, Any] = summary["candidates"][summary["chosen"][which]][phase]
    return found


def standing(summary: Summary) -> str:
    """What the gate made of a family, as one word: "control", or of the best candidate "passes", "fails" or "undecided"."""
    if summary["control"]:
        return "control"
    if summary["promoted"]:
        return "passes"
    return "fails" if any(tier["verdict"] == "fails" for tier in score(summary, "best")["tiers"].values()) else "undecided"


def asked_in_words(asked: Asked, reading: ReadingParams | None) -> str:
    """What a length has to show, and how texts are read; None: as a system from elsewhere does."""
    return (
        f"A length passes when its confirming takes prove that at least {asked.rate:.0%} of all takes would pass, fails when they "
        f"prove that fewer would, and is undecided otherwise: a wrong pass has a chance of at most {asked.false_pass:.0%}, a wrong "
        f"fail of at most {asked.false_fail:.0%}, and at most {asked.budget} takes a length are heard, {asked.batch} at a time; "
        f"after the first of every length, those of a longer one once the shorter ones are proven. "
        f"{_read(reading) if reading else 'How it reads long texts is its own affair; every one is judged as a whole.'}"
    )


def _read(reading: ReadingParams) -> str:
    how = "in one go" if reading.segment_words is None else f"in segments of at most {reading.segment_words} words"
    also = ", those of 30 s also in one go, as a length of their own" if reading.long_whole and reading.segment_words else ""
    return f"Texts are read {how}{also}; so for every family."


def headline(summaries: Sequence[Summary]) -> str:
    return " ".join([_of_families([one for one in summaries if not one["external"]]), *(_of_system(one) for one in summaries if one["external"])])


def _of_system(summary: Summary) -> str:
    what = f"{summary['promoted']} is proven to pass" if summary["promoted"] else "no checkpoint is proven to pass"
    return f"Of {summary['title']}, from elsewhere, {what} at every length."


def _of_families(summaries: Sequence[Summary]) -> str:
    trained = [one for one in summaries if not one["control"]]
    passed = [one for one in trained if one["promoted"]]
    if not trained:
        return "No family was trained in this run; what follows is what the bases do by themselves."
    families = counted(len(trained), "fine-tuned family", "fine-tuned families")
    if not passed:
        closest = min(trained, key=lambda one: score(one, "best")["word_error_rate"])
        rate = percent(score(closest, "best")["word_error_rate"])
        return (
            f"No checkpoint may be deployed: of {families} none is proven to pass the gate at every length. "
            f"Closest is {closest['title']} {closest['chosen']['best']}, with a word error rate of {rate} in its confirming takes."
        )
    verb = "has" if len(passed) == 1 else "have"
    names = listed([f"{one['title']} ({one['promoted']})" for one in passed])
    return f"{len(passed)} of {families} {verb} a checkpoint that is proven to pass the gate at every length: {names}."


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
    return [(one["title"], _of_speech(one) + (_of_judged(one) if one["control"] or one["external"] else _of_trained(one))) for one in summaries]


def _of_speech(summary: Summary) -> list[str]:
    if speaks(summary):
        return []
    name, rate = summary["chosen"]["best"], percent(summary["held_out_word_error_rate"])
    return [f"It does not speak: {name} gets {rate} of the words of held-out texts wrong."]


def _of_judged(summary: Summary) -> list[str]:
    best = score(summary, "best")
    verdicts = [tier["verdict"] for tier in best["tiers"].values()]
    undecided = verdicts.count("undecided")
    lengths = f"{verdicts.count('passes')} of {len(verdicts)} lengths" + (f", and {undecided} undecided" if undecided else "")
    whose = f"the confirming takes of {summary['chosen']['best']}" if summary["external"] else "its confirming takes"
    return [summary["why"], f"In {whose} the word error rate is {percent(best['word_error_rate'])}; it passes {lengths}."]


def _of_trained(summary: Summary) -> list[str]:
    base, best = (score(summary, which) for which in ("base", "best"))
    name = summary["chosen"]["best"]
    before, after = percent(base["word_error_rate"]), percent(best["word_error_rate"])
    if best["ci"][1] < base["ci"][0]:
        sentences = [f"In confirming takes of the same texts, fine-tuning lowers the word error rate from {before} to {after} ({name})."]
    elif best["ci"][0] > base["ci"][1]:
        sentences = [f"In confirming takes of the same texts, fine-tuning costs words: the word error rate goes from {before} to {after} ({name})."]
    else:
        sentences = [
            f"In confirming takes of the same texts, the word error rate is {before} before and {after} after fine-tuning ({name}): the confidence intervals overlap."
        ]
    if base["similarity"] is not None and best["similarity"] is not None:
        verb = "rises" if best["similarity"] > base["similarity"] else "does not rise"
        sentences.append(f"Similarity to the speaker {verb} in them: {base['similarity']:.3f} to {best['similarity']:.3f}.")
    losses = [summary["candidates"][summary["chosen"][which]]["validation_loss"] for which in ("base", "best")]
    if None not in losses:
        verb = "falls" if losses[1] < losses[0] else "does not fall"
        sentences.append(f"Validation loss {verb}: {losses[0]:.2f} to {losses[1]:.2f}.")
    parted = parting(summary)
    return [*sentences, *([parted.sentence] if parted else []), summary["why"]]


def parting(summary: Summary) -> Parting | None:
    """Where the words of the screening takes and validation loss part, over checkpoints at one scale; None where they do not."""
    rows = [one for name, one in summary["candidates"].items() if name == one["checkpoint"] and one["validation_loss"] is not None]
    if not rows:
        return None
    fewest = min(one["screened"]["word_error_rate"] for one in rows)
    at = max(index for index, one in enumerate(rows) if one["screened"]["word_error_rate"] == fewest)
    best, later = rows[at], [one for one in rows[at + 1 :] if one["validation_loss"] < rows[at]["validation_loss"]]
    if not later:
        return None
    last = later[-1]
    rates = [one["screened"]["word_error_rate"] for one in (best, last)]
    chance = "more than chance explains" if last["screened"]["ci"][0] > best["screened"]["ci"][1] else "chance may explain it"
    return Parting(
        best["epoch"],
        f"Words and loss part at step {best['step']} ({best['checkpoint']}): until step {last['step']} validation loss still falls, from "
        f"{best['validation_loss']:.2f} to {last['validation_loss']:.2f}, while the word error rate of the screening takes rises from "
        f"{percent(rates[0])} to {percent(rates[1])}; {chance}.",
    )


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
        lambda one: score(one, "best")["word_error_rate"], min, "Every word as written", "word error rate {:.1%} in confirming takes"
    )
    advice += best(lambda one: score(one, "best")["similarity"], max, "Closest to the voice", "similarity {:.3f} in confirming takes")
    advice += best(_minutes, min, "Least preparation and training", "{:.1f} minutes in this run")
    free = [f"{one['title']} {one['promoted']}" for one in passed if commercial(one)]
    because = "weights and code allow it" if free else "no family that passed has weights and code that allow it"
    if unknown := [one["title"] for one in passed if one["external"]]:
        because += f"; of {listed(unknown)} see {'its' if len(unknown) == 1 else 'their'} own licence"
    return [*advice, Advice("Commercial use", listed(free) or "none", because)]


def _minutes(summary: Summary) -> float | None:
    parts = summary["seconds"]["prep"], summary["seconds"]["train"]
    return None if None in parts else sum(parts) / 60


def commercial(summary: Summary) -> bool:
    """Whether its licences are known to allow it: what came from elsewhere has its own."""
    return not summary["external"] and all(terms["commercial"] for terms in summary["licence"].values())
