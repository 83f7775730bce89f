"""A tokenised set on disk: train, validation and test in the family's own format, the contract, and the voice."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from models.parts.errors import UserError
from models.parts.family import Contract, Example, Family, Voice
from stages.common.files import read_json, write_json

SPLITS = ("train", "validation", "test")


def write_contract(folder: Path, contract: Contract, utterances: dict[str, int]) -> None:
    """`utterances`: how many each split holds, since a shard that is cut between two records looks whole."""
    write_json(folder / "contract.json", asdict(contract) | {"utterances": utterances})


def read_contract(folder: Path) -> Contract:
    """The contract of a tokenised set; UserError when there is none or it is of another form."""
    values = _record(folder)
    del values["utterances"]
    return Contract(**(values | {"vocabulary": tuple(values["vocabulary"])}))


def read_split(family: Family, folder: Path, split: str) -> list[Example]:
    """The utterances of a split; UserError if there are not as many as were written."""
    examples, written = family.read(folder / split), _record(folder)["utterances"].get(split)
    if len(examples) != written:
        raise UserError(f"{folder / split}: {len(examples)} utterances, but {folder}/contract.json says {written}; run `dvc checkout` or the tokenise stage again")
    return examples


def _record(folder: Path) -> dict[str, Any]:
    path = folder / "contract.json"
    if not path.is_file():
        raise UserError(f"{path}: not there, so nobody knows what made these tokens; run the tokenise stage")
    values: dict[str, Any] = read_json(path)
    if not isinstance(values, dict) or values.keys() != {*Contract.__dataclass_fields__, "utterances"}:
        raise UserError(f"{path}: not a contract record; delete {folder} and run the tokenise stage again")
    return values


def write_voice(folder: Path, voice: Voice) -> None:
    write_json(folder / "voice.json", {
        "speaker": voice.speaker,
        "speaker_embedding": [float(value) for value in voice.speaker_embedding],
        "prompts": [{"id": p.id, "text": p.text, "codes": p.codes.tolist()} for p in voice.prompts],
    })


def read_voice(folder: Path) -> Voice:
    """The speaker as the tokenise stage measured them; float32 values come back exactly."""
    values = read_json(folder / "voice.json")
    prompts = tuple(Example(p["id"], p["text"], values["speaker"], np.array(p["codes"], np.int32)) for p in values["prompts"])
    return Voice(values["speaker"], np.array(values["speaker_embedding"], np.float32), prompts)
