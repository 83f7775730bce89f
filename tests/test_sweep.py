"""`make sweep`: several runs by DVC's own queue, in a copy of the repository whose pipeline is one quick stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from models.parts.errors import UserError
from stages import sweep
from tests.conftest import ROOT, Workspace
from tests.quick_pipeline import bring, make_quick, runs

PLAN = "experiments/cosyvoice3_rerun.yaml"
# What a run sees of the graphics cards; each waits for the other one, which another worker has to run.
MEETING = """
import json, os, pathlib, time, yaml
(pathlib.Path(os.environ["MEETING"]) / str(os.getpid())).touch()
until = time.monotonic() + 60
while len(os.listdir(os.environ["MEETING"])) < 2:
    assert time.monotonic() < until, "nobody else came"
    time.sleep(0.1)
found = {"lr": float(yaml.safe_load(open("params.yaml"))["lr"]), "cards": os.environ["CUDA_VISIBLE_DEVICES"]}
pathlib.Path("reports/metrics/train-cosyvoice3.json").write_text(json.dumps(found))
"""


@pytest.fixture
def quick(workspace: Workspace) -> Workspace:
    make_quick(workspace)
    return workspace


def test_the_rerun_that_the_post_mortem_asks_for_is_one_command(quick: Workspace) -> None:
    weights = bring(quick)
    done = quick.run("python", "-m", "stages.sweep", "--plan", PLAN)
    assert done.returncode == 0, done.stdout + done.stderr
    ((name, found),) = runs(quick).items()
    assert name == "cosyvoice3_rerun" and found["weights"] == " ".join(weights)
    params = found["params"]
    train = params["cosyvoice3"]["full"]["train"]
    assert (params["profile"], params["models"], train["save_every_n_epochs"]) == ("full", ["cosyvoice3"], 2)
    assert params["gate"]["checkpoints"] == "all" and params["gate"]["reading"]["full"]["long_whole"] is True
    assert quick.run("git", "status", "--porcelain").stdout == ""  # it was another copy that ran

    again = quick.run("python", "-m", "stages.sweep", "--plan", PLAN)
    assert again.returncode == 1 and again.stderr.splitlines()[-1].startswith(f"{PLAN}: `dvc exp run --queue` did not do it")
    assert "existing experiment 'cosyvoice3_rerun'" in again.stderr


def test_every_rate_is_a_run_and_one_that_fails_is_named(quick: Workspace) -> None:
    done = quick.run("python", "-m", "stages.sweep", "--model", "cosyvoice3", "--lr", "1e-6,2e-6,3e-6")
    found = runs(quick)
    assert {run["lr"] for run in found.values()} == {1e-6, 2e-6} and {*map(str, (run["params"]["models"] for run in found.values()))} == {"['cosyvoice3']"}
    assert done.returncode == 1
    told = done.stderr.splitlines()[-1]
    assert told.startswith("make sweep: 1 of 3 runs failed: ") and told.endswith(" says why")
    name = told.removeprefix("make sweep: 1 of 3 runs failed: ").partition(";")[0]
    assert "AssertionError" in quick.run("dvc", "queue", "logs", name).stdout
    compared = quick.run("python", "-m", "stages.compare").stdout
    assert all(f"| {name} | cosyvoice3 |" in " ".join(compared.split()) for name in found)


def test_every_scale_is_a_run_of_its_own(quick: Workspace) -> None:
    done = quick.run("python", "-m", "stages.sweep", "--model", "cosyvoice3", "--scale", "0.3,0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(run["params"]["cosyvoice3"]["tiny"]["scales"] for run in runs(quick).values()) == [[0.3], [0.5]]


def test_each_worker_of_the_queue_has_graphics_cards_of_its_own(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meeting").mkdir()
    monkeypatch.setenv("MEETING", str(tmp_path / "meeting"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")  # those that the sweep may use
    make_quick(workspace, MEETING)
    done = workspace.run("python", "-m", "stages.sweep", "--model", "cosyvoice3", "--lr", "1e-6,2e-6")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(str(run["cards"]) for run in runs(workspace).values()) == ["2", "5"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings and tiny bases alone, in which DVC finds nothing to queue."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(*arguments: str) -> str:
    with pytest.raises(UserError) as raised:
        sweep.main([*arguments])
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ("lr: -1e-6", "plan.yaml: lr: '-1e-06' must be greater than 0"),
        ("lr: 1e-6,fast", "plan.yaml: lr: 'fast' must be a number"),
        ("gate.pass_rat: 0.5", "plan.yaml: Could not override 'gate.pass_rat'"),
        ("gate: {seed: 3}", "plan.yaml: not a plan; each line is a key of params.yaml"),
        ("lr: [1", "plan.yaml: line 1: not YAML"),
        ("lr: ']'", "plan.yaml: "),
    ],
)
def test_a_wrong_plan_is_one_line_before_anything_is_queued(place: Path, plan: str, told: str) -> None:
    (place / "plan.yaml").write_text(plan)
    assert refusal("--plan", "plan.yaml").startswith(told)


def test_a_plan_that_is_not_there_and_rates_that_nobody_said(place: Path) -> None:
    assert refusal("--plan", "experiments/none.yaml") == "experiments/none.yaml: no such plan; those that are written down are in experiments/"
    assert refusal("--model", "cosyvoice3") == "make sweep MODEL=cosyvoice3: say which rates or scales, like LR=1e-6,2e-6 or SCALE=0.3,0.5"
    assert refusal("--plan", PLAN, "--lr", "1e-6") == f"make sweep: LR and SCALE go with MODEL; {PLAN} says itself what it changes"
    assert refusal("--plan", PLAN, "--on", "slurm", "--jobs", "2") == "make sweep: JOBS is for this machine; ON=slurm runs as many as there is room for"
    assert refusal("--model", "cosyvoice3", "--scale", "0.3,-1") == "make sweep: cosyvoice3.tiny.scales.0: -1 must be greater than or equal to 0"


@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/*.yaml")), ids=lambda path: path.stem)
def test_a_plan_that_is_written_down_lacks_nothing_but_the_weights(place: Path, path: Path) -> None:
    told = refusal("--plan", str(path))
    assert told.count("; ") == told.count("no weights there; bring them in with `make weights MODEL=") == 1, told
