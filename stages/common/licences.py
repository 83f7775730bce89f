"""What the licences of the weights allow: `intended_use: commercial` refuses what they forbid, before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from models.parts.errors import UserError

MODELS = Path(__file__).parents[2] / "models"


def families() -> list[str]:
    """Every family that is here: the folders of models/ with a card."""
    return sorted(path.parent.name for path in MODELS.glob("*/card.yaml"))


def card(name: str) -> dict[str, Any]:
    facts: dict[str, Any] = yaml.safe_load((MODELS / name / "card.yaml").read_text(encoding="utf-8"))
    return facts


def check(intended_use: str, licences: dict[str, dict[str, Any]]) -> None:
    """UserError naming the families whose weights' licence, the card's, does not let them serve `intended_use`; where it is
    disputed whether it does, that is said."""
    if intended_use != "commercial":
        return
    refused = {name: licence["name"] for name, licence in licences.items() if not licence["commercial"]}
    if refused:
        named = ", ".join(f"{name} ({licence})" for name, licence in refused.items())
        rest = [name for name in licences if name not in refused]
        way_out = f"narrow the run with -S 'models=[{','.join(rest)}]'" if rest else "choose another family"
        raise UserError(
            f"params.yaml: intended_use: the weights' licence forbids commercial use: {named}; "
            f"{way_out}, or set intended_use: research"
        )
    for name, licence in licences.items():
        if "disputed" in licence:
            print(f"params.yaml: intended_use: commercial: {name}: {licence['disputed']}")
