"""A tokenised set on disk: train, validation and test in the family's own format, the contract, and the voice."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from models.parts.errors import UserError
from models.parts.family import Contract, Example, Family, Voice
from stages.common.files import REFERENCE, read_json, write_json
from stages.common.shards import Shards

SPLITS = ("train", "validation", "test")


def write_contract(folder: Path, contract: Contract, utterances: dict[str, int]) -> None:
    """`utterances`: how many each split holds, since a shard that is cut between two records looks whole."""
    write_json(folder / "contract.json", asdict(contract) | {"utterances": utterances})


def read_contract(folder: Path) -> Contract:
    """The contract of a tokenised set; UserError when there is none or it is of another form."""
    values = _record(folder)
    del values["utterances"]
    return Contract(**(values | {"vocabulary": tuple(values["vocabulary"])}))


def read_split(family: Family, folder: Path, split: str, audio: Shards | None = None) -> list[Example]:
    """The utterances of a split, with their recordings where `audio` has them; UserError if there are not as many as were written."""
    examples, written = family.read(folder / split), _record(folder)["utterances"].get(split)
    if len(examples) != written:
        raise UserError(f"{folder / split}: {len(examples)} utterances, but {folder}/contract.json says {written}; run `dvc checkout` or the tokenise stage again")
    if audio is None:
        return examples
    return [replace(example, audio=partial(_recording, audio, example.id)) for example in examples]


def _recording(audio: Shards, clip_id: str) -> np.ndarray:
    return audio[clip_id].audio


def _record(folder: Path) -> dict[str, Any]:
    path = folder / "contract.json"
    if not path.is_file():
        raise UserError(f"{path}: not there, so nobody knows what made these tokens; run the tokenise stage")
    values: dict[str, Any] = read_json(path)
    if not isinstance(values, dict) or values.keys() != {*Contract.__dataclass_fields__, "utterances"}:
        raise UserError(f"{path}: not a contract record; delete {folder} and run the tokenise stage again")
    return values


def write_voice(folder: Path, voice: Voice) -> None:
    if len(voice.reference):
        sf.write(folder / REFERENCE, voice.reference, voice.reference_rate, subtype="FLOAT")  # what was measured, to the digit
    write_json(folder / "voice.json", {
        "speaker": voice.speaker,
        "speaker_embedding": [float(value) for value in voice.speaker_embedding],
        "prompts": [{"id": p.id, "text": p.text, "codes": p.codes.tolist()} for p in voice.prompts],
    })


def read_voice(folder: Path) -> Voice:
    """The speaker as the tokenise stage measured them; float32 values come back exactly."""
    values = read_json(folder / "voice.json")
    prompts = tuple(Example(p["id"], p["text"], values["speaker"], _codes(p["codes"])) for p in values["prompts"])
    voice = Voice(values["speaker"], np.array(values["speaker_embedding"], np.float32), prompts)
    if (folder / REFERENCE).is_file():
        reference, rate = sf.read(folder / REFERENCE, dtype="float32")
        voice = replace(voice, reference=reference, reference_rate=rate)
    return voice


def _codes(rows: list[list[float]]) -> np.ndarray:
    """Whole numbers are codes, others are values."""
    codes = np.array(rows)
    return codes.astype(np.float32 if codes.dtype.kind == "f" else np.int32)
