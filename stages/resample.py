"""Stage `resample`: which weights a family has, and the corpus at the rate that their codec wants, verified clip by clip.

    python -m stages.resample --model NAME     data/corpus/ -> data/NAME/weights.json  data/NAME/resampled/  reports/metrics/resample-NAME.json

The first stage of a family, so what the licence of its weights forbids ends here. Of weights, later stages name the small
weights.json alone, and run again when it changes.

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

from models.parts.errors import UserError
from stages.common import licences
from stages.common.audio import check_sox, resample
from stages.common.cli import run
from stages.common.codes import brings_codes
from stages.common.files import read_json, staged, write_json
from stages.common.metrics import StageMetrics
from stages.common.parallel import in_order
from stages.common.params import load_params
from stages.common.shards import Clip, Shards, pcm_sha256, read_manifest, write_shards
from stages.common.weights import identify

CORPUS = Path("data/corpus")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.resample")
    parser.add_argument("--model", required=True)
    name = parser.parse_args(argv).model
    weights = load_params().family(name).weights  # once the licence allows what is intended
    with StageMetrics("resample", name) as metrics:
        found = identify(name, weights)
        print(f"{weights}: {len(found['files'])} files, as they should be")
        card = licences.card(name)
        check_encoder(card, weights, CORPUS)
        rate = codec_rate(name, card, weights)
        metrics.set(**build(CORPUS, Path(f"data/{name}/resampled"), rate))
        write_json(Path(f"data/{name}/weights.json"), found)


def check_encoder(card: dict[str, Any], weights: Path, corpus: Path) -> None:
    """UserError for recordings, where released weights can't turn them into codes: such weights can say a corpus themselves."""
    of_release = [file for file, rate in card["codec_config"].items() if isinstance(rate, int)]
    released = any((weights / file).is_file() for file in of_release)
    if released and "unreleased" in card and not brings_codes(corpus):
        raise UserError(f"{weights}: {card['unreleased']}; let one of its own voices say a corpus (`takes` in params.yaml), use profile tiny, or another family")


def codec_rate(name: str, card: dict[str, Any], weights: Path) -> int:
    """The rate (Hz) that the codec of family `name` is fed with. Its card and the codec that is really there must agree.

    The codec's own file is asked, which the card names: no network is built for it, nor its libraries loaded. Where a
    release says it in its code alone, the card says the rate itself beside the file that such a release has.
    """
    stated: int = card["input_sample_rate"]
    files = {weights / file: field for file, field in card["codec_config"].items()}
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(f"{weights}: holds no {' nor '.join(card['codec_config'])}, where the codec's rate stands; take weights that hold the codec, or mend codec_config in models/{name}/card.yaml")
    if isinstance(files[file], int):
        return int(files[file])
    found = read_json(file).get(files[file])
    if stated != found:
        raise UserError(
            f"models/{name}/card.yaml: input_sample_rate is {stated}, but {file} says {files[file]}: {found}; "
            "take the weights that the card describes, or mend the card"
        )
    return stated


def build(corpus: Path, target: Path, rate: int) -> dict[str, Any]:
    """Resample every clip of `corpus` to `rate` Hz into `target`. Returns what the metrics should say of it."""
    check_sox()
    rows = read_manifest(corpus)
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
