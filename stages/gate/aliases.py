"""reports/aliases.txt: spellings that a team agrees are the same, for names and local words that no dictionary has.

    paiseh = pie say          # a comment

One pair a line; a spelling may have several words. Either may stand in the text and the other in the transcript.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from models.parts.errors import UserError
from stages.gate.english import Reading
from stages.gate.spoken import Aliases, plain

ALIASES = Path("reports/aliases.txt")


def known_aliases() -> Aliases:
    """The pairs of `ALIASES` as it is now; none where it is not there."""
    try:
        changed = ALIASES.stat().st_mtime_ns
    except FileNotFoundError:
        return ()
    return _read(ALIASES.absolute(), changed)


@lru_cache(maxsize=1)
def _read(path: Path, changed: int) -> Aliases:
    try:
        return parse(path.read_text("utf-8-sig"), str(ALIASES))
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{ALIASES}: {error}; it must be a text file in UTF-8") from None


def parse(text: str, name: str) -> Aliases:
    """The pairs in the lines of `text`; UserError naming the line for what is not a pair of spellings."""
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        sides = [_words(side) for side in line.split("=")]
        if len(sides) != 2:
            raise UserError(f"{name}: line {number}: {line!r} is not a pair; write one spelling = the other")
        for side, written in zip(sides, line.split("="), strict=True):
            if not side:
                raise UserError(f"{name}: line {number}: {written.strip()!r} has no words, or more than words; write it in letters")
        if sides[0] == sides[1]:
            raise UserError(f"{name}: line {number}: both sides are {' '.join(sides[0])!r}; take the line out")
        pairs.append((sides[0], sides[1]))
    return tuple(pairs)


def _words(side: str) -> Reading:
    """The words of one side; none unless it is all letters, apostrophes, hyphens and spaces."""
    text = plain(side).lower().strip()
    return tuple(re.split(r"[\s-]+", text)) if re.fullmatch(r"[^\W\d_'](?:[^\W\d_]|['\s-])*", text) else ()
