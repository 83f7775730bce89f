"""The families: `load("cosyvoice3")` gives the object that the stages talk to."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from models.parts.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to load, and not every stage needs it
    from models.parts.family import Family


def names() -> list[str]:
    """Every family that is here: the folders of `models/` with a card."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/card.yaml"))


def load(name: str) -> Family:
    if name not in names():
        raise UserError(f"params.yaml: models: no family called {name!r}; there are {', '.join(names())}")
    family: Family = importlib.import_module(f"models.{name}").FAMILY()
    return family
