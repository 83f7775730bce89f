"""What every test needs: one thread a process, and a throwaway copy of the repository to run real stages in."""

from __future__ import annotations

import os

# Before torch is loaded, here or in a stage that a test starts: the tests run side by side.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg"}

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A fresh `Workspace`. Files that are new and not ignored are in it too, so that a test sees what you work on."""
    listed = _git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    root = tmp_path / "repository"
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    _git(root, "init", "-q")
    _git(root, "config", "user.name", "test")
    _git(root, "config", "user.email", "test@localhost")
    _git(root, "add", "-A")
    _git(root, "commit", "-q", "-m", "copy")
    return Workspace(root)


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout
