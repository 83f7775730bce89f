"""`make rehearse`: released files in, an exported voice out, for every family whose release can be brought in."""

from __future__ import annotations

import subprocess
import sys

import pytest

import models
from models.parts.family import Family
from tests.conftest import ROOT

READY = [name for name in models.names() if type(models.load(name)).write_release is not Family.write_release]
STEPS = ["release", "make weights", "dvc repro", "corpus", "resample", "tokenise", "train", "gate", "make export", "make speak"]


def rehearse(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "stages.rehearse", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("family", READY)
def test_a_release_becomes_an_exported_voice(family: str) -> None:
    done = rehearse("--model", family)
    assert done.returncode == 0, done.stderr
    *steps, last = done.stdout.splitlines()
    assert [step.split("  ")[0].strip() or step.split()[0] for step in steps] == STEPS
    assert last.startswith(f"{family}: from released files to an exported voice") and "README.md" in last


def test_a_family_without_a_rehearsal_says_so() -> None:
    refused = rehearse("--model", "voxtral")
    assert (refused.returncode, refused.stderr) == (1, "voxtral: there is no rehearsal of the released weights yet\n")
