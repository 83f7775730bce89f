"""Which change of weights makes what run again, by DVC itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.exceptions import ReproductionError
from dvc.repo import Repo

import models
from models.parts.errors import UserError
from models.qwen3_tts.released import rehearsal
from stages.resample import main as stage
from stages.weights.bring import bring
from tests.conftest import ROOT, Workspace
from tests.small_corpus import write_folder

NAME = "qwen3_tts"
RESAMPLE = f"resample@{NAME}"
READER = f"""
  reader:
    cmd: cp data/{NAME}/weights.json reports/read.json
    deps:
      - data/{NAME}/resampled
      - data/{NAME}/weights.json
    outs:
      - reports/read.json
"""


@pytest.fixture
def one(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of the repository for one family, a few clips, whose stage `resample` and one that reads its results are up to date."""
    workspace.edit("params.yaml", lambda text: text.replace("models: [", f"models: [{NAME}]  # [", 1))
    workspace.edit("params.yaml", lambda text: text.replace("source: data/demo", "source: data/small", 1))
    write_folder(workspace.root / "data/small", count=24)
    workspace.edit("dvc.yaml", lambda text: text + READER)
    monkeypatch.chdir(workspace.root)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert repro() == {"corpus", RESAMPLE, "reader"}
    assert repro() == set()
    return workspace


def repro() -> set[str]:
    """What `dvc repro reader` ran."""
    with Repo() as repo:
        return {stage.addressing for stage in repo.reproduce("reader")}


def stale() -> set[str]:
    with Repo() as repo:
        return set(repo.status([RESAMPLE, "reader"]))


def refused(capfd: pytest.CaptureFixture[str]) -> str:
    """What the stage says when `dvc repro reader` fails."""
    with pytest.raises(ReproductionError):
        repro()
    return capfd.readouterr().err


def weights() -> dict[str, object]:
    found: dict[str, object] = json.loads(Path(f"data/{NAME}/weights.json").read_text())
    return found


def test_released_weights_concern_the_full_profile_alone_and_every_byte_counts(
    one: Workspace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    release = tmp_path / "release"
    rehearsal.write(release, "small")
    lock = Path("weights.lock")
    tiny = weights()
    assert tiny["folder"] == f"models/{NAME}/tiny" and "model.safetensors" in tiny["files"]  # type: ignore[operator]

    # 1. They come in: the first stage of the family looks again, and none after it runs.
    bring(models.load(NAME), release)
    assert stale() == {RESAMPLE}
    assert repro() == {RESAMPLE} and weights() == tiny
    assert one.run("git", "status", "--porcelain", "-uall", "data/weights", str(lock)).stdout == " M weights.lock\n"

    # 2. The full profile has them.
    one.edit("params.yaml", lambda text: text.replace("profile: tiny", "profile: full", 1))
    assert repro() == {RESAMPLE, "reader"}
    full = weights()
    assert full["folder"] == f"data/weights/{NAME}" and "speech_tokenizer/model.safetensors" in full["files"]  # type: ignore[operator]
    assert stale() == set()

    # 3. One byte of a file changes: DVC sees it, and the stage names the file.
    changed = Path(f"data/weights/{NAME}/model.safetensors")
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.unlink()
    changed.write_bytes(data)
    assert RESAMPLE in stale()
    assert f"{changed}: other bytes than manifest.json says; run `make weights MODEL={NAME}` again\n" in refused(capfd)

    # 4. The weights of somebody else, with a manifest that fits them: not those of weights.lock.
    ours = lock.read_bytes()
    shutil.copy(changed, release / "model.safetensors")
    bring(models.load(NAME), release)
    theirs = lock.read_bytes()
    lock.write_bytes(ours)
    assert "not the weights that weights.lock means" in refused(capfd)

    # 5. With their lock, everything behind runs.
    lock.write_bytes(theirs)
    assert repro() == {RESAMPLE, "reader"} and weights() != full


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with this repository's settings, lock and folder for the family's weights, and nothing else."""
    for name in ("params.yaml", "weights.lock", f"data/weights/{NAME}/.gitignore"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_another_release_of_the_same_makers_is_named(here: Path, tmp_path: Path) -> None:
    rehearsal.write(tmp_path / "release", "small")
    config = tmp_path / "release/config.json"
    config.write_text(config.read_text().replace('"base"', '"custom_voice"'))
    with pytest.raises(UserError, match=f"^{config}: tts_model_type is custom_voice, not base"):
        bring(models.load(NAME), tmp_path / "release")
    assert [path.name for path in Path("data/weights").iterdir()] == [NAME] and os.listdir(f"data/weights/{NAME}") == [".gitignore"]


def test_full_without_weights_names_the_command(here: Path) -> None:
    params = (here / "params.yaml").read_text().replace("profile: tiny", "profile: full", 1)
    (here / "params.yaml").write_text(params.replace("models: [", f"models: [{NAME}]  # [", 1))
    message = f"{NAME}.full.weights: data/weights/{NAME}: no weights there; bring them in with `make weights MODEL={NAME}`"
    with pytest.raises(UserError, match=f"^params.yaml: {message}$"):
        stage(["--model", NAME])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("data/weights/mine", "only models/qwen3_tts/tiny and data/weights/qwen3_tts are watched; bring them in with `make weights MODEL=qwen3_tts FROM=data/weights/mine`"),
        (f"data/weights/{NAME}", "no manifest.json, so nobody knows what it holds; bring weights in with `make weights MODEL=qwen3_tts`"),
    ],
)  # fmt: skip
def test_weights_that_nobody_brought_in_are_refused(here: Path, weights: str, message: str) -> None:
    (here / weights).mkdir(exist_ok=True)
    (here / weights / "model.safetensors").write_bytes(b"")
    params = (here / "params.yaml").read_text().replace("profile: tiny", "profile: full", 1)
    params = params.replace("models: [", f"models: [{NAME}]  # [", 1).replace(f"weights: data/weights/{NAME}", f"weights: {weights}")
    (here / "params.yaml").write_text(params)
    with pytest.raises(UserError, match=message):
        stage(["--model", NAME])


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "say which family"), ([f"MODEL={NAME}", "FROM=/a folder", "SIZE=0.6B"], "FROM= names a folder, SIZE= and REVISION= what to download")],
)
def test_make_weights_hands_its_words_on(words: list[str], message: str) -> None:
    command = ["make", "-o", ".venv/ready", f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}", "weights", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and message in done.stdout + done.stderr
