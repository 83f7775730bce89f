"""Stage `gate`: every checkpoint reads the same texts, a listener writes down what it hears, and words decide.

    python -m stages.gate --model cosyvoice3     # or a system from elsewhere: stages/gate/external.py
    python -m stages.gate --prompts              # what such a system has to read
    python -m stages.gate --judge takes.jsonl    # audio from anywhere, by the same rules: stages/gate/judging.py

All candidates are screened on few takes. The plausible ones are then confirmed on other texts and other seeds, in batches,
until each length is decided or the budget is spent; the takes that chose a candidate never speak for it. Takes are kept
in `.scratch/takes`: a killed run continues with the next batch and ends with the same bytes.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from stages.common.cli import run
from stages.common.files import staged, write_json, write_jsonl
from stages.common.metrics import StageMetrics
from stages.common.params import Params, load_params
from stages.gate.candidates import Candidate
from stages.gate.corpus import CORPUS, Corpus
from stages.gate.exam import Exam
from stages.gate.external import External, write_prompts
from stages.gate.floor import noise_floor, recorded
from stages.gate.promotion import Standing, figures, plausible, promote
from stages.gate.second import with_second
from stages.gate.trial import Trial
from stages.gate.verdict import Row


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.gate", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="a family, or a system of `external`")
    what.add_argument("--prompts", action="store_true", help="write the texts that systems from elsewhere have to read")
    what.add_argument("--judge", type=Path, metavar="FILE.jsonl", help="rows of text and wav")
    asked = parser.parse_args(argv)
    params = load_params()
    if asked.judge:
        from stages.gate.judging import judge_file  # the listener

        judge_file(asked.judge, params)
    elif asked.prompts:
        print(write_prompts(params))
    else:
        gate(asked.model, params)


def gate(name: str, params: Params) -> None:
    settings, corpus, kind = params.gate, Corpus(CORPUS), External if name in params.external else Exam
    with StageMetrics("gate", name) as metrics, kind(name, params, corpus) as exam:
        # 1. Who speaks, and the noise floor, from what the listener makes of real recordings.
        speakers = exam.candidates()
        floor = noise_floor(exam.recordings(recorded(corpus), "noise floor"), settings, corpus.stats["words_per_second"])
        trial = Trial(exam, floor, settings)

        # 2. Screen every checkpoint, and those that may win at the other scales too.
        def screened(speakers: list[Candidate]) -> list[Standing]:
            rows = trial.screen(speakers)
            return [Standing(one, figures(rows[one.name], trial.tiers, floor.rows)) for one in speakers]

        standings = screened(speakers)
        standings += screened(exam.rescaled(plausible(standings, settings.finalists)))
        standings.sort(key=lambda one: one.candidate.epoch)

        # 3. Confirm the plausible ones on fresh takes, the base beside them, and decide.
        finalists = plausible(standings, settings.finalists)
        base = next((one.candidate for one in standings if not one.candidate.epoch), None)
        confirmed = {
            who: figures(rows, trial.tiers, floor.rows, trial.asked) for who, rows in trial.confirm(base, finalists).items()
        }
        standings = [replace(one, confirmed=confirmed.get(one.candidate.name)) for one in standings]
        promoted, why = promote(standings)

        # 4. What a second listener says otherwise, and what the codec makes of the recordings, since nothing sounds better: the
        # frozen one, and that of each finalist where its decoder was trained too.
        rows = with_second(name, trial, params, corpus) if settings.second_listener else trial.rows
        read = {row["prompt"] for row in rows}
        prompts = [prompt for prompt in recorded(corpus) if prompt.id in read]
        through = exam.through_codec(prompts, f"{name}: codec")
        tuned = exam.through_tuned(finalists, prompts, f"{name}: tuned codec")

        # 5. Publish: rows, audio, the verdict, the floor.
        with staged(Path(f"data/{name}/gate")) as out:
            write_jsonl(out / "rows.jsonl", published(rows, out))
            write_json(out / "floor.json", floor.as_json() | {"rows": published(floor.rows, out)})
            write_json(out / "codec.json", {"rows": published(through, out), "tuned": published(tuned, out)})
            write_json(out / "verdict.json", {
                "family": name, "promoted": promoted.name if promoted else None, "why": why, "tiers": trial.tiers,
                "order": [one.candidate.name for one in standings], "asked": asdict(trial.asked),
                "candidates": {one.candidate.name: one.as_json() for one in standings},
            })  # fmt: skip
        shown = confirmed[promoted.name] if promoted else min(
            (confirmed[one.name] for one in finalists or [standings[0].candidate]), key=lambda one: one["word_error_rate"]
        )  # fmt: skip
        metrics.set(
            promoted=promoted and promoted.checkpoint, scale=promoted.scale if promoted else exam.scale, candidates=len(standings),
            takes=len(rows), confirming_takes=sum(row["phase"] == "confirm" for row in rows),
            frames=sum(row.get("frames", 0) for row in rows) or None, word_error_rate=shown["word_error_rate"],
            base_word_error_rate=confirmed[base.name]["word_error_rate"] if base else None, similarity=shown["similarity"],
        )
        print(f"gate {name}: {why}")


def published(rows: Iterable[Row], out: Path) -> list[Row]:
    """`rows` with their audio copied to `out`, and named by where it is there."""
    found = []
    for row in rows:
        wav = row["wav"] and f"audio/{row['checkpoint']}/{Path(row['wav']).name}"
        if wav:
            (out / wav).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(row["wav"], out / wav)
        found.append(row | {"wav": wav})
    return found


if __name__ == "__main__":
    run(main)
