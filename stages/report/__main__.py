"""The listening pages.

python -m stages.report --model NAME      data/NAME/{checkpoints,gate} -> reports/families/NAME/
python -m stages.report                   reports/families/* -> reports/index.html
python -m stages.report --verdict FILE    what a person heard -> reports/verdicts/<family>/<rater>.json
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from models.parts.errors import UserError
from stages.common.cli import run
from stages.common.files import REFERENCE, read_json, sha256, staged, write_json, write_text
from stages.common.params import Params, load_params
from stages.report import chart
from stages.report.agreement import Fresh, fresh, pairs, with_gate
from stages.report.findings import (
    asked_in_words,
    findings,
    headline,
    parting,
    routing,
    score,
    silent,
    standing,
    tier_name,
)
from stages.report.loudness import Sound, matched
from stages.report.page import render
from stages.report.records import Asked, Recording, Take, made_by, recorded_as
from stages.report.results import Results, read_results, summarise
from stages.report.verdicts import RECORDED, bring_in, of_takes

FAMILIES = Path("reports/families")
INDEX = Path("reports/index.html")
CORPUS = Path("reports/corpus/index.html")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.report", description="Build the listening pages.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", help="the page of one family, or of one system of `external`; without it, the comparison of all")
    what.add_argument("--verdict", type=Path, metavar="FILE", help="take in what a listening page saved")
    asked = parser.parse_args(arguments)
    params = load_params()
    if asked.verdict:
        print(bring_in(asked.verdict, params.compared))
    else:
        print(family_page(asked.model, params) if asked.model else index_page(params))


# --- one family -------------------------------------------------------------------------------------------------------


def family_page(family: str, params: Params) -> Path:
    """Write reports/families/<family>/: the page, its audio, and summary.json for the comparison. Returns the page."""
    if family not in params.external:
        params.family(family)
    results = read_results(family, params)
    summary = summarise(results)
    with staged(FAMILIES / family) as folder:
        audio = Audio(results, folder)
        raters = [fresh(one, audio.hash_of, audio.candidates) for one in results.verdicts]
        page = render(
            "family.html",
            "page.js",
            "listen.js",
            title=params.report.title,
            results=results,
            summary=summary,
            standing=standing(summary),
            asked=asked_in_words(results.judgement.asked, None if results.external else results.reading),
            disagreed=[take for take in results.takes if take.second],
            parting=parting(summary),
            charts=charts(results, summary),
            tables=tables(results, audio, raters),
            candidates=audio.candidates,
            recorded=RECORDED,
            reference=(REFERENCE, audio.sounds[REFERENCE]) if results.reference else None,
            raters=raters,
            agreement=pairs(raters),
            with_gate=with_gate(raters, results.takes),
        )
        write_text(folder / "index.html", page)
        write_json(folder / "summary.json", summary)
    return FAMILIES / family / "index.html"


class Audio:
    """Copies every take, and the prompts' recordings, real and through the codec, to `folder` under the same path, and the
    reference; and knows of each its hash and how loud it is. `candidates`: one hash for all the takes of each."""

    def __init__(self, results: Results, folder: Path):
        prompts = {recorded_as(take.prompt) for take in results.takes}
        self.real = [{one.prompt: one for one in rows if one.prompt in prompts} for rows in (results.noise.rows, results.codec.rows)]
        gate = Path("data") / results.family / "gate"
        wavs = sorted({one.wav for one in [*results.takes, *self.real[0].values(), *self.real[1].values()] if one.wav})
        for wav in wavs:
            if not (gate / wav).is_file():
                raise UserError(f"{gate / wav}: listed and not there; run `dvc repro {made_by('gate', results.family)}`")
            (folder / wav).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(gate / wav, folder / wav)
        self.hashes = {wav: sha256(folder / wav) for wav in wavs}
        if results.reference:
            shutil.copyfile(results.reference.wav, folder / REFERENCE)
            wavs.append(REFERENCE)
        self.sounds = matched({wav: folder / wav for wav in wavs})
        self.takes = {(one.checkpoint, one.prompt, one.seed): one for one in results.takes}
        spoken = [(one.checkpoint, self.hashes[one.wav]) for one in results.takes if one.wav]
        self.candidates = {name: of_takes(digest for who, digest in spoken if who == name) for name in results.candidates}

    def heard(self, who: str, prompt: str, seed: int) -> Recording | None:
        """The take of a candidate, or the recording that says the text."""
        if who in RECORDED:
            return self.real[RECORDED.index(who)].get(recorded_as(prompt))
        return self.takes.get((who, prompt, seed))

    def hash_of(self, take: tuple[str, str, int]) -> str | None:
        heard = self.heard(*take)
        return self.hashes.get(heard.wav or "") if heard else None

    def sound(self, heard: Recording) -> Sound | None:
        return self.sounds.get(heard.wav or "")


def charts(results: Results, summary: dict[str, Any]) -> list[Any]:
    """Over the epochs: loss, word error rate, takes passed, similarity, speaking rate; over the scales words and similarity. All
    that the gate measured is of screening takes: those are the same texts for every candidate. None where nothing was trained
    here."""
    if results.control or results.external:
        return []
    judgement, losses, floor, over = results.judgement, results.validation_losses(), results.floor, results.over_epochs
    promoted = results.candidates[judgement.promoted] if judgement.promoted else None
    axis = chart.checkpoint_axis(results.steps, promoted.epoch if promoted else None)
    parted = parting(summary)
    part = parted.epoch if parted else None
    train = [(row.epoch, row.train.total) for row in results.history if row.train]
    scores = [one.screened for one in over]
    tiers = {tier_name(tier): [one.tiers[tier] for one in scores] for tier in judgement.tiers}
    at = (promoted.checkpoint, promoted.scale) if promoted and promoted.scale is not None else None
    return [
        chart.loss_chart(axis, train, sorted(losses.items()), losses.get(0.0), part),
        chart.error_chart(axis, scores, floor.word_error_rate, part),
        chart.tier_chart(axis, tiers),
        chart.similarity_chart(axis, scores, floor.similarity),
        chart.rate_chart(axis, [results.drift(one.checkpoint) for one in over]),
        *chart.scale_charts(results.sweeps(), at),
    ]


def tables(results: Results, audio: Audio, raters: list[Fresh]) -> list[dict[str, Any]]:
    """The listening tables: of each length the confirming takes, and then of each the screening takes. A table has the
    columns of those who read its texts, and one row for each prompt and seed, held-out prompts first.

    A row's `cells` follow the columns: the recording, real and through the codec (None where there is none), then candidates.
    """
    recorded = RECORDED if results.codec.rows else RECORDED[:1]  # a system from elsewhere has no codec here
    several_seeds = len({one.seed for one in results.takes}) > 1
    found = []
    for phase in ("confirm", "screen"):
        for tier in results.judgement.tiers:
            takes = [one for one in results.takes if (one.phase, one.tier) == (phase, tier)]
            who = {one.checkpoint for one in takes}
            columns = [*recorded, *(name for name in results.judgement.order if name in who)]
            firsts: dict[tuple[str, int], Take] = {}
            for one in sorted(takes, key=lambda one: one.kind != "held-out"):
                firsts.setdefault((one.prompt, one.seed), one)
            rows = [
                {"prompt": one.prompt, "kind": one.kind, "seed": one.seed if several_seeds else None, "text": one.text,
                 "cells": [_cell(name, one, audio, raters) for name in columns]}
                for one in firsts.values()
            ]  # fmt: skip
            if rows:
                found.append({"phase": phase, "tier": tier, "id": f"{phase}-{tier}", "columns": columns, "rows": rows})
    return found


def _cell(who: str, row: Take, audio: Audio, raters: list[Fresh]) -> dict[str, Any] | None:
    """One take (or recording) in the row of `row`, with what people said of this very audio."""
    heard = audio.heard(who, row.prompt, row.seed)
    if heard is None:
        return None
    take = (who, row.prompt, row.seed)
    return {
        "take": heard,
        "checkpoint": who,
        "prompt": row.prompt,
        "seed": row.seed,
        "sha256": audio.hash_of(take),
        "sound": audio.sound(heard),
        "verdicts": [(one.rater, one.ratings[take]) for one in raters if take in one.ratings],
    }


# --- the comparison ---------------------------------------------------------------------------------------------------


def index_page(params: Params) -> Path:
    """Write reports/index.html from the summaries of all of `params.compared`. Returns the page."""
    summaries = [_summary(name) for name in params.compared]
    same = listening(summaries)
    heard = [row["recording"] for row in same if row["recording"]]
    heard += [f"families/{family}/{take['wav']}" for row in same for family, take in row["takes"].items()]
    page = render(
        "index.html",
        "page.js",
        title=params.report.title,
        params=params,
        summaries=summaries,
        headline=headline(summaries),
        silent=silent(summaries),
        findings=findings(summaries),
        routing=routing(summaries),
        listening=same,
        sounds=matched({wav: INDEX.parent / wav for wav in heard}),
        score=score,
        standing=standing,
        asked=asked_in_words(asked, params.reading) if (asked := _same_test(summaries)) else None,
        corpus=CORPUS.relative_to(INDEX.parent),
    )
    write_text(INDEX, page)
    return INDEX


def _summary(family: str) -> dict[str, Any]:
    path = FAMILIES / family / "summary.json"
    try:
        summary: dict[str, Any] = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; run `dvc repro {made_by('report', family)}`") from None
    return summary


def _same_test(summaries: list[dict[str, Any]]) -> Asked | None:
    """What the gate asked; None where families were asked different things."""
    asked = [one["asked"] for one in summaries]
    return Asked.model_validate(asked[0]) if all(one == asked[0] for one in asked) else None


def listening(summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each tier the held-out prompt that most families spoke, with a recording if there is one: its text, its recording,
    and each family's confirming take."""
    rows = []
    for tier in dict.fromkeys(tier for summary in summaries for tier in summary["tiers"]):
        spoken: dict[str, dict[str, dict[str, Any]]] = {}
        for summary in summaries:
            for sample in summary["samples"]:
                if sample["tier"] == tier:
                    spoken.setdefault(sample["prompt"], {})[summary["family"]] = sample
        if not spoken:
            continue
        prompt = max(spoken, key=lambda name: (len(spoken[name]), any(one["recording"] for one in spoken[name].values())))
        takes = spoken[prompt]  # of the first of those with most
        recorded = (f"families/{family}/{take['recording']}" for family, take in takes.items() if take["recording"])
        row = {"tier": tier, "prompt": prompt, "text": next(iter(takes.values()))["text"], "takes": takes}
        rows.append({**row, "recording": next(recorded, None)})
    return rows


if __name__ == "__main__":
    run(main)
