"""The runs side by side: what each one changed, and what came of it.

    python -m stages.compare

A row is one family, or one system from elsewhere, in one run of `dvc exp show`, which itself gives every metric of every family a column of its own.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

from models.parts.errors import UserError
from stages.common.cli import run
from stages.common.metrics import FOLDER

# Column, the stage whose metrics hold it, and its name there.
COLUMNS = (
    ("lr", "train", "lr"),
    ("rank", "train", "rank"),
    ("epochs", "train", "epochs"),
    ("validation loss: base", "train", "base_validation_loss"),
    ("last", "train", "last_validation_loss"),
    ("promoted", "gate", "promoted"),
    ("word error rate", "gate", "word_error_rate"),
    ("similarity", "gate", "similarity"),
    ("scale", "gate", "scale"),
)
STAGES = ("train", "gate")


def main(_: list[str]) -> None:
    shown = subprocess.run(["dvc", "exp", "show", "--json"], capture_output=True, text=True)
    if shown.returncode:
        raise UserError(f"dvc exp show: {shown.stderr.strip().removeprefix('ERROR: ')}")
    print(table(json.loads(shown.stdout)))


def table(shown: list[dict[str, Any]]) -> str:
    """Markdown, columns aligned. `shown` is what `dvc exp show --json` prints."""
    header = ["run", "family", *(column for column, _, _ in COLUMNS), "changed"]
    rows = [header, *_runs(shown)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(header))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)


def _runs(shown: list[dict[str, Any]]) -> Iterator[list[str]]:
    """The rows of the workspace, which started from the last commit, of that commit, and of its experiments."""
    commit = _settings(shown[-1]["data"])
    for revision in shown:
        name = revision["name"] or revision["rev"]
        yield from _families(name, revision["data"], commit)
        for experiment in revision["experiments"] or []:
            latest = experiment["revs"][0]
            yield from _families(experiment["name"] or latest["rev"][:7], latest["data"], commit)


def _families(name: str, data: dict[str, Any] | None, before: dict[str, Any]) -> Iterator[list[str]]:
    """One row a family of a run, and one a system from elsewhere; none for an experiment that failed or waits in the queue."""
    settings, metrics = _settings(data), (data or {}).get("metrics") or {}
    changed = [f"{key}={_text(value)}" for key, value in settings.items() if before.get(key) != value]
    for family in [*settings.get("models", []), *settings.get("external", [])]:
        found = {stage: metrics.get(f"{FOLDER}/{stage}-{family}.json", {}).get("data", {}) for stage in STAGES}
        yield [name, family, *(_text(found[stage].get(key)) for _, stage, key in COLUMNS), " ".join(changed)]


def _settings(data: dict[str, Any] | None) -> dict[str, Any]:
    """params.yaml of a run, flat: dotted key to value."""

    def flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from flat(inner, f"{key}.{name}" if key else name)
        else:
            yield key, value

    return dict(flat((data or {}).get("params", {}).get("params.yaml", {}).get("data", {}), ""))


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("'", "")


if __name__ == "__main__":
    run(main)
