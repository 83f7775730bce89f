"""`python -m stages.gate --judge FILE.jsonl`: audio from anywhere, judged by the gate's rules.

One JSON object a line: `text`, `wav` (absolute, or relative to the file), and optionally `system`, `checkpoint` and
`tier` (by default the one that the text's length asks for). Prints a row for each, with `passed` and `reasons`. The
whole file is checked before anything is heard; audio in which nothing can be made out is a row that did not pass.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from models.parts.errors import UserError
from stages.common.files import read_jsonl
from stages.common.params import Params
from stages.gate.audio import read_audio
from stages.gate.corpus import CORPUS, Corpus
from stages.gate.exam import Listening
from stages.gate.floor import noise_floor, recorded
from stages.gate.hearing import Hearing
from stages.gate.listener import Listener
from stages.gate.prompts import TIERS, tier_of
from stages.gate.speaker import Speaker
from stages.gate.spoken import spoken
from stages.gate.verdict import Row, judged, measured

WORDS_PER_SECOND = 2.7  # of read English, where no corpus says better
TOGETHER = 16  # takes that are heard before their rows are printed
FIELDS = ("text", "wav", "system", "checkpoint", "tier")


def judge_file(path: Path, params: Params) -> None:
    """Print the judged rows of `path` as JSON lines. The recordings of data/corpus give the noise floor."""
    rows = read_jsonl(path)
    lines = [number for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), 1) if line.strip()]
    rows = [check(row, path, line) for row, line in zip(rows, lines, strict=True)]
    pace, heard, speaker = WORDS_PER_SECOND, [], Speaker()
    if (CORPUS / "manifest.jsonl").is_file():
        corpus = Corpus(CORPUS)
        pace = corpus.stats["words_per_second"]
        with Listening(params, corpus) as listening:
            heard = listening.recordings(recorded(corpus), "noise floor")
        speaker = corpus.speaker()
    else:
        print(f"{CORPUS}: not there, so the limits are those of params.yaml, with no noise floor", file=sys.stderr)
    floor, hearing = noise_floor(heard, params.gate, pace), Hearing(Listener(params.gate.listener, params.corpus.language), speaker)

    for some in (rows[start : start + TOGETHER] for start in range(0, len(rows), TOGETHER)):
        heard = hearing.hear([read_audio(path.parent / row["wav"]) for row in some], [row["text"] for row in some])
        for row, said in zip(some, heard, strict=True):
            row = {**row, "tier": row["tier"] or tier_of(len(spoken(row["text"])) / pace), "finish": "stop", "error": None}
            print(json.dumps(judged(row | measured(row["text"], said), floor.tolerances[row["tier"]]), ensure_ascii=False), flush=True)


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
    read_audio(path.parent / row["wav"], where)
    return {field: row.get(field) for field in FIELDS}
