"""What can be wrong with a take, planted in a good one: each defect at the borders of words whose times are known.

A defect is a list of pieces of the take, in the order in which they are to be heard; most need nothing else.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stages.bases.kokoro import SAMPLE_RATE, Reading, Word
from stages.gate.audio import resampled

FADE = SAMPLE_RATE // 100    # samples over which one piece becomes the next, so that no click tells where
PAUSE = 3.0                  # seconds
SHORTEST_WORD = 3            # letters: "a" and "I" are lost in good speech too
CUT = 0.7                    # of the take stays
BAND = 8000                  # Hz, the sample rate of a telephone
VOWELS = "AIOWYQaeiouæɑɒɔəɛɜɪʊʌ"
Span = tuple[int, int]       # samples, from and to


@dataclass(frozen=True)
class Planted:
    """`where`: seconds in `audio` at which something is wrong; `words`: those that it concerns, none if it is all of them."""

    audio: np.ndarray
    where: tuple[float, float]
    words: tuple[str, ...] = ()


Read = Callable[[Sequence[Word]], Reading]  # in the same voice
Plant = Callable[[Reading, random.Random, Read], Planted | None]  # None: the text has no place for it


@dataclass(frozen=True)
class Defect:
    """`causes`: how a reason of the gate may start that names what is wrong; empty for a good take."""

    plant: Plant
    causes: str

    def named(self, reasons: Sequence[str], words: Sequence[str]) -> bool:
        """Whether one of `reasons` gives the right cause, and names one of `words` where there are any."""
        told = [reason for reason in reasons if re.match(self.causes, reason)]
        return any(not words or {_plain(word) for word in words} & {_plain(word) for word in reason.split()} for reason in told)


def _plain(word: str) -> str:
    return re.sub(r"[^a-z0-9']", "", word.lower())


# --- places -----------------------------------------------------------------------------------------------------------


def run_of(reading: Reading, size: int, rng: random.Random) -> int | None:
    """The index of the first of `size` words, within a clause and none at its end, and neither first nor last in the take."""
    words = reading.words
    places = [at for at in range(1, len(words) - size) if all(_usable(word) for word in words[at : at + size]) and not words[at - 1].ends_clause]
    return rng.choice(places) if places else None


def _usable(word: Word) -> bool:
    return word.text.isalpha() and len(word.text) >= SHORTEST_WORD


def spliced(audio: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """The spans of `audio` one after the other, the end of each faded into the start of the next."""
    found = np.zeros(0, np.float32)
    ramp = np.linspace(0.0, 1.0, FADE, dtype=np.float32)
    for start, end in spans:
        piece = audio[start:end].astype(np.float32)
        over = min(FADE, len(found), len(piece))
        if over:
            piece[:over] = piece[:over] * ramp[:over] + found[-over:] * ramp[:over][::-1]
        found = np.concatenate([found[: len(found) - over], piece])
    return found


def _without(reading: Reading, *cuts: Span) -> np.ndarray:
    edges = [0, *(edge for cut in cuts for edge in cut), len(reading.audio)]
    return spliced(reading.audio, list(zip(edges[::2], edges[1::2], strict=True)))


def _seconds(start: int, end: int) -> tuple[float, float]:
    return round(start / SAMPLE_RATE, 3), round(end / SAMPLE_RATE, 3)


# --- the defects ------------------------------------------------------------------------------------------------------


def clean(reading: Reading, rng: random.Random, read: Read) -> Planted:
    return Planted(reading.audio, (0.0, 0.0))


def dropped_together(reading: Reading, rng: random.Random, read: Read) -> Planted | None:
    at = run_of(reading, 2, rng)
    if at is None:
        return None
    gone, then = reading.words[at : at + 2], reading.words[at + 2]
    return Planted(_without(reading, (gone[0].start, then.start)), _seconds(gone[0].start, gone[0].start), tuple(word.text for word in gone))


def dropped_apart(reading: Reading, rng: random.Random, read: Read) -> Planted | None:
    """Two words with at least two others between them."""
    words = reading.words
    places = [at for at in range(1, len(words) - 1) if _usable(words[at]) and not words[at - 1].ends_clause]
    pairs = [(one, two) for one in places for two in places if two - one >= 3]
    if not pairs:
        return None
    one, two = rng.choice(pairs)
    cuts = [(words[at].start, words[at + 1].start) for at in (one, two)]
    lost = cuts[0][1] - cuts[0][0]
    return Planted(_without(reading, *cuts), _seconds(cuts[0][0], cuts[1][0] - lost), (words[one].text, words[two].text))


def merged(reading: Reading, rng: random.Random, read: Read) -> Planted | None:
    """The first half of the phones of one word, and the second half of the next one's."""
    at = run_of(reading, 2, rng)
    if at is None:
        return None
    first, second = reading.words[at : at + 2]
    start, end = first.edges[len(first.edges) // 2], second.edges[len(second.edges) // 2]
    return Planted(_without(reading, (start, end)), _seconds(start, start), (first.text, second.text))


def repeated(reading: Reading, rng: random.Random, read: Read) -> Planted | None:
    at = run_of(reading, 3, rng)
    if at is None:
        return None
    start, end = reading.words[at].start, reading.words[at + 3].start
    audio = spliced(reading.audio, [(0, end), (start, len(reading.audio))])
    return Planted(audio, _seconds(end, 2 * end - start), tuple(word.text for word in reading.words[at : at + 3]))


def cut_off(reading: Reading, rng: random.Random, read: Read) -> Planted:
    """At the end of the word that `CUT` of the take comes nearest to."""
    words = reading.words
    last = min(range(len(words)), key=lambda at: abs(words[at].end - CUT * len(reading.audio)))
    end = words[last].end
    return Planted(reading.audio[:end], _seconds(end, end), tuple(word.text for word in words[last + 1 :]))


def swapped(reading: Reading, rng: random.Random, read: Read) -> Planted | None:
    """Two neighbouring phrases of three words."""
    words = reading.words
    places = [at for at in range(1, len(words) - 6) if not any(word.ends_clause for word in words[at - 1 : at + 6])]
    if not places:
        return None
    at = rng.choice(places)
    start, middle, end = (words[index].start for index in (at, at + 3, at + 6))
    audio = spliced(reading.audio, [(0, start), (middle, end), (start, middle), (end, len(reading.audio))])
    return Planted(audio, _seconds(start, end), tuple(word.text for word in words[at : at + 6]))


def paused(reading: Reading, rng: random.Random, read: Read) -> Planted | None:
    at = run_of(reading, 2, rng)
    if at is None:
        return None
    edge = (reading.words[at].end + reading.words[at + 1].start) // 2
    silence = round(PAUSE * SAMPLE_RATE)
    audio = np.concatenate([reading.audio, np.zeros(silence + 2 * FADE, np.float32)])
    audio = spliced(audio, [(0, edge), (len(reading.audio), len(audio)), (edge, len(reading.audio))])
    return Planted(audio, _seconds(edge, edge + silence), tuple(word.text for word in reading.words[at - 1 : at + 3]))


def misread(reading: Reading, rng: random.Random, read: Read) -> Planted | None:
    """A name in other phones: a word with a capital letter that no sentence begins with."""
    words = reading.words
    names = [
        at for at in range(1, len(words))
        if words[at].text[0].isupper() and len(words[at].text) > SHORTEST_WORD and words[at - 1].text[-1] not in ".!?"
    ]  # fmt: skip
    if not names:
        return None
    at = rng.choice(names)
    again = read([*words[:at], replace(words[at], phones=other_phones(words[at].phones)), *words[at + 1 :]])
    return Planted(again.audio, _seconds(again.words[at].start, again.words[at].end), (words[at].text,))


def other_phones(phones: str) -> str:
    """Every vowel another one: "bˈɔstən" becomes "bˈʊstʌn"."""
    return "".join(VOWELS[(VOWELS.index(phone) + 5) % len(VOWELS)] if phone in VOWELS else phone for phone in phones)


def silent(reading: Reading, rng: random.Random, read: Read) -> Planted:
    return Planted(np.zeros_like(reading.audio), _seconds(0, len(reading.audio)))


def band(reading: Reading, rng: random.Random, read: Read) -> Planted:
    """Nothing above half of `BAND`."""
    audio = resampled(resampled(reading.audio, SAMPLE_RATE, BAND), BAND, SAMPLE_RATE)[: len(reading.audio)]
    return Planted(audio, _seconds(0, len(audio)))


CLEAN = "clean"  # the good take among them
# By the names under which the table shows them.
DEFECTS = {
    CLEAN: Defect(clean, ""),
    "two words dropped together": Defect(dropped_together, "dropped|merged"),
    "two words dropped apart": Defect(dropped_apart, "dropped|merged"),
    "two words merged": Defect(merged, "merged|dropped|.*sound wrong"),
    "three words repeated": Defect(repeated, "repeated|unexplained"),
    "cut at 70 %": Defect(cut_off, "dropped|ended as a stub"),
    "phrases swapped": Defect(swapped, "out of order|dropped|inserted|repeated"),
    "3 s pause": Defect(paused, "a pause"),
    "name mispronounced": Defect(misread, ".*sound wrong"),
    "silence": Defect(silent, "unheard"),
    "8 kHz band": Defect(band, "dull"),
}
