"""A copy of the repository whose pipeline is one quick stage, to send through queues and clusters."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests.conftest import Workspace

METRICS = "reports/metrics/train-cosyvoice3.json"
# What a run finds: its settings and the released weights; the one at 3e-6 fails.
STAGE = """
import json, pathlib, yaml
params = yaml.safe_load(open("params.yaml"))
assert params["lr"] not in (3e-6, "3e-06")
weights = sorted(str(path) for path in pathlib.Path("data/weights").rglob("*") if path.is_file() and path.name != ".gitignore")
found = {"lr": params["lr"] and float(params["lr"]), "weights": " ".join(weights)}  # DVC shows no lists
pathlib.Path("reports/metrics/train-cosyvoice3.json").write_text(json.dumps(found))
"""
QUICK = {
    "cmd": "python quick.py",
    "params": ["profile", "models", "lr", "gate", "cosyvoice3"],
    "metrics": [{METRICS: {"cache": False}}],
}


def make_quick(workspace: Workspace, stage: str = STAGE, **before: dict[str, Any]) -> None:
    """Leave `workspace` with the stage that runs `stage`, and those `before` it, committed."""
    (workspace.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {**before, "quick": QUICK | {"deps": [out for one in before.values() for out in one["outs"]]}}}))
    for name in ("dvc.lock", METRICS):
        (workspace.root / name).unlink()
    (workspace.root / "quick.py").write_text(stage)
    commit(workspace)


def commit(workspace: Workspace) -> None:
    for command in (["git", "add", "-A"], ["git", "commit", "-qm", "quick"]):
        done = workspace.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr


def bring(workspace: Workspace) -> list[str]:
    """Something where the released weights are, which git ignores."""
    names = ["data/weights/cosyvoice3/CosyVoice-BlankEN/config.json", "data/weights/cosyvoice3/llm.safetensors"]
    for name in names:
        (workspace.root / name).parent.mkdir(exist_ok=True)
        (workspace.root / name).write_text(name)
    return names


def runs(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """The experiments of the last commit by name: their metrics, and their params.yaml."""
    shown = json.loads(workspace.run("dvc", "exp", "show", "--json").stdout)
    found = {}
    for experiment in shown[-1]["experiments"] or []:
        data = experiment["revs"][0]["data"]
        if metrics := data["metrics"].get(METRICS, {}).get("data"):  # one that failed has none
            found[experiment["name"]] = metrics | {"params": data["params"]["params.yaml"]["data"]}
    return found
