"""Whether the listener would as well have written what the text says, and whether it wrote once what was said twice.

A listener writes the one text that it finds likeliest; how likely it finds another, it tells when asked. In the good takes of a
natural voice most of what it writes otherwise than the text ("or" and "all", "has" and "is", a lost "I") it would as well have
written as it stands there, while a word that is missing, or another one, makes the text thousands of times less likely. And a
phrase that is said twice and written once leaves a word that lasts too long; there it is asked about the phrase twice. A short
sentence within half a minute it now and then leaves out, and how likely that is it can't tell: it hears the place by itself.

The limits are of 72 clean takes of three of Kokoro's voices, and of 230 with planted defects (stages/bench/gate.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stages.gate.audio import RATE
from stages.gate.listener import Listener, Window, windows
from stages.gate.listener import Word as Heard
from stages.gate.sound import apart
from stages.gate.spoken import spoken
from stages.gate.words import UNCLEAR, Alignment, Word, align, sides, wrong

# Nats by which the text may be less likely than what was written, by the number of sounds in which they differ ...
OTHERWISE = {0: 99.0, 1: 5.0, 2: 3.0}
ONE_SOUND = 12.0  # ... where a word of one sound was not written ("I", "a"), which good speakers swallow
ONE_WORD = 1.5    # ... and another word
TWICE = 4.5      # nats by which a phrase said twice may be less likely than said once, and still be what was said
LONG = 0.3       # seconds that a word must last too long before it is asked whether something was said twice
PHRASE = 4       # words, at most, that are said twice
BEFORE, AFTER = 8, 4  # words around the place that are listened to
AROUND = 3  # words at each side of a phrase that was left out, when its place is heard by itself
HEARD = 0.0  # in place of nats: the phrase is there when the place is heard by itself

Doubt = list[Any]  # the words of the text, what was written for them, and how many nats less likely they are


def doubts(listener: Listener, wave: np.ndarray, words: Sequence[Heard], text: str) -> list[Doubt]:
    """Of each place where a take of `text` was heard otherwise, and that may be a slip of the listener. `words`: of `transcribe`."""
    steps = align(text, "".join(word.text for word in words)).words
    places = [*wrong(steps)]
    left_out = [place for place in places if _is_phrase(*sides(steps[slice(*place)]))]
    found: list[Doubt] = [[sides(steps[start:end])[0], "", HEARD] for start, end in left_out if _is_there(listener, wave, words, steps, start, end)]
    asked = [place for place in places if place not in left_out and _limit(*sides(steps[slice(*place)])) is not None]
    for window, first, last in _shares(wave, words, steps):
        here = [(start, end) for start, end in asked if first <= start < last]
        if here:
            texts = [_said(steps[first:last])]
            texts += [" ".join((_said(steps[first:start]), sides(steps[start:end])[0], _said(steps[end:last]))) for start, end in here]
            written, *likely = listener.likelihoods(window, texts)
            found += [[*sides(steps[start:end]), round(written - one, 1)] for (start, end), one in zip(here, likely, strict=True)]
    return found


def pardoned(alignment: Alignment, doubts: Sequence[Doubt]) -> Alignment:
    """With a place that the listener has no reason to call wrong as one step, `UNCLEAR`."""
    nats = {(wanted, heard): nats for wanted, heard, nats in doubts}
    words, done = list[Word](), 0
    for start, end in wrong(alignment.words):
        wanted, heard = sides(alignment.words[start:end])
        limit = _limit(wanted, heard)
        if limit is not None and nats.get((wanted, heard), limit + 1) <= limit:
            words += [*alignment.words[done:start], Word(UNCLEAR, wanted or None, heard or None)]
            done = end
    return Alignment((*words, *alignment.words[done:]), alignment.cells)


def _said(steps: Sequence[Word]) -> str:
    return sides(steps)[1]


def _is_phrase(wanted: str, heard: str) -> bool:
    """Whether several words were left out."""
    return not heard and " " in wanted


def _is_there(listener: Listener, wave: np.ndarray, words: Sequence[Heard], steps: Sequence[Word], start: int, end: int) -> bool:
    """Whether what was left out, steps `start` to `end`, is heard when the listener hears its place by itself."""
    before, phrase, after = (sides(some)[0].split() for some in (steps[max(0, start - AROUND) : start], steps[start:end], steps[end : end + AROUND]))
    place = int(np.searchsorted(_heard_by(words, steps), len(_said(steps[:start]).split()), "right"))
    first, last = max(0, place - AROUND), min(len(words), place + AROUND)
    piece = wave[round(words[first].start * RATE) if first else 0 : round(words[last - 1].end * RATE) if last < len(words) else None]
    said = "".join(word.text for word in listener.transcribe([piece])[0])
    at = 0
    for step in align(" ".join([*before, *phrase, *after]), said).words:
        count = len(step.reference.split()) if step.reference else 0
        if at < len(before) + len(phrase) and at + count > len(before) and step.op != "ok":
            return False
        at += count
    return True


def _limit(wanted: str, heard: str) -> float | None:
    """The nats that pardon it; None where nothing does."""
    if not wanted:
        return None
    if _is_phrase(wanted, heard):
        return HEARD
    if not heard:
        return ONE_SOUND if apart(wanted, "") == 1 else ONE_WORD
    return OTHERWISE.get(apart(wanted, heard))


def _shares(wave: np.ndarray, words: Sequence[Heard], steps: Sequence[Word]) -> Iterator[tuple[Window, int, int]]:
    """The windows of a take, and from which step of its alignment to which each goes. Words are counted in their usual reading:
    where another one fits the text, an end is off by a word or two."""
    so_far, heard, first = _heard_by(words, steps), np.cumsum([len(step.heard.split()) if step.heard else 0 for step in steps]), 0
    pieces = windows(Window(0, 0.0, wave))
    for piece, after in zip(pieces, [*pieces[1:], None], strict=True):
        earlier = sum(after is None or word.start < after.start for word in words)
        last = len(steps) if after is None else int(np.searchsorted(heard, so_far[earlier - 1] if earlier else 0.0, "right"))
        yield piece, first, last
        first = last


def _heard_by(words: Sequence[Heard], steps: Sequence[Word]) -> np.ndarray:
    """How many of the words of an alignment were heard by the end of each word of `transcribe`."""
    usual = np.cumsum([len(spoken(word.text)) for word in words])
    return usual * (len(_said(steps).split()) / max(usual[-1], 1)) if len(words) else np.zeros(0)


def twice(listener: Listener, wave: np.ndarray, words: Sequence[Heard], place: int, seconds: float) -> str | None:
    """The phrase that is said twice though it was written once, if there is one where word number `place` lasts `seconds` too long."""
    if seconds < LONG or not words:
        return None
    first, last = max(0, place - BEFORE), min(len(words), place + AFTER)
    start = words[first].start if first else 0.0
    piece = Window(0, start, wave[round(start * RATE) : round(words[last].start * RATE) if last < len(words) else None])
    some = [_plain(word.text) for word in words[first:last]]
    phrases = [(end - size, end) for end in (place - first, place - first + 1) for size in range(1, PHRASE + 1) if 0 <= end - size < end <= len(some)]
    if not phrases or piece.seconds <= 0:
        return None
    once, *repeated = listener.likelihoods(piece, ["".join(some), *("".join(some[:end] + some[start:]) for start, end in phrases)])
    best = max(range(len(phrases)), key=repeated.__getitem__)
    return "".join(some[slice(*phrases[best])]).strip() if repeated[best] >= once - TWICE else None


def _plain(word: str) -> str:
    """In small letters and without the marks around it, since a phrase said twice has none between."""
    return re.sub(r"[^\w\s]+$", "", word.lower())
