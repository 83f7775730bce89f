"""How English words sound: what is spelled otherwise and sounds alike, a listener cannot tell apart.

The pronunciations are misaki's American dictionary, read as data; misaki itself is not imported. Another language
would bring its dictionary here and its tables in english.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import resources
from itertools import islice, product
from typing import NamedTuple

from stages.gate.english import ALIKE, AMERICAN, WEAK

# Stress and shades of a sound, which no spelling shows.
SHADES = str.maketrans({"ˈ": "", "ˌ": "", "ᵊ": "ə", "ᵻ": "ɪ", "ɾ": "t", "ɜ": "ə"})
PRONUNCIATIONS = 16  # of a phrase that are tried
_GROUP = {word: line for line in ALIKE.replace("\n", " ").split("|") for word in line.split()}

# {word: phones, or phones by part of speech}; read here, once, since takes are aligned by several threads at a time.
DICTIONARY: dict[str, str | dict[str, str | None]] = json.loads(
    resources.files("misaki").joinpath("data/us_gold.json").read_text("utf-8")
)


@lru_cache(maxsize=50_000)
def sounds(word: str) -> frozenset[str]:
    """The pronunciations of a word as strings of phones; none for a word that neither stands nor follows from one."""
    found = set(_listed(word))
    for british, american in AMERICAN.items() if not found else ():
        found |= set(_listed(re.sub(british, american, word)))
    return frozenset(found or set(_inflected(word)))


def _listed(word: str) -> Iterator[str]:
    entry = DICTIONARY.get(word) or DICTIONARY.get(word.capitalize()) or DICTIONARY.get(word.upper()) or ""
    for phones in entry.values() if isinstance(entry, dict) else [entry]:
        if phones:
            yield phones.translate(SHADES).replace("hw", "w")


def _inflected(word: str) -> Iterator[str]:
    """A plural, a possessive, a past tense or an -ing form, from its stem."""
    for ending, sound in (("s", "z"), ("ed", "d"), ("ing", "ɪŋ")):
        if len(word) < len(ending) + 2 or not word.endswith(ending):
            continue
        stem = word.removesuffix(ending).removesuffix("'")
        stems = [stem + "e", stem] if ending != "s" else [stem, stem.removesuffix("e")]
        stems += [stem[:-1]] if stem[-1:] == stem[-2:-1] else []                     # travell-ed
        stems += [re.sub("ie?$", "y", stem)] if re.search("ie$" if ending == "s" else "i$", stem) else []  # appl-ied
        for phones in next(filter(None, map(sounds, stems)), ()):
            yield phones + _ending(sound, phones[-1])


def _ending(sound: str, last: str) -> str:
    if (sound == "z" and last in "szʃʒʧʤ") or (sound == "d" and last in "td"):
        return "ɪ" + sound
    if sound in ("z", "d") and last in "ptkfθsʃʧ":
        return {"z": "s", "d": "t"}[sound]
    return sound


@lru_cache(maxsize=200_000)
def same(word: str, other: str) -> bool:
    """Whether a listener could write one for the other."""
    if word == other or not sounds(word).isdisjoint(sounds(other)) or (word in _GROUP and _GROUP[word] == _GROUP.get(other)):
        return True
    return bare(word) == bare(other) and not (sounds(word) and sounds(other))


def bare(word: str) -> str:
    return word.replace("'", "")


@lru_cache(maxsize=50_000)
def apart(words: str, others: str) -> int:
    """The fewest sounds that differ between two phrases; where a word has no known sounds, its letters count instead, twice."""
    said, heard = _phrase(words), _phrase(others)
    if said and heard:
        return min(edits(one, other) for one in said for other in heard)
    return 2 * edits(bare(words), bare(others))


def _phrase(words: str) -> list[str]:
    """Ways to pronounce a phrase, few enough to try them all; none if one of its words is unknown."""
    return ["".join(said) for said in islice(product(*(sorted(sounds(word)) for word in words.split())), PRONUNCIATIONS)]


def edits(one: Sequence[str], other: Sequence[str]) -> int:
    """Levenshtein's distance."""
    costs = list(range(len(other) + 1))
    for i, sound in enumerate(one, 1):
        before, costs[0] = costs[0], i
        for j, heard in enumerate(other, 1):
            before, costs[j] = costs[j], min(costs[j] + 1, costs[j - 1] + 1, before + (sound != heard))
    return costs[-1]


class Rest(NamedTuple):
    """What is left of a word when the first of its parts have been said: of its sounds, and of its letters where no
    sounds are known.

    Parts may be written as one word where they sound like it, or where they are spelled like it and nothing is known of
    how it sounds: "voice mail" and "voicemail", "m i s d n" and "misdn", but not "so on" and "soon".
    """

    phones: frozenset[str]
    letters: str | None

    @property
    def said(self) -> bool:
        return "" in self.phones or self.letters == ""


@lru_cache(maxsize=50_000)
def whole(word: str) -> Rest:
    return Rest(sounds(word), None if sounds(word) else bare(word))


@lru_cache(maxsize=200_000)
def after(rest: Rest, part: str) -> Rest | None:
    """What is left after `part`, or None if the word does not go on like this."""
    spelled = bare(part)
    letters = rest.letters[len(spelled) :] if rest.letters is not None and rest.letters.startswith(spelled) else None
    phones = frozenset(left for phones in rest.phones for start in _said_in_a_compound(part) for left in _left(phones, start))
    return Rest(phones, letters) if letters is not None or phones else None


@lru_cache(maxsize=50_000)
def _said_in_a_compound(part: str) -> frozenset[str]:
    if part == "a":
        return frozenset({WEAK["a"]})  # its letter's name is another word
    known = sounds(part) | ({WEAK[part]} if part in WEAK else frozenset())
    return known | {phones.replace("ɔ", "ɑ") for phones in known} | {phones.replace("ɑ", "ɔ") for phones in known}


def _left(phones: str, start: str) -> Iterator[str]:
    """A sound that ends one part and begins the next may be said once: bookcase."""
    if phones.startswith(start):
        yield phones[len(start) :]
        if start[-1:] not in "ɑæʌəɛɪiʊuɔAIOWY":
            yield start[-1:] + phones[len(start) :]
