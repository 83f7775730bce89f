"""What is wrong with a take, and how a checkpoint scores over its takes.

Everything is measured against what the listener makes of real recordings of the same speaker (the noise floor), and
counted in words and runs of words: half a minute of speech can lose a phrase without moving its word error rate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from operator import itemgetter
from typing import Any

import numpy as np

from stages.common.averages import mean, words_in
from stages.common.params import GateParams
from stages.gate.doubt import pardoned
from stages.gate.words import RIGHT, align, sides, wrong

Row = dict[str, Any]
FEW_WORDS = 4     # shorter texts have no speaking rate worth the name
STUB = 0.4        # share of the expected length below which speech was cut short
RESAMPLES = 2000  # of the bootstrap
NAMED = 12        # words that a reason spells out
MOVED = 2         # words, at least, that are out of order


def measured(text: str, heard: dict[str, Any]) -> dict[str, Any]:
    """The figures of a row of rows.jsonl, before any verdict. `heard`: what `Hearing.hear` made of a take of `text`.

    `rate` is heard words a second of speech. `transcript` is empty when no word was made out, and None without a take.
    """
    transcript = heard["transcript"]
    alignment = pardoned(align(text, transcript or ""), heard.get("doubts", []))
    return heard | {
        "transcript": transcript if alignment.heard else transcript and "",
        "words": [list(word) for word in alignment.words],
        "errors": alignment.errors(),
        "word_error_rate": round(alignment.word_error_rate, 4),
        "rate": round(len(alignment.heard) / heard["speech"], 3) if heard["speech"] > 0 else None,
    }


# What is heard of a take that does not exist: every word of its text is dropped.
NOTHING: dict[str, Any] = {
    "seconds": None, "speech": 0.0, "transcript": None, "leading_silence": None, "trailing_silence": None, "pause": None,
    "pause_after": None, "doubts": [], "twice": None, "unexplained": None, "unexplained_after": None, "bandwidth": None, "similarity": None, "dnsmos": None,
}  # fmt: skip


@dataclass(frozen=True)
class Tolerance:
    """What a take of one tier may do. Counts are words; rates are words per second."""

    lost: int
    added: int
    misheard: int
    misheard_share: float
    run: int
    letters: float | None  # of a word
    rate: float | None  # words of so many letters a second
    rate_low: float
    rate_high: float
    trailing_silence: float
    pause: float
    unexplained: float
    bandwidth: int  # Hz, at least


def tolerance(recordings: Sequence[Row], gate: GateParams, rate: float | None) -> Tolerance:
    """From the judged rows of real recordings of one tier; none of them: params.yaml alone, with the corpus's `rate`.

    The floor of a count is what nine of ten recordings do not exceed: one bad hearing is the listener's, not a licence.
    """

    def floor(*errors: str) -> int:
        counts = [sum(row["errors"][error] for error in errors) for row in recordings]
        return int(np.quantile(counts, 0.9, method="lower")) if counts else 0

    told = [row for row in recordings if row["rate"] and words_in(row["words"]) >= FEW_WORDS]
    letters = mean([_letters(row) for row in told])
    rates = [_rate(row, letters) for row in told]
    rate = float(np.median(rates)) if rates else rate
    middle = rate or 0.0
    return Tolerance(
        lost=floor("dropped", "merged") + gate.extra_dropped,
        added=floor("inserted", "repeated") + gate.extra_inserted,
        misheard=floor("substituted"),
        misheard_share=gate.extra_share,
        run=floor("longest_run") + gate.longest_run,
        letters=letters,
        rate=rate and round(rate, 3),
        rate_low=round(min([middle * (1 - gate.rate_drift), *rates]), 3),
        rate_high=round(max([middle * (1 + gate.rate_drift), *rates]), 3),
        trailing_silence=gate.trailing_silence,
        pause=round(max([row["pause"] for row in recordings], default=0.0) + gate.pause, 2),
        unexplained=round(max([row["unexplained"] for row in recordings], default=0.0) + gate.unexplained, 2),
        bandwidth=round(gate.bandwidth * min([row["bandwidth"] for row in recordings], default=0)),
    )


def judged(row: Row, allowed: Tolerance) -> Row:
    """`row` with `passed` and `reasons`."""
    reasons = judge(row, allowed)
    return row | {"passed": not reasons, "reasons": reasons}


def judge(row: Row, allowed: Tolerance) -> list[str]:
    """Why a take fails, in words for people; empty when it passes. `row`: rows.jsonl, without its verdict."""
    if row["error"]:
        return [f"failed: {row['error']}"]
    reasons = []
    if row["finish"] == "length":
        reasons.append(f"never stopped: cut off after {row['seconds']:.1f} s")
    if row["trailing_silence"] > allowed.trailing_silence:
        reasons.append(f"{row['trailing_silence']:.1f} s of silence at the end")
    if not row["transcript"]:
        return [*reasons, "unheard: the listener made out no words"]
    return reasons + _words(row, allowed) + _time(row, allowed) + _pace(row, allowed)


def _words(row: Row, allowed: Tolerance) -> list[str]:
    reasons, errors, count = [], row["errors"], words_in(row["words"])
    lost, added = errors["dropped"] + errors["merged"], errors["inserted"] + errors["repeated"]
    # A listener without context cannot tell a lone letter or number: a text of one word may sound like another.
    if count > 1 and not any(op == "ok" for op, _, _ in row["words"]):
        reasons.append(f"none of its {count} words was heard")
    if lost > allowed.lost or longest_run(row["words"], ("dropped", "merged")) > allowed.run:
        reasons += [_listed("dropped", row, 1), _listed("merged", row, 1)]
    if added > allowed.added or longest_run(row["words"], ("inserted", "repeated")) > allowed.run:
        reasons += [_listed("repeated", row, 2), _listed("inserted", row, 2)]
    if errors["substituted"] > allowed.misheard + ceil(allowed.misheard_share * count):
        pairs = [f"{said} for {word}" for op, word, said in row["words"] if op == "substituted"]
        reasons += [f"{errors['substituted']} of {count} words sound wrong: {_short(pairs, ', ')}", *_out_of_order(row["words"])]
    if row.get("twice"):
        reasons.append(f"repeated: {row['twice']}, as it seems, though it is written once")
    return [reason for reason in reasons if reason]


def _out_of_order(words: Sequence[Sequence[str | None]]) -> list[str]:
    """Whether half of what is heard in the wrong places are the words that are missing in others."""
    wanted, heard = sides([step for step in words if step[0] not in RIGHT])
    moved = Counter(wanted.split()) & Counter(heard.split())
    return [f"out of order: {_short([*moved], ', ')}"] if moved.total() >= MOVED and 2 * moved.total() >= len(heard.split()) else []


def _time(row: Row, allowed: Tolerance) -> list[str]:
    reasons = []
    if row["pause"] > allowed.pause:
        reasons.append(f"a pause of {row['pause']:.1f} s{_after(row, 'pause_after')}")
    if row["unexplained"] > allowed.unexplained:
        reasons.append(f"unexplained {row['unexplained']:.1f} s{_after(row, 'unexplained_after')}: longer than the words that are heard")
    if row["bandwidth"] < allowed.bandwidth:
        reasons.append(f"dull: nothing above {row['bandwidth'] / 1000:.1f} kHz, as from a wrong sample rate")
    return reasons


def _after(row: Row, field: str) -> str:
    """The word of the text, where another one was heard for it."""
    word = row[field]
    written = next((wanted for op, wanted, heard in row["words"] if wanted and heard == word), word)
    return f' after "{written}"' if word else ""


def _pace(row: Row, allowed: Tolerance) -> list[str]:
    count = words_in(row["words"])
    if allowed.rate is None or count < FEW_WORDS:
        return []
    if row["seconds"] < STUB * count / allowed.rate:
        return [f"ended as a stub: {row['seconds']:.1f} s where about {count / allowed.rate:.1f} s were due"]
    rate = _rate(row, allowed.letters)
    if not allowed.rate_low <= rate <= allowed.rate_high:
        drift = rate / allowed.rate - 1
        return [f"speaks {abs(drift):.0%} {'faster' if drift > 0 else 'slower'} than the recordings"]
    return []


def _letters(row: Row) -> float:
    """Of a word that is heard."""
    heard = sides(row["words"])[1]
    return len(heard.replace(" ", "")) / max(len(heard.split()), 1)


def _rate(row: Row, letters: float | None) -> float:
    """Words a second, as if they had so many letters each: short ones are not read in haste."""
    rate: float = row["rate"]
    return round(rate * _letters(row) / letters, 3) if letters else rate


def longest_run(words: Sequence[Sequence[str | None]], ops: Sequence[str]) -> int:
    """The most steps of an alignment in a row that are one of `ops`."""
    runs = (len(list(run)) for hit, run in groupby(words, key=lambda step: step[0] in ops) if hit)
    return max(runs, default=0)


def _listed(op: str, row: Row, side: int) -> str:
    """"dropped 3 words: please hold, line": words of one run together, runs apart. Empty if there are none."""
    count = row["errors"][op]
    if not count:
        return ""
    if op == "merged":
        return "merged " + ", ".join(f"{word} into {said}" for what, word, said in row["words"] if what == op)
    if op == "dropped":  # what is left of a lost phrase sounds like something else: all of the place is told
        places = [row["words"][start:end] for start, end in wrong(row["words"])]
        runs = [_lost(place) for place in places if any(step[0] == op for step in place)]
    else:
        grouped = groupby(row["words"], itemgetter(0))
        runs = [" ".join(str(step[side]) for step in run) for what, run in grouped if what == op]
    return f"{op} {count} word{'s' * (count > 1)}: {_short(runs, ', ')}"


def _lost(place: Sequence[Sequence[str | None]]) -> str:
    wanted, heard = sides(place)
    return f"{wanted} (heard as {heard})" if heard else wanted


def _short(parts: list[str], between: str) -> str:
    words = between.join(parts).split()
    return " ".join(words[:NAMED]) + (" …" if len(words) > NAMED else "")


def score(rows: Sequence[Row], recordings: Sequence[Row], seed: int = 0) -> dict[str, Any]:
    """Word error rate over all words of a checkpoint's takes and mean similarity to the speaker, each with its 95 %
    bootstrap interval over the takes; mean DNSMOS. `similarity_margin` is the distance from real recordings."""
    wrong = np.array([row["word_error_rate"] * words_in(row["words"]) for row in rows])
    words = np.array([words_in(row["words"]) for row in rows])
    drawn = np.random.default_rng(seed).integers(0, len(rows), (RESAMPLES, len(rows)))
    rates = wrong[drawn].sum(1) / words[drawn].sum(1)
    similarity, real = (mean([row["similarity"] for row in some]) for some in (rows, recordings))
    quality = mean([row["dnsmos"] for row in rows])
    heard = np.array([row["similarity"] is not None for row in rows])
    near = np.array([row["similarity"] or 0.0 for row in rows])
    means = near[drawn].sum(1) / np.maximum(heard[drawn].sum(1), 1)
    return {
        "word_error_rate": round(float(wrong.sum() / words.sum()), 4),
        "ci": _interval(rates),
        "similarity": similarity,
        "similarity_ci": None if similarity is None else _interval(means[heard[drawn].any(1)]),
        "similarity_margin": None if similarity is None or real is None else round(similarity - real, 4),
        "dnsmos": quality,
    }


def _interval(resampled: np.ndarray) -> list[float]:
    return [round(float(edge), 4) for edge in np.quantile(resampled, [0.025, 0.975])]
