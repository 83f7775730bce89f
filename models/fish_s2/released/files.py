"""The files of a release, as card.yaml lists them for `make weights`, and what they are called here."""

from __future__ import annotations

from pathlib import Path

import yaml

from models.parts.errors import UserError

PICKLE, CODEC = "codec.pth", "codec.safetensors"  # `make weights` turns the one into the other
INDEX = "model.safetensors.index.json"  # says which tensor of the language model is in which shard
_CARD = yaml.safe_load((Path(__file__).parents[1] / "card.yaml").read_text(encoding="utf-8"))
FILES: tuple[str, ...] = tuple(CODEC if name == PICKLE else name for name in _CARD["release"]["repositories"][0]["files"])
SHARDS = tuple(name for name in FILES if name.startswith("model-"))


def check_files(folder: Path) -> None:
    """UserError for the first file that `folder` lacks."""
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: not there; bring the whole release in with `make weights MODEL=fish_s2`")
