"""The files of a release, as card.yaml lists them for `make weights`."""

from __future__ import annotations

from pathlib import Path

from models.parts.errors import UserError
from models.voxtral.names import FILE
from models.voxtral.released.voices import voice_files

CONFIG, TOKENIZER = "params.json", "tekken.json"
FILES = (FILE, CONFIG, TOKENIZER)


def check_files(folder: Path) -> None:
    """UserError for the first file that `folder` lacks."""
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: not there; bring the whole release in with `make weights MODEL=voxtral`")
    voice_files(folder)
