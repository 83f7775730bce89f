"""The files of a release, as card.yaml lists them for `make weights`, and what they are called here."""

from __future__ import annotations

from pathlib import Path

import yaml

from models.parts.errors import UserError

PICKLE, VAE = "audiovae.pth", "audiovae.safetensors"  # `make weights` turns the one into the other
_CARD = yaml.safe_load((Path(__file__).parents[1] / "card.yaml").read_text(encoding="utf-8"))
REPOSITORY = _CARD["release"]["repositories"][0]
FILES: tuple[str, ...] = tuple(VAE if name == PICKLE else name for name in REPOSITORY["files"])


def check_files(folder: Path) -> None:
    """UserError for the first file that `folder` lacks."""
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: not there; bring the whole release in with `make weights MODEL=voxcpm`")
