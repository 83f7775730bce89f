"""Which words of a text were heard: the alignment of a text with a transcript.

The alignment has the fewest word errors. Among equals, the one with fewer and longer gaps and with look-alike
substitutions wins, so that a lost phrase is reported as that phrase. What says nothing about the speaker costs
nothing: compounds that the listener joined or split, words that sound alike, the reading of a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from stages.gate.spoken import sound, tokens

ERROR = 1_000_000      # one word error; the tie-breakers below never add up to it
GAP = 20               # opening a run of dropped or inserted words
UNLIKE = 20            # substituting a word that shares no letters
LONGEST_JOIN = 6       # words that one heard word may stand for: "m i s d n" and "misdn"
OPS = ("ok", "substituted", "dropped", "inserted", "merged", "repeated")


class Word(NamedTuple):
    """One step of an alignment. A compound or a merge keeps its words in one entry, with spaces."""

    op: str
    reference: str | None
    heard: str | None


@dataclass(frozen=True)
class Alignment:
    words: tuple[Word, ...]

    @property
    def reference(self) -> list[str]:
        return [word for step in self.words if step.reference for word in step.reference.split()]

    @property
    def heard(self) -> list[str]:
        return [word for step in self.words if step.heard for word in step.heard.split()]

    def errors(self) -> dict[str, int]:
        """Count of each error, and the longest run of words lost (dropped, merged) or added (inserted, repeated)."""
        counts = {op: sum(step.op == op for step in self.words) for op in OPS[1:]}
        runs = [len(list(run)) for lost, run in groupby(self.words, key=lambda step: _CHANGE.get(step.op)) if lost]
        return {**counts, "longest_run": max(runs, default=0)}

    @property
    def wrong(self) -> int:
        """Word errors as the word error rate counts them; a merge of two words is two."""
        return sum(len((step.reference or step.heard or "").split()) for step in self.words if step.op != "ok")

    @property
    def word_error_rate(self) -> float:
        """Errors per word of the text; for a text without words, 1.0 if anything was heard."""
        return self.wrong / max(len(self.reference), 1)


_CHANGE = {"dropped": "lost", "merged": "lost", "inserted": "added", "repeated": "added"}


def align(text: str, transcript: str) -> Alignment:
    """Align `text` with `transcript`, choosing for numbers and symbols on either side the reading that fits best."""
    return Alignment(tuple(_name_repeats(_align(_Graph(text), _Graph(transcript)))))


class _Graph:
    """The words of a text as a graph: a path from node 0 to the last node is one way to read the text.

    `ending[v]` lists the words that end at node v, with the node where they start; `phrases[v]` maps the joined
    letters of 2 to `LONGEST_JOIN` words that end there to their start and words.
    """

    def __init__(self, text: str):
        self.ending: list[list[tuple[int, str]]] = [[]]
        start = 0
        for readings in tokens(text):
            last_words = []
            for reading in readings:
                node = start
                for word in reading[:-1]:
                    self.ending.append([(node, word)])
                    node = len(self.ending) - 1
                last_words.append((node, reading[-1]))
            self.ending.append(last_words)
            start = len(self.ending) - 1
        self.phrases = [self._phrases(node) for node in range(len(self.ending))]

    def _phrases(self, node: int) -> dict[str, tuple[int, tuple[str, ...]]]:
        found: dict[str, tuple[int, tuple[str, ...]]] = {}
        paths: list[tuple[int, tuple[str, ...]]] = [(node, ())]
        for size in range(1, LONGEST_JOIN + 1):
            paths = [(before, (word, *words)) for start, words in paths for before, word in self.ending[start]]
            if size > 1:
                for before, words in paths:
                    found.setdefault("".join(words), (before, words))
                    found.setdefault("".join(map(sound, words)), (before, words))
        return found


Step = tuple[int, int, int, Word]  # the nodes and the state one step back, and the step


def _align(reference: _Graph, heard: _Graph) -> list[Word]:
    """Edit distance with affine gaps (Gotoh 1982) over two word graphs; ties go to the match, then to the drop.

    `cost[i][j]` holds the cheapest way to nodes i and j for each kind of last step: 0 both sides, 1 drop, 2 insertion.
    """
    rows, columns = len(reference.ending), len(heard.ending)
    infinite = ERROR * (rows + columns)
    cost = [[[infinite] * 3 for _ in range(columns)] for _ in range(rows)]
    back: dict[tuple[int, int, int], Step] = {}
    cost[0][0][0] = 0

    def reach(i: int, j: int, state: int, u: int, v: int, word: Word, price: int) -> None:
        before = cost[u][v]
        opening = GAP if state else 0
        prices = [value + price + (opening if last != state else 0) for last, value in enumerate(before)]
        cheapest = min(prices)
        if cheapest < cost[i][j][state]:
            cost[i][j][state] = cheapest
            back[i, j, state] = (u, v, prices.index(cheapest), word)

    for i in range(rows):
        for j in range(columns):
            for u, v, word, price in _pairs(reference, heard, i, j):
                reach(i, j, 0, u, v, word, price)
            for u, text in reference.ending[i]:
                reach(i, j, 1, u, j, Word("dropped", text, None), ERROR)
            for v, text in heard.ending[j]:
                reach(i, j, 2, i, v, Word("inserted", None, text), ERROR)

    i, j, words = rows - 1, columns - 1, []
    state = cost[i][j].index(min(cost[i][j]))
    while i or j:
        i, j, state, word = back[i, j, state]
        words.append(word)
    return words[::-1]


def _pairs(reference: _Graph, heard: _Graph, i: int, j: int) -> Iterator[tuple[int, int, Word, int]]:
    """What the words that end at nodes i and j may be to each other: (start, start, step, price)."""
    for u, word in reference.ending[i]:
        for v, other in heard.ending[j]:
            if sound(word) == sound(other):
                yield u, v, Word("ok", word, other), 0
                continue
            yield u, v, Word("substituted", word, other), ERROR + round(UNLIKE * (1 - _alike(word, other)))
            for before, first in reference.ending[u]:
                likeness = _alike(first + word, other)
                if likeness >= 0.5 and likeness > max(_alike(word, other), _alike(first, other)):
                    price = 2 * ERROR + round(UNLIKE * (1 - likeness))
                    yield before, v, Word("merged", f"{first} {word}", other), price
    for v, other in heard.ending[j]:
        if other in reference.phrases[i]:
            before, words = reference.phrases[i][other]
            yield before, v, Word("ok", " ".join(words), other), 0
    for u, word in reference.ending[i]:
        if word in heard.phrases[j]:
            before, words = heard.phrases[j][word]
            yield u, before, Word("ok", word, " ".join(words)), 0


@lru_cache(maxsize=100_000)
def _alike(first: str, second: str) -> float:
    """Share of letter pairs in common (Dice), 0 to 1."""
    pairs = [{word[k : k + 2] for k in range(len(word) - 1)} for word in (first, second)]
    return 2 * len(pairs[0] & pairs[1]) / max(len(pairs[0]) + len(pairs[1]), 1)


def _name_repeats(words: list[Word]) -> list[Word]:
    """Inserted words that say again what is heard right before or after them are repeats."""
    heard = [sound(word) for step in words if step.heard for word in step.heard.split()]
    named, position = [], 0
    run = 0  # end, in heard words, of the repeat that is being named
    for index, step in enumerate(words):
        if step.op == "inserted":
            if position >= run:
                left = next((k for k, later in enumerate(words[index:]) if later.op != "inserted"), len(words) - index)
                run = position + _repeat(heard, position, left)
            step = step._replace(op="repeated") if position < run else step
        named.append(step)
        position += len(step.heard.split()) if step.heard else 0
    return named


def _repeat(heard: list[str], start: int, longest: int) -> int:
    """Words in the longest phrase, at most `longest`, that starts at `start` and stands right beside itself, or 0."""
    for size in range(longest, 0, -1):
        phrase = heard[start : start + size]
        if phrase == heard[start + size : start + 2 * size] or phrase == heard[max(start - size, 0) : start]:
            return size
    return 0

