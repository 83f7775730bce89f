"""Several runs and what came of them: a plan that is written down, or one family at several learning rates and scales.

    python -m stages.sweep --plan experiments/cosyvoice3_rerun.yaml
    python -m stages.sweep --model qwen3_tts --lr 1e-6,2e-6,5e-6 --scale 0.3,0.5
    python -m stages.sweep --plan experiments/cosyvoice3_rerun.yaml --on slurm

All of them are checked before the first one starts. Here DVC's own queue runs them, each in a copy of what git tracks and of
the released weights; elsewhere each is a job, `cluster/job.sh`. `make compare` shows what came of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps

from models.parts.errors import UserError
from stages.common.cli import run
from stages.common.params import Params, load_params, read_params
from stages.common.weights import FOLDER, KEPT

PARAMS = "params.yaml"
LOGS = Path(".scratch/sweep")
UNNAMED = "/dev/null"  # where a remote of .dvc/config leads until a team says where


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.sweep", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--plan", type=Path, metavar="FILE.yaml", help="keys of params.yaml and their values")
    what.add_argument("--model", help="one family, at every rate of --lr and scale of --scale")
    parser.add_argument("--lr", help="learning rates, like 1e-6,2e-6")
    parser.add_argument("--scale", help="scales at which the gate merges the LoRA, like 0.3,0.5")
    parser.add_argument("--jobs", type=int, help="runs side by side here; as many as there are graphics cards, if this is not said")
    parser.add_argument("--on", choices=["slurm", "sky"], help="a job a run, on a cluster (Slurm) or in a cloud (SkyPilot)")
    asked = parser.parse_args(argv)
    if asked.plan and (asked.lr or asked.scale):
        raise UserError(f"make sweep: LR and SCALE go with MODEL; {asked.plan} says itself what it changes")
    if asked.jobs is not None and asked.jobs < 1:
        raise UserError(f"make sweep: JOBS={asked.jobs}: must be 1 or more")
    if asked.on and asked.jobs:
        raise UserError(f"make sweep: JOBS is for this machine; ON={asked.on} runs as many as there is room for")
    if asked.model and not (asked.lr or asked.scale):
        raise UserError(f"make sweep MODEL={asked.model}: say which rates or scales, like LR=1e-6,2e-6 or SCALE=0.3,0.5")
    where, changes = (str(asked.plan), read_plan(asked.plan)) if asked.plan else ("make sweep", read_ranges(asked.model, asked.lr, asked.scale))

    # What each run would be; a wrong one is told before any starts.
    runs = combinations(where, changes)
    settings = [checked(where, overrides) for overrides in runs]
    weights = sorted({str(path) for one in settings for path in released(one)})
    if asked.on:
        elsewhere(where, asked.on, runs, weights, asked.model or asked.plan.stem)
    else:
        here(where, changes, weights, asked.plan.stem if asked.plan else None, asked.jobs)


# --- here, by DVC's queue ---------------------------------------------------------------------------------------------


def here(where: str, changes: list[str], weights: list[str], name: str | None, jobs: int | None) -> None:
    named, copied = ["--name", name] if name else [], options("--copy-paths", weights)
    call(where, "dvc", "exp", "run", "--queue", *named, *copied, *options("--set-param", changes))
    with Repo() as repo:
        queue = repo.experiments.celery_queue
        runs, failed = [*queue.iter_active(), *queue.iter_queued()], []
        shares = shared_out(graphics_cards(), jobs)
        workers: list[subprocess.Popen[bytes] | None] = [None] * len(shares)
        for one in runs:
            while not begun(queue, one):  # a worker may end early; then another takes its place
                workers = [worker if worker and worker.poll() is None else start_worker(queue, own) for worker, own in zip(workers, shares, strict=True)]
                time.sleep(1)
            if queue.proc.get(one.stash_rev):
                queue.follow(one)  # until it ends
            if not succeeded(queue, one):
                failed.append(one.name or one.stash_rev[:7])
    if failed:  # DVC ends well whatever becomes of them
        raise UserError(f"{where}: {len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; `dvc queue logs {failed[0]}` says why")


def shared_out(cards: list[str], jobs: int | None) -> list[dict[str, str]]:
    """What each worker finds in its environment. DVC's own would all use the same graphics cards."""
    jobs = jobs or max(1, len(cards))
    return [{"CUDA_VISIBLE_DEVICES": ",".join(cards[number::jobs] or [cards[number % len(cards)]])} if cards else {} for number in range(jobs)]


def start_worker(queue: Any, own: dict[str, str]) -> subprocess.Popen[bytes]:
    """One that runs what is in the queue until it is empty. It goes on when this program is stopped."""
    name = f"sweep-{uuid.uuid4().hex[:8]}"
    with (Path(queue.wdir) / f"{name}.out").open("wb") as log:
        command = ["dvc", "exp", "queue-worker", f"{name}@localhost"]
        return subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def begun(queue: Any, one: Any) -> bool:
    """Whether a run has started, or failed before it could."""
    return bool(queue.proc.get(one.stash_rev)) or any(done.entry.stash_rev == one.stash_rev for done in queue.iter_failed())


