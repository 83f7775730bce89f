"""dvc.yaml: a stage runs again when anything that it uses has changed, and only then."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo
from dvc.stage import PipelineStage

import models
from stages.common.files import read_jsonl
from tests.conftest import Workspace
from tests.small_corpus import write_folder

ROOT = Path(__file__).parents[1]
STAGES = ("takes", "corpus", "resample", "tokenise", "train", "gate", "report")
SYSTEM, VOICE = "acme", "casual_female"
MODELS: list[str] = yaml.safe_load((ROOT / "params.yaml").read_text())["models"]


@cache
def pipeline() -> dict[str, PipelineStage]:
    """Every stage by its address, as DVC resolves it: "train@cosyvoice3". A system from elsewhere and a voice that says a
    corpus are among them."""
    with tempfile.TemporaryDirectory() as place:
        settings = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"external": [SYSTEM]}
        settings["takes"] |= {"voices": [VOICE]}
        (Path(place) / "params.yaml").write_text(yaml.safe_dump(settings))
        shutil.copy(ROOT / "dvc.yaml", place)
        with chdir(place), Repo.init(place, no_scm=True) as repo:
            return {stage.addressing: stage for stage in repo.index.stages}


def paths(stage: PipelineStage) -> list[str]:
    """What `stage` depends on, params.yaml aside."""
    return [dep.def_path for dep in stage.deps if dep.def_path != "params.yaml"]


# --- which files a stage imports --------------------------------------------------------------------------------------


def closure(stage: PipelineStage) -> set[str]:
    """The repository's files that the command of `stage` runs, imports of imports included, relative to the root."""
    command = stage.cmd.split()
    assert command[:2] == ["python", "-m"], stage.cmd
    return reached(command[2], command[command.index("--model") + 1] if "--model" in command else "")


def reached(module: str, family: str) -> set[str]:
    """The same for a module; `family` is what it loads."""
    found: set[str] = set()
    waiting = set(files_of(module))
    while waiting:
        file = waiting.pop()
        found.add(file)
        waiting |= set(imports(file, family)) - found
    return {file for file in found if (ROOT / file).stat().st_size}  # an empty __init__.py holds nothing to depend on


@cache
def imports(file: str, family: str) -> tuple[str, ...]:
    return tuple(_imports(ast.parse((ROOT / file).read_text()), family))


def _imports(tree: ast.AST, family: str) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue  # never runs
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            yield from _imports(node, family)
            continue
        for name in names:
            yield from files_of(name)
            if name in ("models", "models.load") and family:  # models.load imports the family's package by its name
                yield from (str(path.relative_to(ROOT)) for path in sorted((ROOT / "models" / family).glob("*.py")))


def files_of(name: str) -> Iterator[str]:
    """The files that `import name` runs: of each package on the way its __init__.py, in the end the module."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        place = Path(*parts[:length])
        for candidate in (place / "__init__.py", place.with_suffix(".py")):
            if (ROOT / candidate).is_file():
                yield str(candidate)
    if (ROOT / Path(*parts) / "__main__.py").is_file():
        yield str(Path(*parts) / "__main__.py")


def covers(dep: str, file: str) -> bool:
    return Path(file).is_relative_to(dep)


# --- tests ------------------------------------------------------------------------------------------------------------


def test_every_model_has_every_stage() -> None:
    per_model = {"resample", "tokenise", "train", "gate", "report", "export"}
    per_system = {"gate-external", "report-external"}
    assert set(pipeline()) == {"corpus", "index", f"takes@{VOICE}"} | {f"{stage}@{model}" for stage in per_model for model in MODELS} | {
        f"{stage}@{SYSTEM}" for stage in per_system
    }


@pytest.mark.parametrize("name", sorted(pipeline()))
def test_a_stage_depends_on_all_the_code_that_it_runs(name: str) -> None:
    stage = pipeline()[name]
    missing = {file for file in closure(stage) if not any(covers(dep, file) for dep in paths(stage))}
    assert not missing, f"{name}: imports these and does not list them in dvc.yaml: {sorted(missing)}"


@pytest.mark.parametrize("name", sorted(pipeline()))
def test_a_stage_depends_on_nothing_that_it_does_not_use(name: str) -> None:
    stage = pipeline()[name]
    used = closure(stage)
    made = {out.def_path for other in pipeline().values() for out in other.outs}
    for dep in paths(stage):
        if any(covers(dep, out) for out in made):
            continue  # what another stage makes
        if dep == f"data/external/{SYSTEM}":
            continue  # what somebody brings
        assert (ROOT / dep).exists(), f"{name}: {dep} is not there"
        if dep == "models/released":
            continue  # of the families that have released codecs, and DVC can't pick a dependency by family
        if not dep.startswith("data/") and (dep.endswith(".py") or list((ROOT / dep).glob("*.py"))):
            assert any(covers(dep, file) for file in used), f"{name}: lists {dep}, and does not import it"


def test_families_know_nothing_of_each_other() -> None:
    for model in MODELS:
        used = closure(pipeline()[f"train@{model}"])
        assert not {file for other in MODELS if other != model for file in used if covers(f"models/{other}", file)}


def test_no_stage_imports_another_stages_room() -> None:
    """What two stages share is in stages/common; only the benchmarks and the bases' workshop look into every room."""
    crossing = []
    for path in sorted((ROOT / "stages").rglob("*.py")):
        file, room = str(path.relative_to(ROOT)), path.relative_to(ROOT / "stages").with_suffix("").parts[0]
        for used in imports(file, "") if room not in ("bench", "bases") else ():
            other = Path(used).with_suffix("").parts
            if other[0] == "stages" and other[1] not in (room, "common", "__init__"):
                crossing.append(f"{file} imports {used}")
    assert not crossing


