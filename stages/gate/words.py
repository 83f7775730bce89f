"""Which words of a text were heard: the alignment of a text with a transcript.

The alignment has the fewest word errors. Among equals, the one with fewer and longer gaps and with look-alike
substitutions wins, so that a lost phrase is reported as that phrase. What says nothing about the speaker costs
nothing: compounds that the listener joined or split, words that sound alike, the reading of a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from typing import NamedTuple

from stages.gate.aliases import known_aliases
from stages.gate.sound import apart, same
from stages.gate.wordgraph import Graph

ERROR = 1_000_000      # one word error; the tie-breakers below never add up to it
GAP = 20               # opening a run of dropped or inserted words
UNLIKE = 20            # substituting a word that shares no letters
OPS = ("ok", "substituted", "dropped", "inserted", "merged", "repeated")
UNCLEAR = "unclear"    # heard otherwise than written, and the listener can't tell (doubt.py): no error
RIGHT = ("ok", UNCLEAR)


class Word(NamedTuple):
    """One step of an alignment. A compound or a merge keeps its words in one entry, with spaces."""

    op: str
    reference: str | None
    heard: str | None


@dataclass(frozen=True)
class Alignment:
    words: tuple[Word, ...]
    cells: int = 0  # pairs of nodes that the search looked at: its work

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
        return sum(len((step.reference or step.heard or "").split()) for step in self.words if step.op not in RIGHT)

    @property
    def word_error_rate(self) -> float:
        """Errors per word of the text; for a text without words, 1.0 if anything was heard."""
        return self.wrong / max(len(self.reference), 1)


_CHANGE = {"dropped": "lost", "merged": "lost", "inserted": "added", "repeated": "added"}


def align(text: str, transcript: str) -> Alignment:
    """Align `text` with `transcript`, choosing for numbers and symbols on either side the reading that fits best.

    The team's aliases count (aliases.py). UserError if their file can't be read.
    """
    reference, heard = (Graph(written, known_aliases()) for written in (text, transcript))
    search = _Search(reference, heard)
    return Alignment(tuple(_name_repeats(search.cheapest())), search.cells)


def wrong(steps: Sequence[Sequence[str | None]]) -> Iterator[tuple[int, int]]:
    """From which step of an alignment to which something else is heard than written."""
    at = 0
    for right, run in groupby(steps, key=lambda step: step[0] in RIGHT):
        count = len(list(run))
        if not right:
            yield at, at + count
        at += count


def sides(steps: Sequence[Sequence[str | None]]) -> tuple[str, str]:
    """What stands in the text, and what was written."""
    wanted, heard = (" ".join(word for step in steps if (word := step[side])) for side in (1, 2))
    return wanted, heard


Plain = tuple[str, str | None, str | None]  # a Word, as it is built by the thousand
Step = tuple[int, int, int, Plain]  # the nodes and the state one step back, and the step
Move = tuple[int, int, Plain, int]  # the nodes that it leads to, the step, and its price


class _Search:
    """Edit distance with affine gaps (Gotoh 1982) over two word graphs; ties go to the match, then to the drop.

    A good take has few errors, and then only cells near the diagonal are within reach: the search looks at those that
    cost at most one error, then four, then as many as it takes when it goes on like that, until one of them is the end.
    """

    def __init__(self, reference: Graph, heard: Graph):
        self.reference, self.heard = reference, heard
        self.cells = 0
        self.furthest = 1  # the sum of the nodes of the last cell within reach
        self._steps = cache(self._steps_from)

    def cheapest(self) -> list[Word]:
        errors = 1
        while (words := self._within(errors * ERROR + ERROR - 1)) is None:
            as_many_all_the_way = errors * (len(self.reference.onward) + len(self.heard.onward)) // self.furthest
            errors = 4 if errors == 1 else max(4 * errors, as_many_all_the_way)
        return words

    def _within(self, limit: int) -> list[Word] | None:
        """The cheapest alignment that costs at most `limit`, or None. `cost[i][j]` holds the price of the way to nodes i
        and j for each kind of last step: 0 both sides, 1 drop, 2 insertion."""
        rows, columns = len(self.reference.onward), len(self.heard.onward)
        over = limit + 1
        cost: list[dict[int, list[int]]] = [{} for _ in range(rows)]
        back: dict[tuple[int, int, int], Step] = {}
        cost[0][0] = [0, over, over]
        for i in range(rows):
            for j in range(columns):
                before = cost[i].get(j)
                if before is None:
                    continue
                self.cells += 1
                for state, steps in enumerate(self._steps(i, j, min((limit - min(before)) // ERROR, 2))):
                    prices = [price if last == state else price + GAP for last, price in enumerate(before)] if state else before
                    cheapest = min(prices)
                    last = prices.index(cheapest)
                    for end, end_heard, word, price in steps:
                        price += cheapest
                        if price <= limit:
                            there = cost[end].setdefault(end_heard, [over] * 3)
                            if price < there[state]:
                                there[state] = price
                                back[end, end_heard, state] = (i, j, last, word)

        i, j, words = rows - 1, columns - 1, []
        if j not in cost[i]:
            self.furthest = max(i + j for i, row in enumerate(cost) for j in row)
            return None
        state = cost[i][j].index(min(cost[i][j]))
        while i or j:
            i, j, state, word = back[i, j, state]
            words.append(Word(*word))
        return words[::-1]

    def _steps_from(self, i: int, j: int, errors: int) -> tuple[list[Move], list[Move], list[Move]]:
        """What may come after nodes i and j for at most `errors`: words on both sides, a drop, an insertion."""
        said, heard = self.reference.onward[i], self.heard.onward[j]
        both: list[Move] = []
        for word, end in said:
            for other, end_heard in heard:
                if same(word, other):
                    both.append((end, end_heard, ("ok", word, other), 0))
                elif errors:
                    both.append((end, end_heard, ("substituted", word, other), ERROR + _unlike(word, other)))
                    for second, second_end in self.reference.onward[end] if errors > 1 else ():
                        if _merged(word, second, other):
                            price = 2 * ERROR + _unlike(word + second, other)
                            both.append((second_end, end_heard, ("merged", f"{word} {second}", other), price))
        for other, end_heard in heard:
            both += [(end, end_heard, ("ok", words, other), 0) for words, end in self.reference.compounds(i, other)]
        for word, end in said:
            both += [(end, end_heard, ("ok", word, words), 0) for words, end_heard in self.heard.compounds(j, word)]
        if not errors:
            return both, [], []
        drops: list[Move] = [(end, j, ("dropped", word, None), ERROR) for word, end in said]
        insertions: list[Move] = [(i, end, ("inserted", None, word), ERROR) for word, end in heard]
        return both, drops, insertions


@lru_cache(maxsize=100_000)
def _merged(first: str, second: str, heard: str) -> bool:
    """Whether `heard` is more like both words together than like either."""
    likeness = _alike(first + second, heard)
    return likeness >= 0.5 and likeness > max(_alike(first, heard), _alike(second, heard))


@lru_cache(maxsize=100_000)
def _unlike(word: str, other: str) -> int:
    return round(UNLIKE * (1 - _alike(word, other)))


@lru_cache(maxsize=100_000)
def _alike(first: str, second: str) -> float:
    """Share of letter pairs in common (Dice), 0 to 1."""
    pairs = [{word[k : k + 2] for k in range(len(word) - 1)} for word in (first, second)]
    return 2 * len(pairs[0] & pairs[1]) / max(len(pairs[0]) + len(pairs[1]), 1)


def _name_repeats(words: list[Word]) -> list[Word]:
    """Inserted words that say again what is heard right before or after them are repeats: all of them, or most of a run, since what is
    cut off in the middle of a word is heard as another one."""
    heard = [word for step in words if step.heard for word in step.heard.split()]
    named, position = [], 0
    run = 0  # end, in heard words, of the repeat that is being named
    for index, step in enumerate(words):
        if step.op == "inserted":
            if position >= run:
                left = next((k for k, later in enumerate(words[index:]) if later.op != "inserted"), len(words) - index)
                run = position + (_repeat(heard, position, left) or left * _nearly_repeats(heard, position, left))
            step = step._replace(op="repeated") if position < run else step
        named.append(step)
        position += len(step.heard.split()) if step.heard else 0
    return named


def _repeat(heard: list[str], start: int, longest: int) -> int:
    """Words in the longest phrase, at most `longest`, that starts at `start` and stands right beside itself, or 0."""
    for size in range(longest, 0, -1):
        phrase = heard[start : start + size]
        if _alike_all(phrase, heard[start + size : start + 2 * size]) or _alike_all(phrase, heard[max(start - size, 0) : start]):
            return size
    return 0


def _nearly_repeats(heard: list[str], start: int, size: int) -> bool:
    """Whether half of the words of a run stand beside it as well, in their order."""
    phrase, before, after = heard[start : start + size], heard[max(start - size - 1, 0) : start], heard[start + size : start + 2 * size + 1]
    return size > 1 and 2 * max(_in_common(phrase, before), _in_common(phrase, after)) >= size


def _in_common(phrase: list[str], other: list[str]) -> int:
    """The most words of `phrase` that are in `other` in the same order, give or take a sound."""
    most = [0] * (len(other) + 1)
    for word in phrase:
        diagonal = 0
        for index, there in enumerate(other, 1):
            diagonal, most[index] = most[index], max(most[index], most[index - 1], diagonal + _nearly(word, there))
    return most[-1]


@lru_cache(maxsize=100_000)
def _nearly(word: str, other: str) -> bool:
    return same(word, other) or (len(word) > 2 and apart(word, other) <= 1)


def _alike_all(phrase: list[str], other: list[str]) -> bool:
    return len(phrase) == len(other) and all(map(same, phrase, other))
