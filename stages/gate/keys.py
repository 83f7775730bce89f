"""What is kept in .scratch: its names, which are the same for the same inputs and code, and who may make it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from stages.common.files import sha256


def key(*inputs: Any) -> str:
    """The same for inputs that are the same as JSON."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]


def code_of(*folders: str) -> str:
    """One hash of the Python files in `folders`."""
    return key([[path.as_posix(), sha256(path)] for folder in folders for path in sorted(Path(folder).rglob("*.py"))])


def alone(kept: Path) -> FileLock:
    """Held while `kept` is made, since another family's gate may want the same meanwhile."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(kept.with_name(f".{kept.name}.lock"))
