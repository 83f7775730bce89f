"""`make repro`: families side by side, each with a `dvc repro` of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.repro import side_by_side

PIPELINE = """
stages:
  corpus: {cmd: echo spoken > corpus, outs: [corpus]}
  train:
    matrix: {model: [one, two, three]}
    cmd: python train.py ${item.model}
    deps: [corpus]
    outs: ["${item.model}/cores"]
  report:
    matrix: {model: [one, two, three]}
    cmd: cp ${item.model}/cores ${item.model}/page
    deps: ["${item.model}/cores"]
    outs: ["${item.model}/page"]
"""
TRAIN = """
import os, pathlib, sys, time
time.sleep(2)  # while another one begins
if pathlib.Path(f"{sys.argv[1]}.broken").exists():
    sys.exit("the loss is not a number")
pathlib.Path(sys.argv[1]).mkdir(exist_ok=True)
pathlib.Path(sys.argv[1], "cores").write_text(str(sorted(os.sched_getaffinity(0))))
"""
CHAINS = {name: [f"train@{name}", f"report@{name}"] for name in ("one", "two", "three")}
CORES = sorted(os.sched_getaffinity(0))
SHARES = [{CORES[0]}, {CORES[-1]}]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "train.py").write_text(TRAIN)
    for command in ("git init -q", "dvc init -q", "dvc repro -q corpus"):
        subprocess.run(command.split(), check=True)
    return tmp_path


def up_to_date() -> bool:
    return subprocess.run(["dvc", "status", "--quiet"]).returncode == 0


def test_families_get_through_together_each_on_its_own_cores(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert side_by_side(CHAINS, SHARES) == []
    assert up_to_date()
    assert {(project / name / "page").read_text() for name in ("one", "two")} == {str(sorted(share)) for share in SHARES}
    assert "two          > python train.py two" in capfd.readouterr().out.splitlines()


def test_one_that_fails_is_named_and_keeps_no_other_back(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (project / "two.broken").touch()
    assert side_by_side(CHAINS, SHARES) == ["two"]
    assert "two          the loss is not a number" in capfd.readouterr().out.splitlines()
    assert (project / "one/page").is_file() and (project / "three/page").is_file()
    (project / "two.broken").unlink()
    assert side_by_side(CHAINS, SHARES) == [] and up_to_date()
