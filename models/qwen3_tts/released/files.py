"""The files of a release, as card.yaml lists them for `make weights`; upstream loads none, or wrongly, that lacks one."""

from __future__ import annotations

from pathlib import Path

import yaml

from models.parts.errors import UserError

FOLDER = "speech_tokenizer"  # of the codec, inside every release
_CARD = yaml.safe_load((Path(__file__).parents[1] / "card.yaml").read_text(encoding="utf-8"))
FILES: tuple[str, ...] = tuple(_CARD["release"]["repositories"][0]["files"])


def check_files(folder: Path) -> None:
    """UserError for the first file that `folder` lacks."""
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: not there; copy or download the whole release")
