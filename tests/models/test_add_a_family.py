"""What README says of "Add a family": one folder and one block of params.yaml, and every stage runs on it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Workspace
from tests.small_corpus import write_folder

TOY = Path(__file__).parents[1] / "toy_family"
FOLDER = "models/toy/"
MAKE_BASE = """
from pathlib import Path
import models
family = models.load("toy")
family.save(family.create({"width": 16}, seed=1), Path("models/toy/tiny"))
"""


def changed(workspace: Workspace) -> set[str]:
    """What git sees as new or different."""
    return {line[3:] for line in workspace.run("git", "status", "--porcelain").stdout.splitlines()}


def swap(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


def test_a_family_is_one_folder_and_one_block(workspace: Workspace) -> None:
    # 1. The folder, its base, its block and its name.
    shutil.copytree(TOY, workspace.root / FOLDER, ignore=shutil.ignore_patterns("params.yaml", "__pycache__"))
    block = (TOY / "params.yaml").read_text()
    workspace.edit("params.yaml", lambda text: re.sub("(?m)^models: .*$", "models: [toy]", text) + "\n" + block)
    made = workspace.run("python", "-c", MAKE_BASE)
    assert made.returncode == 0, made.stderr

    # 2. A few clips in place of the demo, so that it takes a minute.
    write_folder(workspace.root / "data/small", count=16)
    for change in (("source: data/demo", "source: data/small"), (": 0.06", ": 0.2"), ("prompts: 4", "prompts: 1")):
        workspace.edit("params.yaml", swap(*change))
    assert changed(workspace) == {"params.yaml", FOLDER}

    # 3. Everything runs.
    done = workspace.run("dvc", "repro", "report@toy")
    assert done.returncode == 0, done.stderr
    family = [f"{stage}@toy" for stage in ("weights", "resample", "tokenise", "train", "gate", "report")]
    assert sorted(re.findall("Running stage '(.*)'", done.stdout)) == sorted(["corpus", *family])
    assert "Toy of a family" in (workspace.root / "reports/families/toy/index.html").read_text()
    records = {name for name in changed(workspace) if name == "dvc.lock" or name.startswith("reports/metrics/")}
    assert changed(workspace) - records == {"params.yaml", FOLDER}
