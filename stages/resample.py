"""Stage `resample`: the corpus at the rate that a family's codec wants, verified clip by clip.

    python -m stages.resample --model NAME     data/corpus/ -> data/NAME/resampled/  reports/metrics/resample-NAME.json

A wrong rate raises no error anywhere later: the voice only comes out slower or duller. So nothing leaves this stage
unless the card and the codec agree on the rate and every clip was read back and found right.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import models
from models.parts.errors import UserError
from models.parts.family import Family
from stages.common.audio import check_sox, resample
from stages.common.cli import run
from stages.common.files import read_jsonl, staged, write_json
from stages.common.metrics import StageMetrics
from stages.common.parallel import in_order
from stages.common.params import load_params
from stages.common.shards import Clip, Shards, pcm_sha256, write_shards

CORPUS = Path("data/corpus")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.resample")
    parser.add_argument("--model", required=True)
    name = parser.parse_args(argv).model
    weights = load_params().family(name).weights
    with StageMetrics("resample", name) as metrics:
        rate = codec_rate(models.load(name), weights)
        metrics.set(**build(CORPUS, Path(f"data/{name}/resampled"), rate))


def codec_rate(family: Family, weights: Path) -> int:
    """The rate (Hz) that a family's codec is fed with. Its card and the codec that is really there must agree."""
    stated, found = family.card.get("input_sample_rate"), family.codec(weights).contract.sample_rate
    if stated != found:
        raise UserError(
            f"models/{family.name}/card.yaml: input_sample_rate is {stated}, but the codec in {weights} takes {found}; "
            "take the weights that the card describes, or mend the card"
        )
    return found


def build(corpus: Path, target: Path, rate: int) -> dict[str, Any]:
    """Resample every clip of `corpus` to `rate` Hz into `target`. Returns what the metrics should say of it."""
    check_sox()
    rows = read_jsonl(corpus / "manifest.jsonl")
    clips = Shards(corpus)
    with staged(target) as folder:
        write_shards(folder, resampled((clips[row["id"]] for row in rows), rate, len(rows)))
        index = verify(folder, rows, rate)
        write_json(folder / "index.json", index)
    rates = sorted({row["sample_rate"] for row in rows})
    below = sum(row["sample_rate"] < rate for row in rows)
    print(f"{target}: {index['clips']} clips, {index['seconds'] / 60:.1f} minutes at {rate} Hz (from {rates} Hz)")
    return {
        "sample_rate": rate,
        "clips": index["clips"],
        "audio_seconds": index["seconds"],
        "source_sample_rates": rates,
        "upsampled_clips": below,  # they hold nothing above half of their own rate
        "full_scale_clips": index["full_scale_clips"],
    }


def resampled(clips: Iterable[Clip], rate: int, total: int) -> Iterator[Clip]:
    yield from in_order(partial(_resample, rate=rate), clips, f"resample: {rate} Hz", total)


def _resample(clip: Clip, rate: int) -> Clip:
    return Clip(clip.id, rate, resample(clip.audio, clip.sample_rate, rate))


def verify(folder: Path, rows: list[dict[str, Any]], rate: int) -> dict[str, Any]:
    """Read every clip back from `folder` and compare it with its manifest row. Returns the index of what is there."""
    shards, digest, samples, full_scale = Shards(folder), hashlib.sha256(), 0, 0
    for row in rows:
        clip = shards[row["id"]]
        check(clip, row, rate)
        samples += len(clip.audio)
        full_scale += bool(np.abs(clip.audio).max() >= 1 - 2**-23)
        digest.update(f"{clip.id} {pcm_sha256(clip.audio)}\n".encode())
    return {
        "sample_rate": rate,
        "clips": len(rows),
        "seconds": round(samples / rate, 2),
        "full_scale_clips": full_scale,
        "sha256": digest.hexdigest(),  # of the lines "<id> <hash of the samples>", in the manifest's order
    }


def check(clip: Clip, row: dict[str, Any], rate: int) -> None:
    """UserError naming the clip unless it is at `rate`, mono, finite, and of the exact ratio's length ± 1 sample."""
    exact = row["samples"] * rate / row["sample_rate"]
    wrong = None
    if clip.sample_rate != rate:
        wrong = f"is at {clip.sample_rate} Hz, not at {rate} Hz"
    elif clip.audio.ndim != 1:
        wrong = f"has {clip.audio.shape[1]} channels, not one"
    elif abs(len(clip.audio) - exact) > 1:
        wrong = f"has {len(clip.audio)} samples, not {exact:.1f}"
    elif not np.isfinite(clip.audio).all():
        wrong = "holds samples that are not numbers (NaN or infinity)"
    elif row["sample_rate"] == rate and pcm_sha256(clip.audio) != row["sha256"]:
        wrong = "differs from the corpus, though its rate is the same"
    if wrong:
        raise UserError(f"clip {row['id']} ({row['source']}): {wrong}, after resampling; check the sox program")


if __name__ == "__main__":
    run(main)
