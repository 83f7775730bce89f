"""What README says of "Add a family": a folder, a block of params.yaml and three lines, and every stage runs on it.

So does a family whose codec writes values and not codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TOY, TOY_OF_VALUES, Workspace
from tests.small_corpus import write_folder

FOLDER = "models/toy/"


def changed(workspace: Workspace) -> set[str]:
    """What git sees as new or different."""
    return {line[3:] for line in workspace.run("git", "status", "--porcelain").stdout.splitlines()}


def swap(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize("toy", [TOY, TOY_OF_VALUES], ids=["codes", "values"])
def test_a_family_is_a_folder_a_block_and_three_lines(workspace: Workspace, toy: Path) -> None:
    # 1. The folder, its base, its block, its name, its place for released weights, and where what it makes may be pushed.
    workspace.add_toy(toy=toy)

    # 2. A few clips in place of the demo, so that it takes a minute.
    write_folder(workspace.root / "data/small", count=16)
    for change in (("source: data/demo", "source: data/small"), (": 0.06", ": 0.2"), ("budget: 8 ", "budget: 2 ")):
        workspace.edit("params.yaml", swap(*change))
    own = {"params.yaml", FOLDER, "data/small/", "data/weights/toy/", "weights.lock", ".dvc/config"}
    assert changed(workspace) == own

    # 3. Everything runs.
    done = workspace.run("dvc", "repro", "report@toy")
    assert done.returncode == 0, done.stderr
    family = [f"{stage}@toy" for stage in ("resample", "tokenise", "train", "gate", "report")]
    assert sorted(re.findall("Running stage '(.*)'", done.stdout)) == sorted(["corpus", *family])
    title = "Toy of a family" if toy is TOY else "Toy of values"
    assert title in (workspace.root / "reports/families/toy/index.html").read_text()
    records = {name for name in changed(workspace) if name == "dvc.lock" or name.startswith("reports/metrics/")}
    assert changed(workspace) - records == own | {"data/toy/"}  # where DVC itself ignores what it keeps

    # 4. What it has not, it says.
    refused = workspace.run("python", "-m", "stages.rehearse", "--model", "toy")
    assert (refused.returncode, refused.stderr) == (1, "toy: there is no rehearsal of the released weights yet\n")


def test_training_refuses_values_that_are_drawn_from_another_state_than_it_learns_from(workspace: Workspace) -> None:
    """The stop is decided from the right state, so that no log-probability tells; the score of the values does."""
    workspace.add_toy(toy=TOY_OF_VALUES)
    write_folder(workspace.root / "data/small", count=16)
    workspace.edit("params.yaml", swap("source: data/demo", "source: data/small"))
    done = workspace.run("dvc", "repro", "train@toy")
    assert done.returncode == 0, done.stderr
    checkpoints = sorted((workspace.root / "data/toy/checkpoints").rglob("*"))

    workspace.edit(FOLDER + "__init__.py", swap("states[follows]", "states.roll(1, 1)[follows]"))  # late by one frame
    refused = workspace.run("python", "-m", "stages.train", "--model", "toy")
    assert refused.returncode == 1
    assert re.search(r"toy: training and generation disagree by 0\.\d+ on the same values, in step \d+; .*misaligned", refused.stderr)
    assert sorted((workspace.root / "data/toy/checkpoints").rglob("*")) == checkpoints
