"""`make prune`, on a run of the toy family: real stages up to its checkpoints, and what a gate leaves, written down."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from stages.common.files import sha256, write_json, write_jsonl
from stages.rehearse import copy_repository
from stages.report.verdicts import Verdicts, of_takes
from tests.conftest import ROOT, Workspace
from tests.small_corpus import write_folder

CHECKPOINTS, GATE, RATERS = Path("data/toy/checkpoints"), Path("data/toy/gate"), Path("reports/verdicts/toy")
SPEAK = """
from stages.common.cli import run
from stages.gate.speak import main
run(lambda _: main(["--model", "toy", "--text", "Good morning.", "--out", "x.wav", "--checkpoint", "epoch-01"]))
"""
JUDGE = """
from stages.common.cli import run
from stages.common.params import load_params
from stages.gate.candidates import candidates
from stages.gate.corpus import CORPUS, Corpus
from stages.gate.exam import Exam
run(lambda _: Exam("toy", load_params(), Corpus(CORPUS)).takes([(one, []) for one in candidates([1], 1.0, 1.0)], "screen"))
"""
CANDIDATES = {  # name: whether the gate confirmed it
    "base": True, "epoch-01": False, "epoch-02": True, "epoch-02@0.5": True, "epoch-03": True, "epoch-04": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five epochs of the toy family, of which the gate has heard four: epoch 2 at half its scale is promoted, epoch 3 came second."""
    workspace = Workspace(tmp_path_factory.mktemp("prune") / "repository")
    copy_repository(workspace.root, ROOT)
    workspace.add_toy(lambda block: block.replace("epochs: 1", "epochs: 5", 1))
    workspace.edit("params.yaml", lambda text: text.replace("source: data/demo", "source: data/small").replace(": 0.06", ": 0.2"))
    write_folder(workspace.root / "data/small", count=12)
    done(workspace, "dvc", "repro", "train@toy")

    gate = workspace.root / GATE
    (gate / "audio").mkdir(parents=True)
    for name in CANDIDATES:
        (gate / f"audio/{name}.wav").write_bytes(f"what {name} said".encode())
    write_jsonl(gate / "rows.jsonl", ({"checkpoint": name, "prompt": "list-1-5s", "seed": 11, "wav": f"audio/{name}.wav"} for name in CANDIDATES))
    found: dict[str, Any] = {name: {"checkpoint": name.partition("@")[0], "confirmed": {"tiers": {}} if heard else None} for name, heard in CANDIDATES.items()}
    write_json(gate / "verdict.json", {"promoted": "epoch-02@0.5", "order": [*CANDIDATES], "candidates": found})
    write_json(workspace.root / "reports/metrics/gate-toy.json", {})
    done(workspace, "dvc", "commit", "-f", "gate@toy")
    done(workspace, "git", "add", "-A")
    done(workspace, "git", "commit", "-qm", "a run")
    return workspace.root


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(trained, tmp_path / "repository", symlinks=True)
    return Workspace(tmp_path / "repository")


def done(workspace: Workspace, *command: str) -> str:
    result = workspace.run(*command)
    assert result.returncode == 0, result.stderr
    return result.stdout


def say(workspace: Workspace, rater: str = "anna", wav: str = "base.wav", **decisions: str) -> None:
    """A rater's file, as the page saves it: a rating of one take, and what to do with candidates."""
    gate = workspace.root / GATE
    take = {"checkpoint": "base", "prompt": "list-1-5s", "seed": 11, "sha256": sha256(gate / "audio" / wav), "rating": "good", "note": "", "blind": True}
    ship = [
        {"checkpoint": name.replace("_", "-"), "sha256": of_takes([sha256(gate / f"audio/{name.replace('_', '-')}.wav")]), "verdict": verdict, "note": ""}
        for name, verdict in decisions.items()
    ]
    value = {"family": "toy", "rater": rater, "shuffle": 1, "verdicts": [] if ship else [take], "checkpoints": ship}
    Verdicts.model_validate(value)
    write_json(workspace.root / RATERS / f"{rater}.json", value)


