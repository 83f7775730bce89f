"""A second listener hears the confirming takes too. It decides nothing: where the two disagree, people should listen."""

from __future__ import annotations

from stages.common.params import Params
from stages.gate.corpus import Corpus
from stages.gate.floor import noise_floor, recorded
from stages.gate.trial import Trial
from stages.gate.verdict import Row, judged


def with_second(name: str, trial: Trial, params: Params, corpus: Corpus) -> list[Row]:
    """All rows of `trial`, of family `name`. Those whose verdict would be another by the second listener, and by what that makes of the
    recordings, have its `listener`, `transcript`, `passed` and `reasons` as `second`."""
    theirs = params.model_copy(update={"gate": params.gate.model_copy(update={"listener": params.gate.second_listener})})
    with type(trial.exam)(name, theirs, corpus) as exam:  # the same takes: they are kept by what they are made of
        floor = noise_floor(exam.recordings(recorded(corpus), "noise floor, second listener"), params.gate, corpus.stats["words_per_second"])
        others = [row for asked in trial.confirming for row in exam.takes(asked, f"{name}: second listener")]
    second = {_take(row): judged(row, floor.tolerances[row["tier"]]) for row in others}

    def disagreeing(row: Row) -> Row:
        other = second.get(_take(row), row)
        return {} if other["passed"] == row["passed"] else {
            "second": {"listener": theirs.gate.listener} | {field: other[field] for field in ("transcript", "passed", "reasons")}
        }  # fmt: skip

    return [row | disagreeing(row) for row in trial.rows]


def _take(row: Row) -> tuple[str, str, int]:
    return row["checkpoint"], row["prompt"], row["seed"]
