"""Whether the gate's ears catch what can be wrong with a take, from takes of natural voices in which it was planted.

    python -m stages.bench.gate --texts 12          (make bench-gate)
    python -m stages.bench.gate --retest 5          the gate itself, with five seeds: stages/bench/retest.py

Kokoro's voices read the gate's own general texts; each take is heard and judged as the gate does, against a noise floor
of other takes of the same voice. What was read and heard is kept in `.scratch`, by content.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import soundfile as sf
from tqdm import tqdm

from models.parts.errors import UserError
from stages.bases.kokoro import SAMPLE_RATE, Kokoro, Reading, Word
from stages.bench.defects import CLEAN, DEFECTS
from stages.bench.retest import retest, share
from stages.common.cli import run
from stages.common.files import SCRATCH, read_json, read_jsonl, sha256, staged, write_json, write_jsonl
from stages.common.parallel import Workers
from stages.common.params import Params, load_params, read_params
from stages.gate.audio import write_flac
from stages.gate.hearing import Hearing
from stages.gate.judging import TOGETHER, WORDS_PER_SECOND
from stages.gate.keys import key
from stages.gate.listener import Listener
from stages.gate.prompts import TIERS, Prompt, general
from stages.gate.speaker import Speaker
from stages.gate.verdict import Row, judged, measured, tolerance

HOME = SCRATCH / "bench/gate"
SPEAKERS = ("af_heart", "bm_george", "am_michael")
FLOOR = "floor"       # what a row is for: the noise floor, or a key of DEFECTS
FLOOR_TAKES = 4       # of each speaker and length
EARS = Path("stages/gate")  # what is heard of a take depends on its code, as it does in the gate
Job = tuple[Prompt, str, bool]  # a text, who reads it, and whether for the noise floor


class Voice(Protocol):
    """What reads: Kokoro, or another that tells when each word begins."""

    def words(self, text: str, voice: str) -> list[Word]: ...

    def read(self, words: Sequence[Word], voice: str) -> Reading: ...


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.bench.gate", description=__doc__.split("\n")[0])
    parser.add_argument("--texts", type=int, default=12, help="takes of each length that defects are planted in")
    parser.add_argument("--retest", type=int, metavar="SEEDS", help="run the gate with so many seeds instead")
    asked = parser.parse_args(argv)
    if asked.retest:
        print(retest(load_params(), asked.retest))
    else:
        params = read_params()  # what a released model is asked: without the lenience of the small ones
        takes = planted(jobs(asked.texts), Kokoro)
        print(table(verdicts(takes, heard(takes, params), params)))


# --- the takes --------------------------------------------------------------------------------------------------------


def jobs(texts: int) -> list[Job]:
    """Of each length so many texts for defects, then those of the noise floor. Each text goes to one speaker, and to the
    next one when all texts have been read."""
    found: list[Job] = []
    for tier in TIERS:
        prompts = sorted(general("en", tier, WORDS_PER_SECOND), key=lambda prompt: hashlib.sha256(prompt.id.encode()).digest())
        asked = [
            (prompt, SPEAKERS[(at + lap) % len(SPEAKERS)]) for lap in range(len(SPEAKERS)) for at, prompt in enumerate(prompts)
        ]  # fmt: skip
        most = len(asked) - 2 * FLOOR_TAKES * len(SPEAKERS)
        if not 0 < texts <= most:
            raise UserError(f"TEXTS={texts}: there are texts for 1 to {most} takes of a length")
        found += [(prompt, speaker, False) for prompt, speaker in asked[:texts]]
        for speaker in SPEAKERS:
            found += [(prompt, speaker, True) for prompt, who in asked[texts:] if who == speaker][:FLOOR_TAKES]
    return found


def planted(asked: Sequence[Job], voice: Callable[[], Voice]) -> list[Row]:
    """The takes of `asked`, each clean and with every defect: `wav`, `text`, `defect`, `causes`, `voice`, `length`, `where`
    (seconds), and the words in which it is `planted`. They are kept."""
    code = [sha256(Path(__file__).with_name("defects.py")), sha256(Path("stages/bases/kokoro.py"))]
    folders = [HOME / "takes" / key(code, prompt.id, prompt.text, speaker, floor) for prompt, speaker, floor in asked]

    def start() -> Callable[[tuple[Path, Job]], None]:
        reader = voice()
        return lambda item: plant(reader, *item)

    missing = [(folder, job) for folder, job in zip(folders, asked, strict=True) if not folder.is_dir()]
    if missing:
        voice()  # fetched once, and what is missing told before any work
        with Workers(start) as workers:
            list(tqdm(workers.map(missing), total=len(missing), desc="read and plant", unit="text", disable=None))
    return [row | {"wav": str(folder / row["wav"])} for folder in folders for row in read_jsonl(folder / "rows.jsonl")]


def plant(voice: Voice, target: Path, job: Job) -> None:
    """A folder with the takes of one text and rows.jsonl."""
    prompt, speaker, floor = job
    reading, rows = voice.read(voice.words(prompt.text, speaker), speaker), []
    with staged(target) as folder:
        for name, defect in ({CLEAN: DEFECTS[CLEAN]} if floor else DEFECTS).items():
            take = defect.plant(reading, random.Random(f"{name}/{prompt.id}/{speaker}"), lambda words: voice.read(words, speaker))
            if take:
                wav = f"{name.replace(' ', '-').replace('%', 'percent')}.flac"
                write_flac(folder / wav, take.audio, SAMPLE_RATE)
                rows.append({
                    "wav": wav, "text": prompt.text, "defect": FLOOR if floor else name, "causes": defect.causes,
                    "voice": speaker, "length": prompt.tier, "where": take.where, "planted": take.words,
                })  # fmt: skip
        write_jsonl(folder / "rows.jsonl", rows)


# --- the ears ---------------------------------------------------------------------------------------------------------


def heard(takes: Sequence[Row], params: Params) -> list[dict[str, Any]]:
    """What the gate hears of each take. Kept by what is in the file, so that takes are heard once."""
    ears = key([sha256(path) for path in sorted(EARS.glob("*.py"))], params.gate.listener, params.corpus.language)
    kept = [HOME / "heard" / ears / f"{sha256(Path(take['wav']))[:24]}.json" for take in takes]

    def start() -> Callable[[Sequence[tuple[Row, Path]]], None]:
        hearing = Hearing(Listener(params.gate.listener, params.corpus.language), Speaker())

        def hear(some: Sequence[tuple[Row, Path]]) -> None:
            found = hearing.hear([sf.read(take["wav"], dtype="float32") for take, _ in some], [take["text"] for take, _ in some])
            for (_, path), one in zip(some, found, strict=True):
                write_json(path, one)

        return hear

    missing = [(take, path) for take, path in zip(takes, kept, strict=True) if not path.is_file()]
    if missing:
        batches = [missing[at : at + TOGETHER] for at in range(0, len(missing), TOGETHER)]
        with Workers(start) as workers:
            list(tqdm(workers.map(batches), total=len(batches), desc="listen", unit="batch", disable=None))
    return [read_json(path) for path in kept]


def verdicts(takes: Sequence[Row], heard: Sequence[dict[str, Any]], params: Params) -> list[Row]:
    """The takes with defects and the clean ones, judged: with `passed`, `reasons`, and whether the right cause is `named`."""
    rows = [
        {**take, "finish": "stop", "error": None, **measured(take["text"], what)} for take, what in zip(takes, heard, strict=True)
    ]

    def group(row: Row) -> tuple[str, str]:
        return row["voice"], row["length"]

    floors: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["defect"] == FLOOR:
            floors.setdefault(group(row), []).append(row)
    allowed = {which: tolerance(recordings, params.gate, WORDS_PER_SECOND) for which, recordings in floors.items()}
    found = [judged(row, allowed[group(row)]) for row in rows if row["defect"] != FLOOR]
    return [row | {"named": DEFECTS[row["defect"]].named(row["reasons"], row["planted"])} for row in found]


# --- the table --------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """Of each defect and length how many takes failed, and how many for the right reason; of good takes, how many failed."""
    lines = [f"{'planted':<28} {'takes':>6} {'caught':>12} {'cause named':>12}   " + "  ".join(f"{tier:>7}" for tier in TIERS)]
    for name in DEFECTS:
        some = [row for row in rows if row["defect"] == name]
        failed = [row for row in some if not row["passed"]]
        good = name == CLEAN
        hit = failed if good else [row for row in some if row["named"]]
        lengths = "  ".join(f"{_of(hit, [row for row in some if row['length'] == tier], tier):>7}" for tier in TIERS)
        named = "" if good else share(len(hit), len(some))
        lines.append(f"{'nothing (failed in error)' if good else name:<28} {len(some):>6} {share(len(failed), len(some)):>12} {named:>12}   {lengths}")
    return "\n".join(lines)


def _of(hit: Sequence[Row], some: Sequence[Row], tier: str) -> str:
    return f"{sum(row['length'] == tier for row in hit)}/{len(some)}"


if __name__ == "__main__":
    run(main)