def graphics_cards() -> list[str]:
    """Those of this machine by number, or those that CUDA_VISIBLE_DEVICES allows."""
    if (allowed := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [card for card in allowed.split(",") if card]
    import torch  # takes seconds to load

    return [str(number) for number in range(torch.cuda.device_count())]


def succeeded(queue: Any, one: Any) -> bool:
    try:
        result = queue.get_result(one)
    except FileNotFoundError:  # it did not even start
        return False
    return result is not None and result.exp_hash is not None


# --- elsewhere, a job a run -------------------------------------------------------------------------------------------


def elsewhere(where: str, system: str, runs: list[list[str]], weights: list[str], name: str) -> None:
    source, sweep = shared(where), f"{name}-{time.strftime('%m%d-%H%M%S')}"
    LOGS.mkdir(parents=True, exist_ok=True)
    jobs = {}
    for number, changes in enumerate(runs, 1):
        one = f"{sweep}-{number}"
        arguments = [*source, one, *options("--copy-paths", weights), *options("--set-param", changes)]
        try:
            jobs[one] = subprocess.Popen(submission(system, one, arguments))
        except FileNotFoundError as error:
            raise UserError(f"{where}: {error.filename}: not found; ON={system} wants it here, where jobs are submitted") from None
        print(f"{one}: {' '.join(changes)}", flush=True)
    failed = [one for one, job in jobs.items() if job.wait()]
    if len(failed) < len(jobs):
        call(where, "dvc", "exp", "pull", "origin", *(one for one in jobs if one not in failed))
    if failed:
        why = {"slurm": f"{LOGS / failed[0]}.log", "sky": f"`sky jobs logs --name {failed[0]}`"}
        raise UserError(f"{where}: {len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; {why[system]} says why")


def submission(system: str, name: str, arguments: list[str]) -> list[str]:
    """The command that submits a job and waits for its end; it fails where the job does."""
    if system == "slurm":
        return ["sbatch", "--wait", "--job-name", name, "--output", f"{LOGS / name}.log", "cluster/slurm/job.sh", *arguments]
    return ["sky", "jobs", "launch", "--yes", "--name", name, "--env", f"JOB={shlex.join(arguments)}", "cluster/sky.yaml"]


def shared(where: str) -> tuple[str, str]:
    """The repository and the commit that a job clones. UserError where it would run something else than what is here, or where
    nobody would get what came of it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()

    if git("status", "--porcelain", "--untracked-files=no"):
        raise UserError(f"{where}: jobs run what is committed, and some of what is here is not; `git commit` and `git push` it, or `git stash` it")
    commit = git("rev-parse", "HEAD")
    if not git("branch", "--remotes", "--contains", commit, "--list", "origin/*"):
        raise UserError(f"{where}: jobs clone from the git remote origin, which does not have the last commit; `git push origin` it")
    with Repo() as repo:
        place = repo.config.read("repo")["remote"]["private"]["url"]  # what is in git, for jobs know no other
    if place.startswith(UNNAMED):
        raise UserError(
            f"{where}: .dvc/config: the remote private has no place yet, so jobs can't leave anything; "
            "`dvc remote modify private url` with s3://... or a folder that every machine has, and commit that"
        )
    return git("remote", "get-url", "origin"), commit


# --- what is asked for ------------------------------------------------------------------------------------------------


def read_ranges(model: str, rates: str | None, scales: str | None) -> list[str]:
    """The changes that run one family at several rates and scales."""
    changes = [f"models=[{model}]"]
    if rates:
        changes.append(f"lr={rates}")
    if scales:
        one_each = ",".join(f"[{scale}]" for scale in scales.split(","))
        changes.append(f"{model}.{read_params().profile}.scales={one_each}")
    return changes


def read_plan(path: Path) -> list[str]:
    """The changes of a plan, as `dvc exp run --set-param` takes them."""
    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such plan; those that are written down are in experiments/") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{path}: line {mark.line + 1 if mark else 1}: not YAML") from None
    if not isinstance(plan, dict) or not plan or any(isinstance(value, dict) for value in plan.values()):
        raise UserError(f"{path}: not a plan; each line is a key of {PARAMS}, dotted, and its value, like gate.checkpoints: all")
    return [f"{key}={_text(value)}" for key, value in plan.items()]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def combinations(where: str, changes: list[str]) -> list[list[str]]:
    """The changes of every run: a value with commas is one run for each."""
    try:
        return [overrides[PARAMS] for overrides in get_hydra_sweeps({PARAMS: changes})]
    except Exception as error:  # the parser's errors have no common class
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from None


def checked(where: str, changes: list[str]) -> Params:
    """The settings of one run. UserError for a key that params.yaml does not have, or a value that it can't."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copy(PARAMS, place))
        try:
            apply_overrides(copy, changes)
            return load_params(copy)
        except DvcException as error:
            raise UserError(f"{where}: {str(error.__cause__ or error).splitlines()[0]}; its keys are those of {PARAMS}") from None
        except UserError as error:
            raise UserError(str(error).replace(str(copy), where)) from None


def released(params: Params) -> list[Path]:
    """Released weights that a run reads: git does not track them."""
    folders = [params.family(name).weights for name in params.models]
    return [path for folder in folders if folder.is_relative_to(FOLDER) for path in folder.iterdir() if path.name != KEPT]


def options(option: str, values: list[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def call(where: str, *command: str) -> None:
    """A command of DVC, which says itself what it does."""
    if subprocess.run(command).returncode:
        raise UserError(f"{where}: `{' '.join(command[:4])}` did not do it; what DVC says of it stands above")


if __name__ == "__main__":
    run(main)
