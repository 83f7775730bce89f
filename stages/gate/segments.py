"""How a long text is cut into the segments that are generated one by one. The same rule for every family."""

from __future__ import annotations

import re

ABBREVIATIONS = {"mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "inc", "ltd"}
INITIALS = re.compile(r"[^\W\d_](\.[^\W\d_])*")  # p.m, J
SENTENCE_END = re.compile(r"""[.!?…]["')\]]*$""")
CLAUSE_END = re.compile(r"""[,;:–—]["')\]]*$""")


def segments(text: str, max_words: int | None) -> list[str]:
    """`text` cut at sentence ends, a long sentence at its commas, a long clause evenly; at most `max_words` each.

    Neighbours that fit together stay together, because a model reads a lone word badly. Joined with spaces, the
    segments are the text (white space aside). None: the text in one go.
    """
    if max_words is None:
        return [" ".join(text.split())]
    pieces = []
    for sentence in _split(text.split(), SENTENCE_END):
        clauses = [sentence] if len(sentence) <= max_words else _split(sentence, CLAUSE_END)
        pieces.append(_packed([part for clause in clauses for part in _even(clause, max_words)], max_words))
    return [" ".join(words) for words in _packed([part for parts in pieces for part in parts], max_words)]


def _split(words: list[str], end: re.Pattern[str]) -> list[list[str]]:
    """`words` cut after every one that `end` matches, except abbreviations and initials."""
    parts: list[list[str]] = [[]]
    for word in words:
        parts[-1].append(word)
        bare = word.strip("\"'([").removesuffix(".").lower()
        if end.search(word) and bare not in ABBREVIATIONS and not INITIALS.fullmatch(bare):
            parts.append([])
    return [part for part in parts if part]


def _even(words: list[str], longest: int) -> list[list[str]]:
    """`words` in as few pieces as fit, of nearly the same length."""
    count = -(-len(words) // longest)
    edges = [round(len(words) * k / count) for k in range(count + 1)]
    return [words[start:end] for start, end in zip(edges, edges[1:], strict=False)]


def _packed(pieces: list[list[str]], longest: int) -> list[list[str]]:
    """Neighbours joined, from the left, while they fit."""
    packed: list[list[str]] = []
    for piece in pieces:
        if packed and len(packed[-1]) + len(piece) <= longest:
            packed[-1] = packed[-1] + piece
        else:
            packed.append(piece)
    return packed
