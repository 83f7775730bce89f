"""Which takes are asked of whom: few of everybody, then more of those who may win, until each length is decided."""

from __future__ import annotations

from collections.abc import Sequence

from stages.common.params import GateParams
from stages.gate.candidates import Candidate
from stages.gate.evidence import FAILS, UNDECIDED, Asked
from stages.gate.exam import Exam
from stages.gate.external import External
from stages.gate.floor import Floor
from stages.gate.promotion import tally
from stages.gate.prompts import Reading
from stages.gate.verdict import Row, judged


class Trial:
    """The first of the exam's rounds is for screening, the others are for confirming; every candidate gets the same ones. `rows`:
    all takes so far, judged; `confirming`: what was asked for after the screening, round by round."""

    def __init__(self, exam: Exam | External, floor: Floor, gate: GateParams):
        self.exam, self.floor = exam, floor
        self.asked = Asked(gate.pass_rate, gate.false_pass, gate.false_fail, gate.batch, gate.budget)
        self.screening, *self.fresh = exam.rounds
        self.tiers = tuple(self.screening)
        self.rows: list[Row] = []
        self.confirming: list[Sequence[tuple[Candidate, list[Reading]]]] = []

    def screen(self, candidates: Sequence[Candidate]) -> dict[str, list[Row]]:
        """The rows of each candidate, by its name."""
        readings = [one for some in self.screening.values() for one in some]
        return self._hear([(one, readings) for one in candidates], "screen")

    def confirm(self, base: Candidate | None, finalists: Sequence[Candidate]) -> dict[str, list[Row]]:
        """The rows of each. All read a batch of every length, so that they compare; then a finalist goes on with the shortest that
        is not proven, for nothing is gained by half a minute of one that can't say a sentence. It is done when a length fails, when
        the budget of one is spent or its takes end, or when all are proven.

        The base, where there is one, is done after the first batch; where there is nobody else, it is judged as a finalist is.
        """
        going = [*([base] if base else []), *finalists]
        found: dict[str, list[Row]] = {one.name: [] for one in going}
        while going:
            batches = [(one, self._next(one, found[one.name])) for one in going]
            batches = [(one, readings) for one, readings in batches if readings]
            self.confirming.append(batches)
            for name, rows in self._hear(batches, "confirm").items():
                found[name] += rows
            going = [one for one, _ in batches if one is not base or not finalists]
        return found

    def _next(self, one: Candidate, rows: Sequence[Row]) -> list[Reading]:
        """What a candidate with these `rows` has to read; nothing when it is done."""
        readings: list[Reading] = []
        for tier in self._open(rows):
            rounds = tally(rows, tier)[1] // self.asked.batch
            so_far = [round[tier] for round in self.fresh[: rounds + 1]]
            if all(self.exam.has(one, some) for some in so_far):  # after a gap nothing is heard, so that leaving takes out helps nobody
                readings += so_far[-1]
        return readings

    def _open(self, rows: Sequence[Row]) -> list[str]:
        """The tiers that more takes are asked of."""
        if not rows:
            return list(self.tiers)
        tallies = {tier: tally(rows, tier) for tier in self.tiers}
        verdicts = {tier: self.asked.verdict(*tallies[tier]) for tier in self.tiers}
        shortest = next((tier for tier in self.tiers if verdicts[tier] == UNDECIDED), None)
        return [shortest] if shortest and FAILS not in verdicts.values() and tallies[shortest][1] < self.asked.budget else []

    def _hear(self, batches: Sequence[tuple[Candidate, list[Reading]]], phase: str) -> dict[str, list[Row]]:
        rows = [judged(row, self.floor.tolerances[row["tier"]]) | {"phase": phase} for row in self.exam.takes(batches, f"{self.exam.name}: {phase}")]
        self.rows += rows
        return {one.name: [row for row in rows if row["checkpoint"] == one.name] for one, _ in batches}
