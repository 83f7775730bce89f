"""Stage `weights`, by DVC itself: which change of released weights makes what run again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Workspace
from tests.small_release import write_release

NAME = "qwen3_tts"
BRING = """
import sys
from pathlib import Path
from stages.weights.bring import bring
from tests.small_release import Small
family = Small()
family.name = sys.argv[1]  # in the place of the real one, whose release is not small
bring(family, Path(sys.argv[2]))
"""


@pytest.fixture
def one(workspace: Workspace) -> Workspace:
    """A copy of the repository for one family, whose stage `weights` and one that reads its result are up to date."""
    workspace.edit("params.yaml", lambda text: text.replace("models: [", f"models: [{NAME}]  # [", 1))
    workspace.edit("dvc.yaml", lambda text: text + READER)
    assert repro(workspace) == {f"weights@{NAME}", "reader"}
    assert repro(workspace) == set()
    return workspace


READER = f"""
  reader:
    cmd: cp data/{NAME}/weights.json data/read.json
    deps:
      - data/{NAME}/weights.json
    outs:
      - data/read.json
"""


def repro(workspace: Workspace) -> set[str]:
    """What ran."""
    done = workspace.run("dvc", "repro", "reader")
    assert done.returncode == 0, done.stderr
    return {line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")}


def stale(workspace: Workspace) -> set[str]:
    done = workspace.run("dvc", "status", "--json", f"weights@{NAME}", "reader")
    return set(json.loads(done.stdout))


def weights(workspace: Workspace) -> dict[str, object]:
    found: dict[str, object] = json.loads((workspace.root / f"data/{NAME}/weights.json").read_text())
    return found


def bring_in(workspace: Workspace, release: Path) -> None:
    done = workspace.run(sys.executable, "-c", BRING, NAME, str(release))
    assert done.returncode == 0, done.stderr


def test_released_weights_concern_the_full_profile_alone_and_every_byte_counts(one: Workspace, tmp_path: Path) -> None:
    release = write_release(tmp_path / "release")
    released = one.root / f"data/weights/{NAME}"
    tiny = weights(one)
    assert tiny["folder"] == f"models/{NAME}/tiny" and "model.safetensors" in tiny["files"]  # type: ignore[operator]

    # 1. They come in: the stage looks again, and nothing behind it runs.
    bring_in(one, release)
    assert stale(one) == {f"weights@{NAME}"}
    assert repro(one) == {f"weights@{NAME}"} and weights(one) == tiny
    seen = one.run("git", "status", "--porcelain", "-uall", "data", "weights.lock").stdout
    assert seen == " M weights.lock\n"

    # 2. The full profile has them.
    one.edit("params.yaml", lambda text: text.replace("profile: tiny", "profile: full", 1))
    assert repro(one) == {f"weights@{NAME}", "reader"}
    full = weights(one)
    assert full["folder"] == f"data/weights/{NAME}" and "codec.safetensors" in full["files"]  # type: ignore[operator]
    assert stale(one) == set()

    # 3. One byte of a file changes, in place: DVC sees it, and the stage names the file.
    changed = released / "model.safetensors"
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.unlink()
    changed.write_bytes(data)
    assert f"weights@{NAME}" in stale(one)
    refused = one.run("dvc", "repro", "reader")
    assert refused.returncode != 0
    assert f"data/weights/{NAME}/model.safetensors: other bytes than manifest.json says; run `make weights MODEL={NAME}` again" in refused.stderr

    # 4. The weights of somebody else, with a manifest that fits them: not those of weights.lock.
    lock = (one.root / "weights.lock").read_bytes()
    shutil.copy(changed, release / "model.safetensors")
    bring_in(one, release)
    theirs = (one.root / "weights.lock").read_bytes()
    (one.root / "weights.lock").write_bytes(lock)
    refused = one.run("dvc", "repro", "reader")
    assert refused.returncode != 0 and "not the weights that weights.lock means" in refused.stderr

    # 5. With their lock, everything behind runs.
    (one.root / "weights.lock").write_bytes(theirs)
    assert repro(one) == {f"weights@{NAME}", "reader"} and weights(one) != full


def test_full_without_weights_names_the_command(workspace: Workspace) -> None:
    workspace.edit("params.yaml", lambda text: text.replace("profile: tiny", "profile: full", 1).replace("models: [", f"models: [{NAME}]  # [", 1))
    done = workspace.run("python", "-m", "stages.weights", "--model", NAME)
    assert done.returncode == 1
    assert done.stderr == f"params.yaml: {NAME}.full.weights: data/weights/{NAME}: no weights there; bring them in with `make weights MODEL={NAME}`\n"


def test_make_weights_hands_its_words_on(tmp_path: Path) -> None:
    """Through make, with the environment as it is: a folder with a blank in its name, and what goes not together."""
    (tmp_path / "my release").mkdir()
    for words, message in [
        ([], "say which family"),
        (["MODEL=nobody"], "no family called 'nobody'"),
        ([f"MODEL={NAME}", "FROM=/my release", "SIZE=0.6B"], "take one or the other"),
    ]:
        command = ["make", "-o", ".venv/ready", "weights", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode != 0 and message in done.stdout + done.stderr
