"""Stage `corpus`: recordings and their texts become one manifest and packed audio, after an audit of every clip.

    python -m stages.corpus        -> data/corpus/  reports/corpus/  reports/metrics/corpus.json

Whatever is wrong is found before anything is written, and told at once. The layouts that a corpus may have are listed
in stages/corpus/sources.py, the measurements in stages/corpus/audit.py.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from models.parts.errors import UserError
from stages.common.cli import run
from stages.common.codes import CODES, brings_codes
from stages.common.files import staged, write_json, write_jsonl
from stages.common.languages import words
from stages.common.metrics import StageMetrics
from stages.common.parallel import in_order
from stages.common.params import CorpusParams, load_params
from stages.common.shards import Clip, pcm_sha256, write_shards
from stages.corpus import audit
from stages.corpus.audit import Examined
from stages.corpus.page import count_left_out, write_page
from stages.corpus.sources import Finding, Source, read_source, select
from stages.corpus.splits import LEAST, PHRASE, SPLITS, sentence, splits_of
from stages.corpus.texts import identifier, language_errors, looks_like

DATA = Path("data/corpus")
REPORT = Path("reports/corpus")
SHOWN = 20  # errors that are told one by one
KINDS = 5  # of warnings on the console; the page has all
SENTENCE = 4  # words: shorter texts say little of the speaking rate, and the gate does not prompt with them


def main(argv: list[str]) -> None:
    params = load_params().corpus
    with StageMetrics("corpus") as metrics:
        metrics.set(**build(params, DATA, REPORT))


def build(params: CorpusParams, data: Path, report: Path) -> dict[str, Any]:
    """Audit the corpus of `params` and write it to `data` and `report`. Returns what the metrics should say of it."""
    source = read_source(params.source, params.speaker, params.language)
    others = select(source, params.speaker, params.language)
    said = brings_codes(source.root)
    # Codes are of whole clips, so these are not trimmed.
    examined = audit.examine(source.utterances, params.trim_db, math.inf if said else params.keep_silence)
    clips, left_out, errors = choose(examined, params)
    stop_on([*(source.errors or text_problems(source, params)), *errors], source)
    splits = splits_of([clip.utterance.text for clip in clips], params)
    rows = [manifest_row(clip, splits[sentence(clip.utterance.text)]) for clip in clips]
    stop_on(split_problems(rows, params), source)

    left_out = [*source.left_out, *(Finding(who, f"{len(clips)} clips, like {clips[0]}") for who, clips in others.items()), *left_out]
    warnings = [*source.warnings, *split_warnings(rows, params), *audit.warnings(clips, params.language)]
    warnings.sort(key=lambda one: bool(one.kind))  # first what is said of the whole corpus
    repeated = audit.repeated({row["id"]: sentence(row["text"]) for row in rows})
    stats = statistics(rows, params.language)
    with staged(data) as folder, staged(report) as page:
        write_jsonl(folder / "manifest.jsonl", rows)
        write_shards(folder, packed(clips))
        write_json(folder / "stats.json", stats)
        if said:
            shutil.copyfile(source.root / CODES, folder / CODES)
        record = {
            "source": str(params.source),
            "kind": source.kind,
            "clips": [clip_record(clip, row) for clip, row in zip(clips, rows, strict=True)],
            "warnings": [asdict(warning) for warning in warnings],
            "left_out": [{"source": one.source, "what": one.what} for one in left_out],
            "others": others,
            "repeated_texts": repeated,
        }
        write_json(page / "audit.json", record)
        write_page(page, record, stats)
    counts = ", ".join(f"{split} {stats['splits'][split]['clips']}" for split in SPLITS)
    print(f"{data}: {len(rows)} clips, {stats['seconds'] / 60:.1f} minutes ({counts})")
    for line in summary(warnings):
        print(f"  {line}")
    print(f"{report}/index.html: the audit; warnings {len(warnings)}, clips left out {count_left_out(record)}")
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


def stop_on(found: Iterable[Finding], source: Source) -> None:
    """Tell every error in a line of its own, the first `SHOWN` of them, and stop."""
    errors = list(found)
    if not errors:
        return
    lines = [str(error) for error in errors[:SHOWN]]
    if len(errors) > SHOWN:
        lines.append(f"... and {len(errors) - SHOWN} more")
    print("\n".join(lines), file=sys.stderr)
    raise UserError(f"{source.root}: {len(errors)} to mend, listed above; nothing was written")


def summary(warnings: Sequence[Finding]) -> Iterator[str]:
    """Warnings of the whole corpus one by one, those of clips counted by their kind, with the worst of each."""
    for one in warnings:
        if not one.kind:
            yield str(one)
    kinds = Counter(one.kind for one in warnings if one.kind).most_common()
    for kind, count in kinds[:KINDS]:
        worst = max((one for one in warnings if one.kind == kind), key=lambda one: one.weight)
        yield f"{kind}, {count} times; {'the first' if not worst.weight else 'the worst'}: {worst}" if count > 1 else str(worst)
    if kinds[KINDS:]:
        yield f"and {sum(count for _, count in kinds[KINDS:])} of other kinds: {', '.join(kind for kind, _ in kinds[KINDS:])}"


def text_problems(source: Source, params: CorpusParams) -> Iterator[Finding]:
    """A corpus whose texts are nothing that a person says."""
    texts = [utterance.text for utterance in source.utterances]
    if looks := looks_like(texts, params.language):
        yield Finding("the corpus", f"its texts look like no text: {looks}; write what is said, in words")
    named = [one for one in source.utterances if identifier(first := one.text.split(" ")[0]) and first == Path(one.source).stem]
    if len(named) > len(texts) / 2:
        yield Finding(named[0].source, f"its text begins with the name of its file, as {len(named) - 1} more do; take the name out of the texts")
    for what in language_errors(texts, params.language):
        yield Finding("the corpus", what)


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


def split_problems(rows: Sequence[dict[str, Any]], params: CorpusParams) -> Iterator[Finding]:
    if not rows:
        yield Finding("the corpus", "no clip is left of it; look at corpus.min_seconds and corpus.max_seconds")
    elif not any(row["split"] == "train" for row in rows):
        number, asked = len({sentence(row["text"]) for row in rows}), [split for split in LEAST if getattr(params, split)]
        held_out = " and ".join(f"{LEAST[split]} for {split}" for split in asked)
        what = f"has {number} different sentence{'s' * (number != 1)}, and holds out at least {held_out}: none is left to train on"
        yield Finding("the corpus", f"{what}; add recordings, or set {' and '.join(f'corpus.{split}: 0' for split in asked)} in params.yaml")


def split_warnings(rows: Sequence[dict[str, Any]], params: CorpusParams) -> Iterator[Finding]:
    """What held-out sentences there are too few of: for the gate, which prompts with them, and for the loss."""
    counts = Counter({sentence(row["text"]): row["split"] for row in rows}.values())
    phrases = [row for row in rows if row["split"] == "test" and words(row["text"], params.language) >= PHRASE]
    if not phrases:
        why = "corpus.test is 0" if not params.test else f"no test clip has {PHRASE} words"
        what = f"holds out no recording ({why}): the gate judges without a noise floor, by the limits of params.yaml alone, and has no recordings to compare with"
        yield Finding("the corpus", what)
    else:
        held_out = {sentence(row["text"]) for row in phrases if words(row["text"], params.language) >= SENTENCE}
        if len(held_out) < 12:
            what = f"the test split has {len(held_out)} sentences of {SENTENCE} words or more for the gate to prompt with"
            yield Finding("the corpus", f"{what}; raise corpus.test")
    if not params.validation:
        yield Finding("the corpus", "holds out no sentence for validation (corpus.validation is 0): training has no loss to compare checkpoints by")
    for split in ("validation", "test"):
        asked, got = getattr(params, split) * counts.total(), counts[split]
        if asked and got <= LEAST[split] and asked < 0.75 * got:
            yield Finding("the corpus", f"is small: {split} takes {got} of its {counts.total()} sentences, where corpus.{split} asks for {asked:.1f}")


def statistics(rows: Sequence[dict[str, Any]], language: str) -> dict[str, Any]:
    """Totals, clips and sentences of each split, and the speaking rate of the training sentences (medians)."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["split"]].append(row)
    spoken = [row for row in groups["train"] if words(row["text"], language) >= SENTENCE] or groups["train"]
    return {
        "language": language,
        "speakers": sorted({row["speaker"] for row in rows}),
        "clips": len(rows),
        "seconds": round(sum(row["seconds"] for row in rows), 2),
        "words_per_second": round(median(words(row["text"], language) / row["seconds"] for row in spoken), 4),
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
    whole = audit.load(clip.utterance)
    it = clip.measures
    assert it is not None
    audio = whole.audio[it.start : it.end]
    if pcm_sha256(audio) != it.sha256:
        raise UserError(f"{clip.utterance.source}: changed while the corpus was read; run the stage again")
    return Clip(clip.utterance.id, whole.rate, audio)


if __name__ == "__main__":
    run(main)