def prune(workspace: Workspace, *words: str) -> dict[str, str]:
    """What `make prune` says of each checkpoint."""
    said = done(workspace, "make", "-o", "setup", "prune", "MODEL=toy", *words)
    return dict(re.findall(r"(?m)^  (epoch-\d+)  (.*)$", said)) | {"all": said}


def refused(workspace: Workspace, *words: str) -> str:
    before = files(workspace)
    result = workspace.run("python", "-m", "stages.prune", "--model", "toy", "--yes", *words)
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stdout + result.stderr
    assert files(workspace) == before
    return result.stderr


def files(workspace: Workspace) -> set[str]:
    """What stages left, and what DVC's cache has."""
    return {str(path) for folder in ("data", ".dvc/cache") for path in (workspace.root / folder).rglob("*") if path.is_file()}


def here(workspace: Workspace) -> list[str]:
    return sorted(path.name for path in (workspace.root / CHECKPOINTS).iterdir())


def output(workspace: Workspace) -> dict[str, Any]:
    """What dvc.lock has of the checkpoints."""
    stages = yaml.safe_load((workspace.root / "dvc.lock").read_text())["stages"]
    return next(out for out in stages["train@toy"]["outs"] if out["path"] == str(CHECKPOINTS))


def cached(workspace: Workspace, checkpoints: Iterable[str]) -> list[bool]:
    """Whether DVC's cache has the adapter of each."""

    def place(digest: str) -> Path:
        return workspace.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]

    listed = {one["relpath"]: one["md5"] for one in json.loads(place(output(workspace)["md5"]).read_text())}
    return [place(listed[f"{one}/adapter.safetensors"]).is_file() for one in checkpoints]


EPOCHS = [f"epoch-{number:02d}" for number in range(1, 6)]
REST = ["history.jsonl", "train.json"]


def test_nothing_is_deleted_before_a_person_has_listened(project: Workspace) -> None:
    assert "reports/verdicts/toy: nobody's verdict on these takes" in refused(project)

    other = project.root / GATE / "audio/other.wav"
    other.write_bytes(b"of another run")
    say(project, wav="other.wav")
    other.unlink()
    assert "reports/verdicts/toy: nobody's verdict on these takes" in refused(project)

    (project.root / RATERS / "anna.json").write_text('{"verdicts": 1}')
    assert "reports/verdicts/toy/anna.json: not a verdict file; save it again" in refused(project)


def test_it_shows_first_and_deletes_when_told(project: Workspace) -> None:
    say(project, epoch_04="do not ship")
    before = files(project)
    shown = prune(project)
    assert files(project) == before
    assert re.fullmatch(r"goes: \d\.\d KiB", shown["epoch-01"]) and re.fullmatch(r"goes: \d\.\d KiB", shown["epoch-04"])
    assert [shown[one] for one in ("epoch-02", "epoch-03", "epoch-05")] == ["stays: promoted", "stays: a runner-up", "stays: the gate has not judged it"]
    sizes = sum((project.root / CHECKPOINTS / one / "adapter.safetensors").stat().st_size for one in ("epoch-01", "epoch-04"))
    assert f"This would free {2 * sizes / 1024:.1f} KiB; `make prune MODEL=toy YES=1` does it." in shown["all"]

    assert "`dvc repro` of this family, or of everything, trains again, to the same bytes" in prune(project, "YES=1")["all"]
    assert here(project) == ["epoch-02", "epoch-03", "epoch-05", *REST]
    assert cached(project, EPOCHS) == [False, True, True, False, True]
    assert len(before - files(project)) == 4
    assert "Nothing to delete." in prune(project, "YES=1")["all"]


