"""Stage `corpus`: recordings and their texts become one manifest and packed audio, after an audit of every clip.

    python -m stages.corpus        -> data/corpus/  reports/corpus/  reports/metrics/corpus.json

Whatever is wrong is found before anything is written, and told at once. The layouts that a corpus may have are listed
in stages/corpus/sources.py, the measurements in stages/corpus/audit.py.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from models.parts.errors import UserError
from stages.common.cli import run
from stages.common.files import staged, write_json, write_jsonl
from stages.common.metrics import StageMetrics
from stages.common.parallel import in_order
from stages.common.params import CorpusParams, load_params
from stages.common.shards import Clip, pcm_sha256, write_shards
from stages.corpus import audit
from stages.corpus.audit import Examined
from stages.corpus.page import write_page
from stages.corpus.sources import Finding, Source, read_source

DATA = Path("data/corpus")
REPORT = Path("reports/corpus")
SPLITS = ("train", "validation", "test")
SHOWN = 20  # errors that are told one by one
SENTENCE = 4  # words: shorter texts say little of the speaking rate, and the gate does not prompt with them


def main(argv: list[str]) -> None:
    params = load_params().corpus
    with StageMetrics("corpus") as metrics:
        metrics.set(**build(params, DATA, REPORT))


def build(params: CorpusParams, data: Path, report: Path) -> dict[str, Any]:
    """Audit the corpus of `params` and write it to `data` and `report`. Returns what the metrics should say of it."""
    source = read_source(params.source, params.speaker, params.language)
    examined = audit.examine(source.utterances, params.trim_db, params.keep_silence)
    clips, left_out, errors = choose(examined, params)
    stop_on([*source.errors, *errors], source)
    rows = [manifest_row(clip, split_of(clip.utterance.text, params)) for clip in clips]
    stop_on(split_problems(rows, params), source)

    left_out = [*source.left_out, *left_out]
    warnings = [*audit.warnings(clips), *test_warnings(rows)]
    repeated = audit.repeated({row["id"]: sentence(row["text"]) for row in rows})
    stats = statistics(rows)
    with staged(data) as folder, staged(report) as page:
        write_jsonl(folder / "manifest.jsonl", rows)
        write_shards(folder, packed(clips))
        write_json(folder / "stats.json", stats)
        record = {
            "source": str(params.source),
            "kind": source.kind,
            "clips": [clip_record(clip, row) for clip, row in zip(clips, rows, strict=True)],
            "warnings": [asdict(warning) for warning in warnings],
            "left_out": [asdict(one) for one in left_out],
            "repeated_texts": repeated,
        }
        write_json(page / "audit.json", record)
        write_page(page, record, stats)
    counts = ", ".join(f"{split} {stats['splits'][split]['clips']}" for split in SPLITS)
    print(f"{data}: {len(rows)} clips, {stats['seconds'] / 60:.1f} minutes ({counts})")
    print(f"{report}/index.html: the audit; warnings {len(warnings)}, clips left out {len(left_out)}")
    reasons = [{"clip": one.source, "reason": one.what} for one in left_out]
    return {
        "source": str(params.source),
        "clips": len(rows),
        "audio_seconds": stats["seconds"],
        "words_per_second": stats["words_per_second"],
        "splits": stats["splits"],
        "warnings": len(warnings),
        "left_out": reasons,
    }


def stop_on(errors: Sequence[Finding], source: Source) -> None:
    """Tell every error in a line of its own, the first `SHOWN` of them, and stop."""
    if not errors:
        return
    lines = [str(error) for error in errors[:SHOWN]]
    if len(errors) > SHOWN:
        lines.append(f"... and {len(errors) - SHOWN} more")
    print("\n".join(lines), file=sys.stderr)
    raise UserError(f"{source.root}: {len(errors)} to mend, listed above; nothing was written")


def choose(examined: Sequence[Examined], params: CorpusParams) -> tuple[list[Examined], list[Finding], list[Finding]]:
    """The clips to take, the ones to leave out with the reason, and the errors."""
    errors = [error for one in examined for error in one.errors]
    twice = {}
    for first, later in audit.same_audio(examined):
        twice[later.id] = f"the same audio as {first.source}"
        if sentence(first.text) != sentence(later.text):
            what = f"the same audio as {first.source}, with another text; correct one, or take it out of the corpus"
            errors.append(Finding(later.source, what))
    clips, left_out = [], []
    for one in examined:
        if one.measures is None:
            continue
        kept = one.measures.kept
        reason = twice.get(one.utterance.id)
        if kept < params.min_seconds:
            reason = f"{kept:.2f} s, shorter than corpus.min_seconds ({params.min_seconds:g} s)"
        elif kept > params.max_seconds:
            reason = f"{kept:.2f} s, longer than corpus.max_seconds ({params.max_seconds:g} s)"
        if reason:
            left_out.append(Finding(one.utterance.source, reason))
        else:
            clips.append(one)
    return clips, left_out, errors


def sentence(text: str) -> str:
    """What makes two texts the same sentence: their words, without case, punctuation and spacing."""
    return " ".join(re.sub(r"[^\w\s]|_", "", text.casefold()).split())


def split_of(text: str, params: CorpusParams) -> str:
    """The split of a sentence. Its hash alone decides, so it stays there whatever else the corpus gains or loses."""
    place = int.from_bytes(hashlib.sha256(sentence(text).encode()).digest()[:8], "big") / 2**64
    if place < params.test:
        return "test"
    return "validation" if place < params.test + params.validation else "train"


def manifest_row(clip: Examined, split: str) -> dict[str, Any]:
    utterance, it = clip.utterance, clip.measures
    assert it is not None  # `choose` takes no clip without
    return {
        "id": utterance.id,
        "text": utterance.text,
        "speaker": utterance.speaker,
        "language": utterance.language,
        "split": split,
        "sample_rate": it.sample_rate,
        "samples": it.end - it.start,
        "seconds": round(it.kept, 4),
        "sha256": it.sha256,
        "source": utterance.source,
    }


def split_problems(rows: Sequence[dict[str, Any]], params: CorpusParams) -> list[Finding]:
    if not rows:
        return [Finding("the corpus", "no clip is left of it; look at corpus.min_seconds and corpus.max_seconds")]
    shares = {"train": 1 - params.validation - params.test, "validation": params.validation, "test": params.test}
    present = {row["split"] for row in rows}
    way_out = "add recordings, or change corpus.validation and corpus.test in params.yaml"
    return [
        Finding("the corpus", f"no sentence of {len(rows)} clips falls into the {split} split ({share:.0%}); {way_out}")
        for split, share in shares.items()
        if share and split not in present
    ]


def test_warnings(rows: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """The gate prompts with held-out sentences; single words are none."""
    held_out = {sentence(row["text"]) for row in rows if row["split"] == "test" and words(row) >= SENTENCE}
    if len(held_out) < 12:
        what = f"the test split has {len(held_out)} sentences of {SENTENCE} words or more for the gate to prompt with"
        yield Finding("the corpus", f"{what}; raise corpus.test")


def words(row: dict[str, Any]) -> int:
    return len(row["text"].split())


def statistics(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Totals, clips and sentences of each split, and the speaking rate of the training sentences (medians)."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["split"]].append(row)
    spoken = [row for row in groups["train"] if words(row) >= SENTENCE] or groups["train"]
    return {
        "speakers": sorted({row["speaker"] for row in rows}),
        "clips": len(rows),
        "seconds": round(sum(row["seconds"] for row in rows), 2),
        "words_per_second": round(median(words(row) / row["seconds"] for row in spoken), 4),
        "chars_per_second": round(median(len(row["text"]) / row["seconds"] for row in spoken), 4),
        "splits": {
            split: {
                "clips": len(groups[split]),
                "sentences": len({sentence(row["text"]) for row in groups[split]}),
                "seconds": round(sum(row["seconds"] for row in groups[split]), 2),
            }
            for split in SPLITS
        },
    }


def clip_record(clip: Examined, row: dict[str, Any]) -> dict[str, Any]:
    """A clip in audit.json: its measures, rounded to what they can be trusted for."""
    assert clip.measures is not None
    digits = {"clipped": 6, "offset": 5, "bandwidth": 0}
    measures = {
        key: round(value, digits.get(key, 2)) if isinstance(value, float) else value
        for key, value in asdict(clip.measures).items()
        if key not in ("sha256", "start", "end")
    }
    return {"id": row["id"], "source": row["source"], "text": row["text"], "split": row["split"]} | measures


def packed(clips: Sequence[Examined]) -> Iterator[Clip]:
    """The trimmed audio, read a second time: a corpus need not fit into memory."""
    yield from in_order(_load, clips, "corpus: packing", len(clips))


def _load(clip: Examined) -> Clip:
    audio, rate, _ = audit.load(clip.utterance)
    it = clip.measures
    assert it is not None
    audio = audio[it.start : it.end]
    if pcm_sha256(audio) != it.sha256:
        raise UserError(f"{clip.utterance.source}: changed while the corpus was read; run the stage again")
    return Clip(clip.utterance.id, rate, audio)


if __name__ == "__main__":
    run(main)
