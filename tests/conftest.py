"""What every test needs: one thread a process, and a throwaway copy of the repository to run real stages in."""

from __future__ import annotations

import os

# Before torch is loaded, here or in a stage that a test starts: the tests run side by side.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg"}

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from stages.rehearse import copy_repository

ROOT = Path(__file__).parents[1]
TOY, TOY_OF_VALUES = ROOT / "tests/toy_family", ROOT / "tests/toy_values"
MAKE_BASE = """
from pathlib import Path
import models
family = models.load("toy")
family.save(family.create({"width": 16}, seed=1), Path("models/toy/tiny"))
"""


@dataclass(frozen=True)
class Workspace:
    """A copy of what git tracks here, as a git repository of its own with one commit. Its DVC cache is empty."""

    root: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run `command` in the copy. `python`, `dvc` and `git` are found; what `dvc` starts uses the same `python`."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("PYTHONPATH", None)
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)

    def edit(self, file: str, change: Callable[[str], str]) -> None:
        path = self.root / file
        before = path.read_text(encoding="utf-8")
        assert (after := change(before)) != before, f"{file} is as it was"
        path.write_text(after, encoding="utf-8")

    def add_toy(self, change: Callable[[str], str] = str, toy: Path = TOY) -> None:
        """The toy family, as the only one of the run: its folders, its block (after `change`), its name, and its base."""
        shutil.copytree(toy, self.root / "models/toy", ignore=shutil.ignore_patterns("params.yaml", "__pycache__"))
        shutil.copytree(self.root / "data/weights/cosyvoice3", self.root / "data/weights/toy")
        self.edit("weights.lock", lambda text: text + "toy: {}\n")
        self.edit(".dvc/config", lambda text: text + "['remote \"toy\"']\n    url = remote://private\n")
        block = change((toy / "params.yaml").read_text())
        self.edit("params.yaml", lambda text: re.sub("(?m)^models: .*$", "models: [toy]", text) + "\n" + block)
        made = self.run("python", "-c", MAKE_BASE)
        assert made.returncode == 0, made.stderr


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A fresh `Workspace`. Files that are new and not ignored are in it too, so that a test sees what you work on."""
    root = tmp_path / "repository"
    copy_repository(root, ROOT)
    return Workspace(root)