def test_what_a_rater_would_ship_stays(project: Workspace) -> None:
    say(project, "anna", epoch_04="ship", epoch_03="ship")
    say(project, "ben", epoch_04="unsure")
    shown = prune(project)
    assert shown["epoch-04"] == "stays: anna would ship it"
    assert shown["epoch-03"] == "stays: a runner-up, anna would ship it"


def test_a_pruned_run_can_be_made_again(project: Workspace) -> None:
    say(project)
    folder, lock = project.root / CHECKPOINTS, output(project)
    before = {str(path): sha256(path) for path in folder.rglob("*") if path.is_file()}
    prune(project, "YES=1")
    assert (project.root / "dvc.lock").read_bytes() == done(project, "git", "show", "HEAD:dvc.lock").encode()
    assert "not in cache:       data/toy/checkpoints" in done(project, "dvc", "status", "train@toy")

    # Without training: one that was kept comes back from the cache.
    shutil.rmtree(folder / "epoch-02")
    done(project, "dvc", "checkout", f"{CHECKPOINTS}/epoch-02")
    assert (folder / "epoch-02/adapter.safetensors").is_file()

    # One that was not is named by what asks for it.
    for code in (SPEAK, JUDGE):
        result = project.run("python", "-c", code)
        assert result.returncode == 1 and result.stderr.startswith(f"{CHECKPOINTS}/epoch-01/adapter.safetensors: the checkpoint is missing; run `dvc checkout"), result.stderr

    said = done(project, "dvc", "repro", "gate@toy")
    assert re.findall("Running stage '(.*)'", said) == ["train@toy"]
    assert {str(path): sha256(path) for path in folder.rglob("*") if path.is_file()} == before
    assert output(project) == lock
    assert cached(project, EPOCHS) == [True] * 5
    assert "up to date" in done(project, "dvc", "status", "gate@toy")


def test_what_experiments_name_stays(project: Workspace) -> None:
    say(project)
    changed = ("-S", "gate.screen=2")
    done(project, "dvc", "exp", "run", "-n", "more-takes", *changed, "train@toy")
    done(project, "git", "checkout", "-q", ".")
    assert prune(project, "YES=1")["epoch-01"] == "stays: named by an experiment (`dvc exp remove more-takes`)"
    done(project, "dvc", "exp", "remove", "more-takes")

    for name in ("first", "second"):
        done(project, "dvc", "exp", "run", "--queue", "-n", name, *changed)
    queued = re.findall(r"`(dvc queue remove \w+)`", prune(project, "YES=1")["epoch-01"])
    assert len(queued) == 2
    for command in queued:
        assert here(project) == [*EPOCHS, *REST]
        done(project, *command.split())

    copy = project.root / ".dvc/tmp/exps/standalone/tmp1234"
    copy.mkdir(parents=True)
    shutil.copy(project.root / "dvc.lock", copy)
    assert prune(project, "YES=1")["epoch-01"] == f"stays: named by a run in {copy}"
    shutil.rmtree(copy)
    assert prune(project)["epoch-01"].startswith("goes")


def test_a_gate_that_has_not_finished_protects_everything(project: Workspace) -> None:
    say(project)
    verdict = project.root / GATE / "verdict.json"
    whole = verdict.read_text()
    verdict.write_text(whole.replace("epoch-02@0.5", "epoch-04"))
    assert "data/toy/gate: the gate has not finished on the checkpoints that are here; run `dvc repro gate@toy`" in refused(project)
    verdict.write_text(whole)
    project.edit("params.yaml", lambda text: text.replace("lr: 1.0e-2", "lr: 2.0e-2"))
    done(project, "dvc", "repro", "train@toy")
    assert "the gate has not finished" in refused(project)


def test_a_command_of_dvc_that_is_at_work_is_left_alone(project: Workspace) -> None:
    say(project)
    with Repo(str(project.root)) as repo, repo.lock:
        assert "data/toy/checkpoints: nothing is deleted; Unable to acquire lock. Most likely another DVC process is running" in refused(project)
    assert here(project) == [*EPOCHS, *REST]
