"""Whether the gate says the same again: the gate itself with other seeds, on the checkpoints that are there.

Each run has a folder of its own in `.scratch`, where all but its results are links to what stands here. Takes are kept as
always, so that a run that was stopped goes on where it was, and the first one has those of the last `dvc repro`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import chdir
from itertools import combinations
from pathlib import Path
from typing import Any

from models.parts.errors import UserError
from stages.common.files import SCRATCH, read_json
from stages.common.params import Params
from stages.gate.__main__ import gate
from stages.gate.evidence import UNDECIDED

HOME = SCRATCH / "bench/retest"
APART = 1000  # between seeds: texts that come again are spoken with the next one
LINKED = ("stages", "models", ".scratch", "reports/aliases.txt", "data/corpus", "data/weights")
OF_FAMILY = ("tokens", "checkpoints", "weights.json", "resampled")
Verdict = dict[str, Any]  # the verdict.json of a run


def retest(params: Params, runs: int) -> str:
    """The table, after `runs` runs of every family of params.yaml whose checkpoints are there."""
    names = [name for name in params.models if Path(f"data/{name}/checkpoints").is_dir()]
    if not names:
        raise UserError("data: holds no checkpoints of the models of params.yaml; run `make repro` first")
    if runs < 2:
        raise UserError(f"RETEST={runs}: to compare verdicts takes 2 runs or more")
    seeds = [params.gate.seed + APART * run for run in range(runs)]
    return table({name: [verdict(name, params, seed) for seed in seeds] for name in names})


def verdict(name: str, params: Params, seed: int) -> Verdict:
    """What the gate says of family `name` with `seed`."""
    folder = HOME / f"seed-{seed}"
    for path in (*LINKED, *(f"data/{name}/{part}" for part in OF_FAMILY)):
        link = folder / path
        if Path(path).exists() and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(path).absolute())
    with chdir(folder):
        gate(name, params.model_copy(update={"gate": params.gate.model_copy(update={"seed": seed})}))
        found: Verdict = read_json(Path(f"data/{name}/gate/verdict.json"))
    return found


def table(runs: dict[str, list[Verdict]]) -> str:
    """By family: of what two runs both call decided, how much they decide alike, and what each run promotes."""
    lines, pairs, alike = [f"{'family':<12} {'decided twice':>13} {'alike':>12}   promoted by each run, and its word errors"], 0, 0
    for name, verdicts in runs.items():
        both = [pair for one, two in combinations(map(decided, verdicts), 2) for pair in twice(one, two)]
        same = sum(one == two for one, two in both)
        pairs, alike = pairs + len(both), alike + same
        lines.append(f"{name:<12} {len(both):>13} {share(same, len(both)):>12}   {', '.join(map(_promoted, verdicts))}")
    return "\n".join([*lines, f"{'all':<12} {pairs:>13} {share(alike, pairs):>12}"])


def decided(verdict: Verdict) -> dict[tuple[str, str], str]:
    """What was confirmed: passes or fails, by candidate and length."""
    return {
        (name, tier): found["verdict"]
        for name, one in verdict["candidates"].items() if one["confirmed"]
        for tier, found in one["confirmed"]["tiers"].items() if found["verdict"] != UNDECIDED
    }  # fmt: skip


def twice(one: dict[tuple[str, str], str], two: dict[tuple[str, str], str]) -> Sequence[tuple[str, str]]:
    return [(one[key], two[key]) for key in one.keys() & two.keys()]


def _promoted(verdict: Verdict) -> str:
    name = verdict["promoted"]
    if name is None:
        return "none"
    found = verdict["candidates"][name]["confirmed"]
    return f"{name} ({found['word_error_rate']:.1%}, {found['ci'][0]:.1%} to {found['ci'][1]:.1%})"


def share(count: int, of: int) -> str:
    """ "3 (60%)"; "-" of none."""
    return f"{count} ({count / of:.0%})" if of else "-"
