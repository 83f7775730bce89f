"""How takes are averaged, by the gate and on the pages alike."""

from __future__ import annotations

from collections.abc import Sequence


def words_in(alignment: Sequence[Sequence[str | None]]) -> int:
    """Words of the text, from its alignment with what was heard: steps (operation, words of the text, words heard)."""
    return sum(len(wanted.split()) for _, wanted, _ in alignment if wanted)


def mean(values: Sequence[float | None]) -> float | None:
    """Over the values that are known, with four digits; None where there are none."""
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if known else None
