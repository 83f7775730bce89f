"""The listening pages.

python -m stages.report --model NAME    data/NAME/{checkpoints,gate} -> reports/families/NAME/
python -m stages.report                 reports/families/* -> reports/index.html
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from models.parts.errors import UserError
from stages.common.cli import run
from stages.common.files import read_json, sha256, staged, write_json, write_text
from stages.common.params import Params, load_params
from stages.report import chart
from stages.report.findings import findings, headline, routing, score, silent
from stages.report.page import render, tier_name
from stages.report.records import Recording, Take
from stages.report.results import TIERS, Results, epoch_of, read_results, summarise

FAMILIES = Path("reports/families")
INDEX = Path("reports/index.html")
CORPUS = Path("reports/corpus/index.html")
RECORDED = ("recording", "codec")  # columns that no checkpoint spoke: the real thing, and what the codec alone makes of it


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.report", description="Build the listening pages.")
    parser.add_argument("--model", help="one family's page; without it, the comparison of all")
    model = parser.parse_args(arguments).model
    params = load_params()
    print(family_page(model, params) if model else index_page(params))


# --- one family -------------------------------------------------------------------------------------------------------


def family_page(family: str, params: Params) -> Path:
    """Write reports/families/<family>/: the page, its audio, and summary.json for the comparison. Returns the page."""
    params.family(family)
    results = read_results(family)
    summary = summarise(results)
    with staged(FAMILIES / family) as folder:
        hashes = _copy_audio(results, folder)
        page = render(
            "family.html",
            title=params.report.title,
            results=results,
            summary=summary,
            charts=charts(results),
            prompts=prompts(results, hashes),
            order=[*RECORDED, *results.judgement.order],
            recorded=RECORDED,
            tiers=TIERS,
        )
        write_text(folder / "index.html", page)
        write_json(folder / "summary.json", summary)
    return FAMILIES / family / "index.html"


def _copy_audio(results: Results, folder: Path) -> dict[str, str]:
    """Copy every take, and the prompts' recordings, real and through the codec, to `folder` under the same path; returns the hash of each."""
    prompts = {take.prompt for take in results.takes}
    recordings = [one for one in results.recordings if one.prompt in prompts]
    gate = Path("data") / results.family / "gate"
    hashes = {}
    for wav in sorted({one.wav for one in [*results.takes, *recordings, *results.resynthesised] if one.wav}):
        if not (gate / wav).is_file():
            raise UserError(f"{gate / wav}: listed and not there; run `dvc repro gate@{results.family}`")
        (folder / wav).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(gate / wav, folder / wav)
        hashes[wav] = sha256(folder / wav)
    return hashes


def charts(results: Results) -> list[Any]:
    """Loss, word error rate, takes passed and similarity over the epochs; none for the control, which has one point."""
    if results.control:
        return []
    judgement, losses, floor = results.judgement, results.validation_losses(), results.floor
    epochs = [epoch_of(name) for name in judgement.order]
    scores = [judgement.scores[name] for name in judgement.order]
    promoted = epoch_of(judgement.promoted) if judgement.promoted else None
    train = [(row.epoch, row.train.total) for row in results.history if row.train]
    tiers = {tier_name(tier): [judgement.tiers[name][tier] for name in judgement.order] for tier in TIERS}
    return [
        chart.loss_chart(epochs, train, sorted(losses.items()), losses[0.0], promoted),
        chart.error_chart(epochs, scores, floor.word_error_rate, promoted),
        chart.tier_chart(epochs, tiers, promoted),
        chart.similarity_chart(epochs, scores, floor.similarity, promoted),
    ]


def prompts(results: Results, hashes: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of the listening table by tier, held-out prompts first; one row a prompt and seed.

    A row's `cells` follow the columns: the recording, real and through the codec (None where there is none), then the
    checkpoints.
    """
    recordings = {one.prompt: one for one in results.recordings}
    resynthesised = {one.prompt: one for one in results.resynthesised}
    takes = {(one.prompt, one.seed, one.checkpoint): one for one in results.takes}
    order = results.judgement.order
    several_seeds = len({one.seed for one in results.takes}) > 1
    firsts: dict[tuple[str, int], Take] = {}
    for one in results.takes:
        firsts.setdefault((one.prompt, one.seed), one)
    rows: dict[str, list[dict[str, Any]]] = {tier: [] for tier in TIERS}
    for take in sorted(firsts.values(), key=lambda one: one.kind != "held-out"):
        recorded = [recordings.get(take.prompt), resynthesised.get(take.prompt)]
        found = [*recorded, *(takes.get((take.prompt, take.seed, name)) for name in order)]
        cells = [_cell(one, name, take, results, hashes) for one, name in zip(found, [*RECORDED, *order], strict=True)]
        seed = take.seed if several_seeds else None
        rows[take.tier].append(
            {"prompt": take.prompt, "kind": take.kind, "seed": seed, "text": take.text, "cells": cells}
        )
    return {tier: found for tier, found in rows.items() if found}


def _cell(
    heard: Recording | None, checkpoint: str, row: Take, results: Results, hashes: dict[str, str]
) -> dict[str, Any] | None:
    """One take (or recording) in the row of `row`, with the verdict that a person gave on this very audio."""
    if heard is None:
        return None
    digest = hashes.get(heard.wav or "")
    verdicts = results.verdicts.by_take() if results.verdicts else {}
    verdict = verdicts.get((checkpoint, row.prompt, row.seed))
    fresh = verdict is not None and verdict.sha256 == digest
    return {
        "take": heard,
        "checkpoint": checkpoint,
        "prompt": row.prompt,
        "seed": row.seed,
        "sha256": digest,
        "verdict": verdict if fresh else None,
    }


# --- the comparison ---------------------------------------------------------------------------------------------------


def index_page(params: Params) -> Path:
    """Write reports/index.html from the summaries of all of `params.models`. Returns the page."""
    summaries = [_summary(family) for family in params.models]
    page = render(
        "index.html",
        title=params.report.title,
        params=params,
        summaries=summaries,
        headline=headline(summaries),
        silent=silent(summaries),
        findings=findings(summaries),
        routing=routing(summaries),
        listening=listening(summaries),
        score=score,
        tiers=TIERS,
        corpus=CORPUS.relative_to(INDEX.parent),
    )
    write_text(INDEX, page)
    return INDEX


def _summary(family: str) -> dict[str, Any]:
    path = FAMILIES / family / "summary.json"
    try:
        summary: dict[str, Any] = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; run `dvc repro report@{family}`") from None
    return summary


def listening(summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each tier the held-out prompt that most families spoke: its text, its recording, and each family's take."""
    rows = []
    for tier in TIERS:
        spoken: dict[str, dict[str, dict[str, Any]]] = {}
        for summary in summaries:
            for sample in summary["samples"]:
                if sample["tier"] == tier:
                    spoken.setdefault(sample["prompt"], {})[summary["family"]] = sample
        if not spoken:
            continue
        prompt = max(spoken, key=lambda name: len(spoken[name]))  # the first of those with most
        takes = spoken[prompt]
        recorded = (f"families/{family}/{take['recording']}" for family, take in takes.items() if take["recording"])
        row = {"tier": tier, "prompt": prompt, "text": next(iter(takes.values()))["text"], "takes": takes}
        rows.append({**row, "recording": next(recorded, None)})
    return rows


if __name__ == "__main__":
    run(main)
