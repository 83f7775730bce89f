"""The noise floor: what the gate's listener makes of real recordings that nobody trained on.

The clips of the test split, each by itself and joined into takes of each length tier, are heard and judged like any other
take; from these rows each tier's tolerance follows. It belongs to the corpus, not to a family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stages.common.params import GateParams
from stages.gate.aliases import known_aliases
from stages.gate.corpus import Corpus
from stages.gate.prompts import TIERS, WHOLE, Prompt, clips, recordings
from stages.gate.verdict import Row, Tolerance, judged, tolerance


@dataclass(frozen=True)
class Floor:
    """`rows`: recordings as rows of rows.jsonl; none where there are no recordings."""

    rows: list[Row]
    tolerances: dict[str, Tolerance]

    def as_json(self) -> dict[str, Any]:
        tolerances = {tier: asdict(one) for tier, one in self.tolerances.items()}
        return {"rows": self.rows, "tolerances": tolerances, "aliases": [list(map(" ".join, pair)) for pair in known_aliases()]}


def recorded(corpus: Corpus) -> list[Prompt]:
    """What the floor is made of."""
    return [prompt for tier in TIERS for prompt in recordings(corpus.manifest, tier)] + clips(corpus.manifest)


def noise_floor(heard: Sequence[Row], gate: GateParams, words_per_second: float | None) -> Floor:
    """From the measured rows of recordings. Without any, the settings of params.yaml count from zero."""
    tolerances = {tier: tolerance([row for row in heard if row["tier"] == tier], gate, words_per_second) for tier in TIERS}
    tolerances[WHOLE] = tolerances["30s"]
    return Floor([judged(row, tolerances[row["tier"]]) for row in heard], tolerances)
