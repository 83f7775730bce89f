"""What a stage cost and what it really used: one small JSON file a stage, for `dvc exp show` and for reviewers.

Metrics live in git and outside of every data output: wall times differ from run to run, data must not.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from stages.common.files import write_json

FOLDER = Path("reports/metrics")


class StageMetrics:
    """Context manager: measures wall `seconds` and `peak_mib` (resident memory), and writes them with what `set` got.

    Nothing is written when the block fails. `model` is None for stages that serve every family.
    """

    def __init__(self, stage: str, model: str | None = None, path: Path | None = None):
        self.path = path or FOLDER / (f"{stage}-{model}.json" if model else f"{stage}.json")
        self.values: dict[str, Any] = {"stage": stage} | ({"family": model} if model else {})

    def set(self, **values: Any) -> None:
        self.values |= values

    def __enter__(self) -> StageMetrics:
        self._start = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            seconds = round(time.perf_counter() - self._start, 1)
            write_json(self.path, self.values | {"seconds": seconds, "peak_mib": _peak_mib()})


def _peak_mib() -> int:
    """The most memory that this process, or the largest of its ended children, held at once (Linux counts KiB)."""
    usage = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(usage) // 1024
