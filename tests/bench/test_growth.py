"""`make bench-growth` on the toy family."""

from __future__ import annotations

import pytest

from tests.conftest import Workspace


def test_a_row_for_each_size_with_what_every_stage_took(workspace: Workspace) -> None:
    workspace.add_toy()
    workspace.edit("data/demo/transcripts.jsonl", lambda text: "".join(text.splitlines(keepends=True)[:80]))
    workspace.run("git", "add", "-A")
    done = workspace.run("python", "-m", "stages.bench.growth", "--model", "toy", "--times", "1", "2")
    assert done.returncode == 0, done.stderr
    head, once, twice = (line.split() for line in done.stdout.splitlines())
    assert head[:2] == ["toy", "hours"] and (once[:2], twice[:2]) == (["1", "x"], ["2", "x"])
    assert float(twice[2]) == pytest.approx(2 * float(once[2]), abs=0.01)
    assert len(once) == len(twice) == 3 + 2 * 4 + 1 and all(float(figure) > 0 for figure in once[3:] + twice[3:] if figure != "0.0")
