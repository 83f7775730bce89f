"""`python -m stages.gate --judge FILE.jsonl`: audio from anywhere, judged by the gate's rules.

One JSON object a line: `text`, `wav` (absolute, or relative to the file), and optionally `system`, `checkpoint` and
`tier` (by default the one that the text's length asks for). Prints a row for each, with `passed` and `reasons`. The
whole file is checked before anything is heard; audio in which nothing can be made out is a row that did not pass.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from models.parts.errors import UserError
from stages.common.audio import decode, mono
from stages.common.files import read_jsonl
from stages.common.params import GateParams
from stages.gate.floor import Corpus, from_params, noise_floor
from stages.gate.hearing import Hearing
from stages.gate.prompts import tier_of
from stages.gate.spoken import spoken
from stages.gate.verdict import TIERS, Row, judge

WORDS_PER_SECOND = 2.7  # of read English, where no corpus says better
FIELDS = ("text", "wav", "system", "checkpoint", "tier")


def judge_file(path: Path, gate: GateParams, folder: Path) -> None:
    """Print the judged rows of `path` as JSON lines. `folder`: data/corpus, whose recordings give the noise floor."""
    rows = read_jsonl(path)
    lines = [number for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), 1) if line.strip()]
    rows = [check(row, path, line) for row, line in zip(rows, lines, strict=True)]
    if (folder / "manifest.jsonl").is_file():
        corpus = Corpus(folder)
        hearing = Hearing(corpus.speaker())
        floor, pace = noise_floor(corpus, gate, hearing), corpus.stats["words_per_second"]
    else:
        print(f"{folder}: not there, so the limits are those of params.yaml, with no noise floor", file=sys.stderr)
        hearing, floor, pace = Hearing([]), from_params(gate), WORDS_PER_SECOND

    def judged(row: Row) -> Row:
        row = {**row, "tier": row["tier"] or tier_of(len(spoken(row["text"])) / pace), "finish": "stop", "error": None}
        row |= hearing.measure(row["text"], *audio_of(path.parent / row["wav"]))
        reasons = judge(row, floor.tolerances[row["tier"]])
        return row | {"passed": not reasons, "reasons": reasons}

    with ThreadPoolExecutor() as pool:
        for row in pool.map(judged, rows):
            print(json.dumps(row, ensure_ascii=False), flush=True)


def check(row: dict[str, Any], path: Path, line: int) -> Row:
    """The fields of one line, all of them; UserError naming the line for what cannot be judged."""
    where = f"{path}: line {line}"
    unknown = sorted(row.keys() - set(FIELDS))
    if unknown:
        raise UserError(f"{where}: unknown field {unknown[0]!r}; a row has {', '.join(FIELDS)}")
    for field in FIELDS:
        if not isinstance(row.get(field), str) and (field in FIELDS[:2] or row.get(field) is not None):
            raise UserError(f"{where}: {field} must be text" + ("; it is missing" if field not in row else ""))
    if not spoken(row["text"]):
        raise UserError(f"{where}: the text holds no words, so there is nothing to hear; take the row out")
    if row.get("tier") not in (None, *TIERS):
        raise UserError(f"{where}: tier {row['tier']!r} is none of {', '.join(TIERS)}; leave it out to have it chosen")
    if not (path.parent / row["wav"]).is_file():
        raise UserError(f"{where}: {path.parent / row['wav']}: no such file; paths count from {path.name}'s folder")
    audio_of(path.parent / row["wav"], where)
    return {field: row.get(field) for field in FIELDS}


def audio_of(wav: Path, where: str = "") -> tuple[np.ndarray, int]:
    """Mono audio and its rate; UserError starting with `where` for what is not audio."""
    name = f"{where}: {wav}" if where else str(wav)
    audio, rate = decode(wav.read_bytes(), name)
    return mono(audio, name), rate
