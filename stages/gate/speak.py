"""Hear any text, read as the gate reads it: long ones in its segments, with a cap on every length.

    python -m stages.gate.speak --model qwen3_tts --text "…" --out take.wav [--checkpoint epoch-04] [--scale 0.5] [--seed 11]

Without a checkpoint it is the promoted one. A folder that `stages.export` wrote may stand in its place.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import soundfile as sf
import torch
from tqdm import tqdm

import models
from models.parts.errors import UserError
from models.parts.family import Sampling
from models.parts.precision import compute_device, repeatable
from stages.common.checkpoints import Checkpoints
from stages.common.cli import run
from stages.common.files import EXPORT, read_json
from stages.common.params import Params, load_params
from stages.common.tokens import read_voice
from stages.gate.reader import Reader, Script
from stages.gate.segments import segments


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.gate.speak", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.wav")
    parser.add_argument("--checkpoint", help="epoch-04, base, or an exported folder; else the promoted one")
    parser.add_argument("--scale", type=float, help="of the LoRA; else that of params.yaml")
    parser.add_argument("--seed", type=int, default=11)
    asked = parser.parse_args(argv)
    if not asked.text.strip():
        raise UserError("--text: nothing to say; give the words that you want to hear")
    if not asked.out.parent.is_dir():
        raise UserError(f"--out: {asked.out.parent}: no such folder; make it first")
    repeatable()
    if asked.checkpoint and Path(asked.checkpoint).is_dir():
        reader, network, segment_words = of_export(asked.model, Path(asked.checkpoint), asked.scale)
    else:
        reader, network, segment_words = of_checkpoint(asked.model, load_params(), asked.checkpoint, asked.scale)
    parts = len(segments(asked.text, segment_words))
    with tqdm(total=parts, desc=f"speak {asked.model}", unit="segment", disable=None) as bar:
        (take,) = reader.read(network, [Script("speak", asked.text, asked.seed)], segment_words, bar.update)
    if take.audio is None:
        raise UserError(f"{asked.model}: the take failed ({take.error}); try another checkpoint or --seed")
    if not len(take.audio):
        raise UserError(f"{asked.model}: the take is empty: the network stopped at once; try another checkpoint or --seed")
    sf.write(asked.out, take.audio, reader.codec.output_sample_rate, subtype="PCM_16")
    seconds = len(take.audio) / reader.codec.output_sample_rate
    capped = "; it never stopped by itself, so its end was cut off" if take.finish == "length" else ""
    print(f"{asked.out}: {seconds:.1f} s{capped}")


Voicing = tuple[Reader, torch.nn.Module, int | None]  # and how long texts are cut


def of_checkpoint(name: str, params: Params, checkpoint: str | None, scale: float | None) -> Voicing:
    """Reads with a checkpoint of this repository's run."""
    family, block = models.load(name), params.family(name)
    if checkpoint is None:
        verdict = read_json(Path(f"data/{name}/gate/verdict.json"))
        checkpoint = verdict["promoted"]
        if checkpoint is None:
            raise UserError(f"{name}: {verdict['why']} Say which one should speak, like CHECKPOINT={verdict['order'][-1]}")
    if scale is not None:
        checkpoint = f"{checkpoint.partition('@')[0]}@{scale}"
    network = Checkpoints(family, block, Path(f"data/{name}/checkpoints")).network(checkpoint)
    pace = read_json(Path("data/corpus/stats.json"))["chars_per_second"]
    voice, sampling = read_voice(Path(f"data/{name}/tokens")), Sampling(**block.sampling.model_dump())
    return Reader(family, family.codec(block.weights), voice, sampling, pace), network, params.reading.segment_words


def of_export(name: str, folder: Path, scale: float | None) -> Voicing:
    """Reads with an exported folder, wherever it lies."""
    record = read_json(folder / EXPORT)
    if record["family"] != name or record["checkpoint"] is None:
        raise UserError(f"{folder}: holds no voice of {name}; it says {record['checkpoint']} of {record['family']}")
    if scale is not None:
        raise UserError(f"{folder}: is merged already, at scale {record['scale']}; leave SCALE out, or name a checkpoint")
    family = models.load(name)
    network = family.network(folder, getattr(torch, record["dtype"]), compute_device())
    sampling, pace = Sampling(**record["sampling"]), record["chars_per_second"]
    return Reader(family, family.codec(folder), read_voice(folder), sampling, pace), network, record["segment_words"]


if __name__ == "__main__":
    run(main)
