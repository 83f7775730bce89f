"""`make rehearse`: released files in, an exported voice out, for every family."""

from __future__ import annotations

import subprocess
import sys

import pytest

import models
from tests.conftest import ROOT

SAID = {"voxtral"}  # their own voices say the corpus
STEPS = ["release", "make weights", "dvc repro", "corpus", "resample", "tokenise", "train", "gate", "make export", "make speak"]


def rehearse(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "stages.rehearse", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("family", models.names())
def test_a_release_becomes_an_exported_voice(family: str) -> None:
    done = rehearse("--model", family)
    assert done.returncode == 0, done.stderr
    *steps, last = done.stdout.splitlines()
    wanted = [*STEPS[:3], *(["takes"] if family in SAID else []), *STEPS[3:]]
    assert [step.split("  ")[0].strip() or step.split()[0] for step in steps] == wanted
    assert last.startswith(f"{family}: from released files to an exported voice") and "README.md" in last