def test_no_shared_part_is_left_over() -> None:
    """A folder as dependency must not hold code that nobody runs: editing it would train for nothing."""
    used = set().union(*(reached(f"stages.{stage}", family) for stage in STAGES for family in models.names()))
    rooms = [ROOT / room for room in ("models/parts", "models/small", "models/released", "stages/common")]
    shared = {str(path.relative_to(ROOT)) for room in rooms for path in room.rglob("*.py") if path.stat().st_size}
    assert shared <= used


def test_nothing_persists_and_metrics_are_in_git() -> None:
    """`persist` would switch DVC's run cache off."""
    for stage in pipeline().values():
        assert not [out.def_path for out in stage.outs if out.persist]
        metrics = [out for out in stage.outs if out.metric]
        assert all(not out.use_cache for out in metrics)
        # Where a user's own system is judged no rule stands: DVC adds it to a .gitignore when the stage has run.
        ours = [out for out in stage.outs if out.def_path != "data/acme/gate"]
        ignored = [out.def_path for out in ours if out.use_cache == (not is_ignored(out.def_path))]
        assert not ignored, f"{stage.addressing}: cached outputs are ignored by git, metrics are not"


def is_ignored(path: str) -> bool:
    return subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0


# --- what runs again after a change -----------------------------------------------------------------------------------


def stale(workspace: Workspace) -> set[str]:
    """The stages whose code or settings differ from the committed dvc.lock. Data is absent from the copy, no difference."""
    result = workspace.run("dvc", "status", "--json")
    assert result.returncode == 0, result.stderr

    def differs(change: dict[str, Any] | str) -> bool:
        return any(map(differs, change.values())) if isinstance(change, dict) else change != "deleted"

    return {
        stage
        for stage, findings in json.loads(result.stdout).items()
        if any(differs(finding["changed deps"]) for finding in findings if "changed deps" in finding)
    }


def of(stage: str) -> set[str]:
    return {f"{stage}@{model}" for model in MODELS}


def test_the_committed_lock_is_up_to_date(workspace: Workspace) -> None:
    result = workspace.run("dvc", "repro", "--dry", "--allow-missing")
    assert result.returncode == 0, result.stderr
    assert "Running stage" not in result.stdout, result.stdout
    assert stale(workspace) == set()


def test_a_change_of_one_family_concerns_that_family_alone(workspace: Workspace) -> None:
    workspace.edit("models/fish_s2/network.py", lambda text: text + "\n# changed\n")
    assert stale(workspace) == {f"{stage}@fish_s2" for stage in ("tokenise", "train", "gate", "export")}


def test_released_weights_of_one_family_concern_its_first_stage_alone(workspace: Workspace) -> None:
    (workspace.root / "data/weights/fish_s2/model.safetensors").write_bytes(b"")
    assert stale(workspace) == {"resample@fish_s2"}
    workspace.edit("weights.lock", lambda text: text.replace("voxtral: {}", "voxtral: {commits: {}, sha256: '0'}"))
    assert stale(workspace) == {"resample@fish_s2", "resample@voxtral"}


def test_an_alias_concerns_the_gates_alone(workspace: Workspace) -> None:
    workspace.edit("reports/aliases.txt", lambda text: text + "paiseh = pie say\n")
    assert stale(workspace) == of("gate")


@pytest.mark.parametrize(
    ("setting", "concerned"),
    [
        (("pass_rate: 0.5", "pass_rate: 0.6"), of("gate")),
        (("title: One", "title: Another"), of("report") | {"index"}),
        (("lr: null ", "lr: 2e-06 "), of("train")),
        (("intended_use: research", "intended_use: commercial"), of("resample") | {"index"}),
        (("min_seconds: 0.3", "min_seconds: 0.4"), {"corpus"}),
    ],
)
def test_a_setting_concerns_only_the_stages_that_use_it(
    workspace: Workspace, setting: tuple[str, str], concerned: set[str]
) -> None:
    workspace.edit("params.yaml", lambda text: text.replace(*setting, 1))
    assert stale(workspace) == concerned


# --- the headline command ---------------------------------------------------------------------------------------------


def test_one_change_is_one_run_with_exactly_that_rate(workspace: Workspace) -> None:
    """DVC hands `-S lr=2e-6` on as the text 2e-06; the optimizer must get the number."""
    write_folder(workspace.root / "data" / "small", count=24)
    train = "cosyvoice3.tiny.train"
    small = [
        "corpus.source=data/small", "corpus.validation=0.2", "corpus.test=0.2",
        f"{train}.epochs=1", f"{train}.schedule=constant", f"{train}.warmup=0",
    ]  # fmt: skip
    changes = ["models=[cosyvoice3]", "lr=2e-6", *small]
    command = ["dvc", "exp", "run", *(word for change in changes for word in ("-S", change)), "train@cosyvoice3"]

    first = workspace.run(*command)
    assert first.returncode == 0, first.stderr
    history = read_jsonl(workspace.root / "data/cosyvoice3/checkpoints/history.jsonl")
    rate = history[-1]["lr"]  # the optimizer's own
    assert (type(rate), rate) == (float, 2e-06)

    again = workspace.run(*command)
    assert again.returncode == 0 and "Running stage" not in again.stdout, again.stdout

    compared = workspace.run("python", "-m", "stages.compare").stdout
    run = next(line for line in compared.splitlines() if "models=[cosyvoice3]" in line)
    assert "| cosyvoice3 | 2e-06 |" in re.sub(" +", " ", run) and "lr=2e-06" in run
