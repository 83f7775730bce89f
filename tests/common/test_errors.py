"""What a person does wrong is one line and exit code 1, before any work, from every stage."""

from __future__ import annotations

import pytest
import yaml

from tests.conftest import ROOT, Workspace

STAGES = ["corpus", "resample", "tokenise", "train", "gate", "report", "export", "index"]


def command(stage: str, model: str = "cosyvoice3") -> list[str]:
    module = "report" if stage == "index" else stage
    return ["python", "-m", f"stages.{module}"] + ([] if stage in ("corpus", "index") else ["--model", model])


def refusal(workspace: Workspace, *words: str) -> str:
    """The one line that the command `words` prints before it ends with exit code 1, having written nothing."""
    result = workspace.run(*words)
    assert result.returncode == 1, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    written = workspace.run("git", "status", "--porcelain", "--ignored").stdout
    assert not [line for line in written.splitlines() if "params.yaml" not in line], written
    return lines[0]


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_starts_with_a_wrong_setting(workspace: Workspace, stage: str) -> None:
    workspace.edit("params.yaml", lambda text: text.replace("lr: null ", "lr: -2e-06 "))
    assert refusal(workspace, *command(stage)) == "params.yaml: lr: '-2e-06' must be greater than 0"


def test_no_stage_serves_a_purpose_that_the_licence_forbids(workspace: Workspace) -> None:
    workspace.edit("params.yaml", lambda text: text.replace("intended_use: research ", "intended_use: commercial "))
    line = refusal(workspace, *command("corpus"))
    assert line.startswith("params.yaml: intended_use: ") and "fish_s2" in line and "cosyvoice3 (" not in line


def test_a_model_outside_of_the_run_is_named(workspace: Workspace) -> None:
    line = refusal(workspace, *command("report", model="nobody"))
    assert line == f"--model nobody: not among the models of params.yaml ({', '.join(yaml.safe_load((ROOT / 'params.yaml').read_text())['models'])})"


@pytest.mark.parametrize("stage", ["tokenise", "gate", "report", "index"])
def test_a_stage_without_its_input_names_the_file(workspace: Workspace, stage: str) -> None:
    line = refusal(workspace, *command(stage))
    assert line.startswith(("data/", "reports/")) and "; run " in line


def test_a_corpus_that_is_not_there_is_named(workspace: Workspace) -> None:
    workspace.edit("params.yaml", lambda text: text.replace("source: data/demo ", "source: data/my voice "))
    assert "data/my voice" in refusal(workspace, *command("corpus"))


def test_a_fault_of_ours_keeps_its_traceback(workspace: Workspace) -> None:
    result = workspace.run("python", "-c", "from stages.common.cli import run; run(lambda argv: 1 / 0)")
    assert result.returncode == 1 and "Traceback" in result.stderr and "ZeroDivisionError" in result.stderr
