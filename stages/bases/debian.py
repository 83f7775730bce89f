"""What the bases take from Debian's packages: recordings of people and example sentences. Downloaded once, never installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from models.parts.errors import UserError

DOWNLOADS = Path(".scratch/bases/packages")


def unpacked(package: str, folder: Path) -> Path:
    """The contents of a package below `folder`."""
    target = folder / package
    if not target.is_dir():
        if not shutil.which("apt-get"):
            raise UserError(f"apt-get: not found; {package} comes from Debian's packages")
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True)
        (archive,) = folder.glob(f"{package}_*.deb")
        partial = target.with_suffix(".partial")
        subprocess.run(["dpkg", "-x", archive.name, partial.name], cwd=folder, check=True)
        partial.rename(target)
    return target
