"""All readings of a text as a graph of words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from stages.gate.english import Reading
from stages.gate.sound import Rest, after, whole
from stages.gate.spoken import Aliases, readings

LONGEST_COMPOUND = 6  # words that one word may stand for: "m i s d n" and "misdn"


class Place(NamedTuple):
    """Between two words: `token` is the last one that has begun, `end` the one to go to, `left` what there is to say before."""

    token: int
    end: int
    left: frozenset[Reading]


class Graph:
    """A path from node 0 to the last node is one way to read the text; nodes are numbered in the order of reading.

    `onward[v]` lists the words that start at node v, each with the node where it ends. Readings that begin or end alike
    share their nodes: an amount with fifty readings adds a handful of them.
    """

    def __init__(self, text: str, aliases: Aliases = ()):
        ways = readings(text, aliases)
        steps: dict[Place, list[tuple[str, Place]]] = {}
        for token, alternatives in enumerate(ways):
            spans: dict[int, list[Reading]] = {}
            for end, reading in alternatives:
                spans.setdefault(end, []).append(reading)
            here = before(token)
            steps[here] = []
            inside: dict[Place, list[Reading]] = {}
            for end, said in spans.items():
                steps[here] += _steps(token, end, said, inside)
            while inside:  # the longest first, for none of the others leads to it
                place = max(inside, key=lambda place: max(map(len, place.left)))
                steps[place] = list(_steps(token, place.end, inside.pop(place), inside))
        steps[before(len(ways))] = []
        for token in reversed(range(len(ways))):  # what may be left out: on from there as well
            for end, reading in ways[token]:
                if not reading:
                    steps[before(token)] += steps[before(end)]
        number = {place: node for node, place in enumerate(steps)}
        self.onward = [[(word, number[place]) for word, place in onward] for onward in steps.values()]
        self.compounds = cache(self._compounds)

    def _compounds(self, node: int, word: str) -> list[tuple[str, int]]:
        """Two words and more, from `node` on, that are `word` when they are written as one, with the node where they end."""
        return list(self._parts(node, whole(word), ()))

    def _parts(self, node: int, rest: Rest, said: Reading) -> Iterator[tuple[str, int]]:
        for part, end in self.onward[node] if len(said) < LONGEST_COMPOUND else ():
            left = after(rest, part)
            if left is not None:
                if left.said and said:
                    yield " ".join((*said, part)), end
                yield from self._parts(end, left, (*said, part))


def before(token: int) -> Place:
    return Place(token, token, frozenset())


def _steps(token: int, end: int, said: Iterable[Reading], inside: dict[Place, list[Reading]]) -> Iterator[tuple[str, Place]]:
    """The first words of `said` and where they lead. Places on the way to `end` are added to `inside`, with what they leave to say."""
    tails: dict[str, list[Reading]] = {}
    for reading in said:
        if reading:
            tails.setdefault(reading[0], []).append(reading[1:])
    for word, rests in tails.items():
        if () in rests:
            yield word, before(end)
        longer = [rest for rest in rests if rest]
        if longer:
            place = Place(token, end, frozenset(longer))
            inside.setdefault(place, longer)
            yield word, place
