"""Stage `takes`: a voice that released weights bring along says a corpus, whose codes are there with it.

    python -m stages.takes --model voxtral --voice casual_female      takes.texts -> data/takes/casual_female/

For weights whose codec can't encode: no recording is of any use to them, and what their own network says is in codes already.
The folder is a corpus like any other, which `corpus.source` may name. Tuning on it changes how texts are pronounced and read;
whose voice it is, it can't.

Texts are a file with a line each, or the `text` of each row of a manifest (.jsonl). In a line like `Toa Payoh | Toe-ah Pie-oh`
the network reads what stands on the right, and the corpus has what stands on the left: so is a pronunciation taught.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

import models
from models.parts.errors import UserError
from models.parts.family import Codec, Family, Generation, Sampling, Voice
from models.parts.precision import compute_device, repeatable
from stages.common.cli import run
from stages.common.codes import write_codes
from stages.common.files import SCRATCH, read_jsonl, read_text, staged, write_jsonl
from stages.common.metrics import StageMetrics
from stages.common.params import FamilyParams, load_params
from stages.common.shards import encode_flac
from stages.common.weights import identify

BATCH = 16  # texts that are said together
CHARACTERS, SPARE = 15.0, 1.0  # a second of speech, and seconds that a cap allows on top
SAID = "|"  # between how a sentence is written and how it is said
MANIFEST, AUDIO = "takes.jsonl", "audio.zip"
DATE = (1980, 1, 1, 0, 0, 0)  # in the archive: the same takes are the same bytes


@dataclass(frozen=True)
class Line:
    """One text: as it is written, and as it is said."""

    id: str
    written: str
    said: str


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.takes", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--voice", required=True)
    asked = parser.parse_args(argv)
    name, params = asked.voice, load_params()
    block = params.family(asked.model)  # once the licence allows what is intended
    with StageMetrics("takes", name) as metrics:
        # 1. The texts, the weights, and their voice.
        repeatable()
        lines, family = read_lines(params.takes.texts), models.load(asked.model)
        weights = identify(asked.model, block.weights)["sha256"]
        voice = family.preset(block.weights, name)

        # 2. Every text is said.
        scratch = SCRATCH / "takes" / name
        said = say(family, block, voice, lines, params.seed, scratch, [weights, block.dtype, block.sampling.model_dump(), name])
        good = [(line, take) for line, take in zip(lines, said, strict=True) if not fault(take)]
        if not good:
            raise UserError(f"{params.takes.texts}: {name} said none of its {len(lines)} texts to the end; take shorter sentences, or another voice")

        # 3. A corpus of it: a manifest, an archive of sound, and the codes.
        codec = family.codec(block.weights)
        target = Path("data/takes") / name
        with staged(target) as folder:
            write_jsonl(folder / MANIFEST, [row(line, take, name) for line, take in zip(lines, said, strict=True)])
            write_audio(folder / AUDIO, codec, good, voice)
            write_codes(folder, codec.contract, {line.id: take.codes for line, take in good})
        frames = sum(len(take.codes) for _, take in good)
        seconds = round(frames / codec.contract.token_rate, 1)
        metrics.set(model=asked.model, texts=len(lines), takes=len(good), frames=frames, audio_seconds=seconds)
        shutil.rmtree(scratch)
    left_out = f"; {len(lines) - len(good)} left out, the audit says why" if len(good) < len(lines) else ""
    print(f"{target}: {len(good)} takes, {seconds / 60:.1f} minutes{left_out}")


def read_lines(path: Path) -> list[Line]:
    """The texts of a file. UserError for one without, and for a line that is half empty."""
    if not path.is_file():
        raise UserError(f"params.yaml: takes.texts: {path}: no such file; name a text file with a line for each sentence, or a manifest (.jsonl)")
    if path.suffix == ".jsonl":
        rows = [(number, row) for number, row in enumerate(read_jsonl(path), 1) if "exclude" not in row]
        if wrong := [number for number, row in rows if not isinstance(row.get("text"), str)]:
            raise UserError(f'{path}: row {wrong[0]}: has no "text"; each row needs one')
        found = [(number, row["text"]) for number, row in rows]
    else:
        written = enumerate(read_text(path).split("\n"), 1)  # not splitlines: texts may hold U+2028
        found = [(number, line) for number, line in written if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise UserError(f"{path}: no text in it; write a sentence on each line")
    return [_line(path, number, text) for number, text in found]


def _line(path: Path, number: int, text: str) -> Line:
    written, *said = (part.strip() for part in text.split(SAID))
    if len(said) > 1 or not all([written, *said]):
        raise UserError(f"{path}: line {number}: must be a sentence, or how it is written, one {SAID}, and how it is said")
    return Line(f"{number:05d}", written, said[0] if said else written)


def say(
    family: Family, block: FamilyParams, voice: Voice, lines: Sequence[Line], seed: int, scratch: Path, made_with: list[Any]
) -> list[Generation]:  # fmt: skip
    """One take a line. Batches of texts of like length, each kept in `scratch` under what went into it, so that a killed run
    goes on where it stopped."""
    scratch.mkdir(parents=True, exist_ok=True)
    order = sorted(range(len(lines)), key=lambda place: (len(lines[place].said), place))
    network: torch.nn.Module | None = None
    takes: dict[int, Generation] = {}
    for start in tqdm(range(0, len(order), BATCH), desc=f"takes {voice.speaker}", unit="batch", disable=None):
        places = order[start : start + BATCH]
        texts = [lines[place].said for place in places]
        seeds = [_seed(seed, text) for text in texts]
        file = scratch / f"{hashlib.sha256(json.dumps([*made_with, texts, seeds]).encode()).hexdigest()[:32]}.safetensors"
        if not file.is_file():
            network = network or family.network(block.weights, block.torch_dtype, compute_device())
            sampling = Sampling(**block.sampling.model_dump())
            caps = [_cap(text, sampling, family.card["token_rate"]) for text in texts]
            _keep(file, family.generate(network, texts, voice, sampling, seeds, caps))
        takes |= dict(zip(places, _kept(file), strict=True))
    return [takes[place] for place in range(len(lines))]


def _seed(seed: int, text: str) -> int:
    """Of a take: another text beside it changes nothing."""
    return (seed + int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")) % 2**32


def _cap(text: str, sampling: Sampling, token_rate: float) -> int:
    """Most frames that `text` may take."""
    return round((len(text) / CHARACTERS * sampling.max_ratio + SPARE) * token_rate)


def _keep(file: Path, takes: Sequence[Generation]) -> None:
    partial = file.with_suffix(".partial")
    save_file({f"{place}.{take.finish}": take.codes for place, take in enumerate(takes)}, partial)
    partial.rename(file)


def _kept(file: Path) -> list[Generation]:
    found = sorted((int(place), finish, codes) for key, codes in load_file(file).items() for place, finish in [key.split(".")])
    return [Generation(codes, finish, np.zeros(0, np.float32)) for _, finish, codes in found]


def fault(take: Generation) -> str:
    """Why a take is no clip of the corpus; empty where it is one."""
    if not len(take.codes):
        return "nothing was said: the network stopped at once"
    return "it never stopped by itself" if take.finish == "length" else ""


def row(line: Line, take: Generation, speaker: str) -> dict[str, str]:
    found = {"audio": f"{AUDIO}/{line.id}.flac", "text": line.written, "id": line.id, "speaker": speaker}
    return found | ({"exclude": why} if (why := fault(take)) else {})


def write_audio(path: Path, codec: Codec, good: Sequence[tuple[Line, Generation]], voice: Voice) -> None:
    """An archive of FLAC, 24 bit; what goes beyond full scale is clipped."""
    with zipfile.ZipFile(path, "w") as archive:
        for start in tqdm(range(0, len(good), BATCH), desc="takes: sound", unit="batch", disable=None):
            batch = good[start : start + BATCH]
            for (line, _), wave in zip(batch, codec.render([take for _, take in batch], voice), strict=True):
                archive.writestr(zipfile.ZipInfo(f"{line.id}.flac", DATE), encode_flac(wave, codec.output_sample_rate))


if __name__ == "__main__":
    run(main)
