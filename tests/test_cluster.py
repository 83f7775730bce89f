"""Runs on other machines: what a job brings along and leaves behind, and a cluster that loses a node."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Workspace
from tests.quick_pipeline import STAGE, bring, commit, make_quick, runs

# Something that others made: it can't be made by a job.
TOKENS = {"cmd": "test -n \"$WORKSHOP\" && mkdir -p data/cosyvoice3 && echo tokens > data/cosyvoice3/tokens", "outs": ["data/cosyvoice3/tokens"]}
# Says on which node it began, waits until it may go on, and says at which rate it was.
WAITING = """
import json, os, pathlib, time, yaml
lr, place = float(yaml.safe_load(open("params.yaml"))["lr"]), pathlib.Path(os.environ["MEETING"])
(place / f"{lr}-{os.environ['SLURMD_NODENAME']}-{os.getpid()}").touch()
while not (place / "go").exists():
    time.sleep(0.1)
pathlib.Path("reports/metrics/train-cosyvoice3.json").write_text(json.dumps({"lr": lr}))
"""


def join(workspace: Workspace, place: Path) -> None:
    """Name the two stores of a team, commit that, and push everything."""
    succeeds(workspace, "git", "init", "--quiet", "--bare", str(place / "origin.git"))
    succeeds(workspace, "git", "remote", "add", "origin", str(place / "origin.git"))
    succeeds(workspace, "dvc", "remote", "modify", "private", "url", str(place / "private"))
    succeeds(workspace, "dvc", "remote", "modify", "public", "url", str(place / "public"))
    commit(workspace)
    succeeds(workspace, "git", "push", "--quiet", "origin", "HEAD")


def succeeds(workspace: Workspace, *command: str) -> str:
    done = workspace.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_job_takes_what_others_made_and_leaves_its_results(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(workspace, STAGE, tokens=TOKENS)
    monkeypatch.setenv("WORKSHOP", "yes")
    succeeds(workspace, "dvc", "repro", "tokens")
    join(workspace, tmp_path)
    succeeds(workspace, "dvc", "push")
    monkeypatch.delenv("WORKSHOP")
    weights = bring(workspace)

    head = succeeds(workspace, "git", "rev-parse", "HEAD").strip()
    monkeypatch.setenv("WEIGHTS", "data/weights")
    copied = [word for name in ("CosyVoice-BlankEN", "llm.safetensors") for word in ("--copy-paths", f"data/weights/cosyvoice3/{name}")]
    job = ["cluster/job.sh", str(tmp_path / "origin.git"), head, "one", *copied, "--set-param", "lr=2e-6"]
    succeeds(workspace, *job)
    succeeds(workspace, *job)  # its machine was lost after all was done, and it began again
    assert runs(workspace) == {}
    succeeds(workspace, "dvc", "exp", "pull", "origin", "one")
    ((name, found),) = runs(workspace).items()
    assert (name, found["lr"], found["weights"]) == ("one", 2e-6, " ".join(weights))


def test_nothing_is_submitted_that_no_job_could_run(workspace: Workspace, tmp_path: Path) -> None:
    make_quick(workspace)

    def refused() -> str:
        done = workspace.run("python", "-m", "stages.sweep", "--model", "cosyvoice3", "--lr", "1e-6,2e-6", "--on", "slurm")
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stdout + done.stderr
        return done.stderr

    assert refused().startswith("make sweep: jobs clone from the git remote origin, which does not have the last commit; ")
    succeeds(workspace, "git", "init", "--quiet", "--bare", str(tmp_path / "origin.git"))
    succeeds(workspace, "git", "remote", "add", "origin", str(tmp_path / "origin.git"))
    succeeds(workspace, "git", "push", "--quiet", "origin", "HEAD")
    assert refused().startswith("make sweep: .dvc/config: the remote private has no place yet, ")
    succeeds(workspace, "dvc", "remote", "modify", "private", "url", str(tmp_path / "private"))
    assert refused().startswith("make sweep: jobs run what is committed, and some of what is here is not; ")


@pytest.fixture
def cluster(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two nodes of Slurm on this machine."""
    folder = tmp_path / "slurm"
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.setenv("SBATCH_GRES", "none")  # they have no graphics cards
    try:
        succeeds(workspace, "cluster/slurm/loopback.sh", "start", str(folder))
        yield folder
    finally:
        workspace.run("cluster/slurm/loopback.sh", "stop", str(folder))


@pytest.mark.skipif(not shutil.which("slurmctld") or os.geteuid() != 0, reason="wants Slurm (Debian: slurm-wlm) and root")
def test_a_sweep_of_three_outlives_a_node_that_is_lost(workspace: Workspace, cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (meeting := tmp_path / "meeting").mkdir()
    monkeypatch.setenv("MEETING", str(meeting))
    make_quick(workspace, WAITING)
    join(workspace, tmp_path)

    def begun(node: str) -> list[str]:
        """The rates of the runs that began there."""
        return [path.name.partition("-node")[0] for path in meeting.glob(f"*-{node}-*")]

    with ThreadPoolExecutor(1) as pool:
        sweep = pool.submit(workspace.run, "python", "-m", "stages.sweep", "--model", "cosyvoice3", "--lr", "1e-6,2e-6,5e-6", "--on", "slurm")
        until = time.monotonic() + 300
        try:
            while not (begun("node1") and begun("node2")):
                assert not sweep.done() and time.monotonic() < until, sweep.result() if sweep.done() else "both nodes should have begun"
                time.sleep(0.1)
            succeeds(workspace, "cluster/slurm/loopback.sh", "kill", str(cluster), "node2")
        finally:
            (meeting / "go").touch()
        while not sweep.done():  # Slurm lets a job whose node was lost wait for two minutes; nobody here has to
            for job in workspace.run("squeue", "--noheader", "--states=PENDING", "--format=%i").stdout.split():
                workspace.run("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(2)
        done = sweep.result()
    assert done.returncode == 0, done.stdout + done.stderr
    assert {run["lr"] for run in runs(workspace).values()} == {1e-6, 2e-6, 5e-6}
    assert begun("node2")[0] in begun("node1")  # it was run again
    compared = succeeds(workspace, "python", "-m", "stages.compare")
    assert all(f"| {name} | cosyvoice3 |" in " ".join(compared.split()) for name in runs(workspace))
