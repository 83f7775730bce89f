"""Codes that a corpus brings along: its clips were never recorded, but said by a network in the codes of its own codec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from models.parts.errors import UserError

if TYPE_CHECKING:
    from models.parts.family import Contract

CODES = "codes.safetensors"  # in the folder of such a corpus, and of what stage `corpus` made of it
CONTRACT = "contract"


def write_codes(folder: Path, contract: Contract, codes: Mapping[str, np.ndarray]) -> None:
    """Int32 codes (T, K) of each clip, by its id."""
    save_file({name: np.ascontiguousarray(one, np.int32) for name, one in codes.items()}, folder / CODES, {CONTRACT: json.dumps(asdict(contract))})


def brings_codes(folder: Path) -> bool:
    return (folder / CODES).is_file()


def brought_codes(folder: Path, contract: Contract) -> dict[str, np.ndarray] | None:
    """The codes of each clip of a corpus, where it brings those of the codec of `contract`. None: it is recordings to that codec.

    UserError where another release of the same codec made them.
    """
    path = folder / CODES
    if not path.is_file():
        return None
    with safe_open(path, "np") as file:
        made = json.loads(file.metadata()[CONTRACT])
        if made["tokeniser"] != contract.tokeniser:
            return None
        if made["tokeniser_sha256"] != contract.tokeniser_sha256:
            raise UserError(f"{path}: said in the codes of another {contract.tokeniser} than these weights have; let them say the corpus anew (stage takes)")
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
