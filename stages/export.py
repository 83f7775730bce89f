"""Stage `export`: the promoted checkpoint as a folder of its own, which the family's own inference loads like a release.

    python -m stages.export --model qwen3_tts                          data/qwen3_tts/export/
    python -m stages.export --model qwen3_tts --checkpoint epoch-04    data/qwen3_tts/export-epoch-04/, whatever the gate says

Where nothing was promoted, the stage leaves a record that says so and nothing else.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import models
from stages.common.cli import run
from stages.common.codes import brings_codes
from stages.common.files import EXPORT, read_json, sha256, staged, write_json, write_text
from stages.common.params import Params, load_params

if TYPE_CHECKING:
    from models.parts.family import Family

LICENCES = Path("models/licences")
WHOSE = {
    False: "A voice fine-tuned on one speaker.",
    True: "Fine-tuned on what a released model said in a voice of its own, and on no recording: how it pronounces and reads may be new, the voice is not.",
}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.export", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--checkpoint", help="another one than the promoted, marked as such")
    asked = parser.parse_args(argv)
    name, params = asked.model, load_params()
    params.family(name)
    verdict = read_json(Path(f"data/{name}/gate/verdict.json"))
    target = Path(f"data/{name}/export")
    if asked.checkpoint:
        target = target.with_name(f"export-{asked.checkpoint}")
    checkpoint = asked.checkpoint or verdict["promoted"]
    with staged(target) as folder:
        if checkpoint:
            export(name, params, checkpoint, verdict, folder)
        else:
            write_json(folder / EXPORT, {"family": name, "checkpoint": None, "promoted": None, "why": verdict["why"]})
    print(f"export {name}: {target}/: " + (checkpoint or f"nothing but {EXPORT}: no checkpoint was promoted"))


def export(name: str, params: Params, checkpoint: str, verdict: dict[str, Any], folder: Path) -> None:
    """The base with `checkpoint` merged into it, the voice, the licence, and a card that says what this is."""
    # Here, since they load PyTorch: a family without a promoted checkpoint needs none.
    from models.parts.precision import repeatable
    from stages.common.checkpoints import Checkpoints, load_adapter
    from stages.common.tokens import read_voice, write_voice

    # 1. The network as the gate heard it, in the layout of the base.
    repeatable()
    family, block = models.load(name), params.family(name)
    voice = read_voice(Path(f"data/{name}/tokens"))
    checkpoints = Checkpoints(family, block, Path(f"data/{name}/checkpoints"))
    family.export(checkpoints.network(checkpoint).cpu(), voice, block.weights, folder)
    epoch, scale = checkpoints.at_scale(checkpoint)
    if scale is not None and checkpoints.settings.mode == "lora":
        family.export_adapter(load_adapter(checkpoints.folder / epoch), checkpoints.settings, scale, block.weights, folder)

    # 2. What `make speak` needs besides, and what became of this checkpoint in the gate.
    judged = verdict["candidates"].get(checkpoint, {})
    corpus, stats = Path("data/corpus"), read_json(Path("data/corpus/stats.json"))
    write_voice(folder, voice)
    record = {
        "family": name, "checkpoint": checkpoint, "promoted": verdict["promoted"], "why": verdict["why"],
        "scale": scale, "dtype": block.dtype, "sampling": block.sampling.model_dump(),
        "chars_per_second": stats["chars_per_second"], "segment_words": params.reading.segment_words,
        "weights": read_json(Path(f"data/{name}/weights.json")),
        "corpus": {
            "source": str(params.corpus.source), "date": params.corpus.date, "speaker": voice.speaker,
            "said_by_a_network": brings_codes(corpus), "language": params.corpus.language, "seconds": stats["seconds"], "manifest_sha256": sha256(corpus / "manifest.jsonl"),
        },
        "gate": {"confirmed": judged.get("confirmed"), "screened": judged.get("screened")},
    }  # fmt: skip
    write_json(folder / EXPORT, record)

    # 3. The licence and notices of the base, and the card.
    notices = [path for path in sorted(block.weights.iterdir()) if path.stem.upper() in ("LICENSE", "LICENCE", "NOTICE")]
    known = LICENCES / f"{family.card['licence']['weights']['name']}.txt"
    if not notices and known.is_file() and not of_ours(record):
        shutil.copy(known, folder / "LICENSE")
    for notice in notices:
        shutil.copy(notice, folder)
    write_text(folder / "README.md", model_card(family, record))


def of_ours(record: dict[str, Any]) -> bool:
    """Is the base a small one of this repository, whose licence is not that of a release?"""
    return Path(record["weights"]["folder"]).is_relative_to("models")


def model_card(family: Family, record: dict[str, Any]) -> str:
    """What whoever gets the folder must know, as hubs show it."""
    corpus, weights = record["corpus"], record["weights"]
    base = ", ".join(weights["commits"]) or weights["folder"]
    at = f" at commit {', '.join(weights['commits'].values())}" if weights["commits"] else ""
    if of_ours(record):
        licence, terms = "other", "this repository's: the base is a small one that it trained itself"
    else:
        name, says = (family.card["licence"]["weights"][field] for field in ("name", "says"))
        disputed = family.card["licence"]["weights"].get("disputed")
        known = (LICENCES / f"{name}.txt").is_file() and " " not in name  # hubs have one word for a licence that they know
        licence, terms = name.lower() if known else "other", f"{name}: {says}" + (f" Disputed: {disputed}." if disputed else "")
    promoted = record["checkpoint"] == record["promoted"]
    title = f"# {corpus['speaker']}, by {family.card['title']}"
    warning = f"**Not promoted.** {record['why']} It was exported on request: listen before you use it.\n\n"
    recorded = f", recorded {corpus['date']}" if corpus["date"] else ""
    return f"""---
license: {licence}
base_model: {base}
language: {corpus["language"]}
pipeline_tag: text-to-speech
---

{title}

{"" if promoted else warning}{WHOSE[corpus["said_by_a_network"]]}

| | |
|---|---|
| base | {base}{at} |
| checkpoint | {record["checkpoint"]}, LoRA scale {record["scale"]} |
| corpus | {corpus["source"]}{recorded}: {corpus["speaker"]}, {corpus["seconds"] / 60:.1f} minutes; manifest sha256 {corpus["manifest_sha256"][:16]} |
| licence of the base | {terms} |

## What the gate heard

{_gate_table(record)}

The decision: {record["why"]}

The licence of the base and the rights in the recordings both bind whoever uses this voice. A synthetic voice is not
the person: say that it is synthetic.
"""


def _gate_table(record: dict[str, Any]) -> str:
    confirmed, screened = record["gate"]["confirmed"], record["gate"]["screened"]
    found = confirmed or screened
    if not found:
        return "The gate has not judged this checkpoint."
    rows = [
        f"| {tier} | {one['passed_takes']} of {one['takes']} | {one['verdict'] if confirmed else 'screened, not confirmed'} |"
        for tier, one in found["tiers"].items()
    ]
    low, high = found["ci"]
    nearness = "not measured" if found["similarity"] is None else f"{found['similarity']:.3f}"
    return "\n".join([
        "| length | takes that pass | verdict |", "|---|---|---|", *rows, "",
        f"Word error rate {found['word_error_rate']:.1%} (95 % interval {low:.1%} to {high:.1%}), similarity to the speaker {nearness}.",
    ])  # fmt: skip


if __name__ == "__main__":
    run(main)
