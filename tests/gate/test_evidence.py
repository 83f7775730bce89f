"""What a number of takes proves: the error rates that are stated hold however the takes fall, and clear cases end early."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.gate.evidence import FAILS, PASSES, UNDECIDED, Asked

ASKED = Asked(rate=0.5, false_pass=0.05, false_fail=0.05, batch=4, budget=16)


def ends(asked: Asked, rate: float, runs: int = 4000) -> dict[str, float]:
    """The share of each verdict over many trials of a candidate whose takes pass at `rate`, and the mean takes of one."""
    takes = np.random.default_rng(0).random((runs, asked.budget)) < rate
    counts, heard = dict.fromkeys((PASSES, FAILS, UNDECIDED), 0), 0
    for one in takes:
        for size in range(asked.batch, asked.budget + 1, asked.batch):
            verdict = asked.verdict(int(one[:size].sum()), size)
            if verdict != UNDECIDED:
                break
        counts[verdict] += 1
        heard += size
    return {verdict: count / runs for verdict, count in counts.items()} | {"takes": heard / runs}


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.1, 0.9), st.floats(0.01, 0.2), st.floats(0.01, 0.2), st.integers(1, 8), st.integers(1, 8), st.floats(0, 1)
)
def test_the_stated_error_rates_hold(
    rate: float, false_pass: float, false_fail: float, batch: int, looks: int, below: float
) -> None:
    asked = Asked(rate, false_pass, false_fail, batch, batch * looks)
    chance = 3 * 0.5 / np.sqrt(4000)
    assert ends(asked, rate * below)[PASSES] <= false_pass + chance
    assert ends(asked, 1 - (1 - rate) * below)[FAILS] <= false_fail + chance


def test_clear_cases_are_decided_and_early() -> None:
    perfect, silent, good = (ends(ASKED, rate) for rate in (1.0, 0.0, 0.85))
    assert (perfect[PASSES], perfect["takes"]) == (1.0, 8)
    assert (silent[FAILS], silent["takes"]) == (1.0, 8)
    assert good[PASSES] > 0.9


def test_a_rate_near_what_is_asked_is_rarely_decided() -> None:
    assert ends(ASKED, 0.5)[UNDECIDED] > 0.85


@pytest.mark.parametrize(("passed", "takes"), [(11, 16), (6, 16), (3, 4)])
def test_an_undecided_length_says_what_it_would_take(passed: int, takes: int) -> None:
    assert ASKED.verdict(passed, takes) == UNDECIDED
    needed = ASKED.needed(passed, takes)
    assert needed and needed > (ASKED.budget if takes == ASKED.budget else takes)
    larger = Asked(ASKED.rate, ASKED.false_pass, ASKED.false_fail, ASKED.batch, needed)
    found = ends(larger, passed / takes)
    assert found[PASSES] + found[FAILS] > 0.4


def test_no_number_of_takes_decides_what_lies_on_the_line() -> None:
    assert ASKED.needed(8, 16) is None
