"""What the README tells people to do with recordings and weights of their own works with .gitignore."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.small_corpus import ROOT

MODELS = yaml.safe_load((ROOT / "params.yaml").read_text())["models"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git and DVC repository with this one's rules of what to ignore."""
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    run(tmp_path, "git", "init", "-q")
    run(tmp_path, sys.executable, "-m", "dvc", "init", "-q")
    run(tmp_path, "git", "add", "-A")
    run(tmp_path, "git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "t")
    return tmp_path


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def status(folder: Path) -> list[str]:
    return sorted(run(folder, "git", "status", "--porcelain", "-uall").split("\n"))[1:]


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


@pytest.mark.parametrize("place, listed", [("data/my_voice", "data/.gitignore"), ("data/weights/mine", "data/weights/.gitignore")])
def test_dvc_add_and_git_add_of_what_it_wrote(repository: Path, place: str, listed: str) -> None:
    put(repository, f"{place}/wavs/a.wav", f"{place}/metadata.csv")
    run(repository, sys.executable, "-m", "dvc", "add", place)
    run(repository, "git", "add", f"{place}.dvc", listed)
    assert status(repository) == sorted(f"A  {name}" for name in (f"{place}.dvc", listed))


def test_git_add_of_recordings_takes_every_file(repository: Path) -> None:
    names = [f"data/my_voice/{name}" for name in ("metadata.csv", "wavs/a.wav", "tokens/b.wav", "export/c.txt", "gate/d.txt", "weights.json")]
    put(repository, *names)
    run(repository, "git", "add", "data/my_voice")
    assert status(repository) == sorted(f"A  {name}" for name in names)


def test_git_stays_clear_of_what_stages_make(repository: Path) -> None:
    put(repository, "data/corpus/manifest.jsonl", "reports/index.html", "dvc_plots/index.html", "data/weights/mine/model.safetensors")
    put(repository, *(f"data/{name}/{out}" for name in MODELS for out in ("weights.json", "tokens/a", "export/a")))
    assert status(repository) == []
