"""What batching, bucketing and caching gain here, as ratios measured in one run, and what each stage costs.

    python -m stages.bench            (make bench)

Works on the tokenised sets of the last run (`make repro` first). Figures are the medians of three takes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import models
from models.parts.errors import UserError
from models.parts.family import Example, Family, Sampling, Voice
from stages.common.checkpoints import adapt_settings
from stages.common.cli import run
from stages.common.files import read_json
from stages.common.metrics import FOLDER
from stages.common.params import FamilyParams, load_params
from stages.common.shards import Shards
from stages.common.tokens import read_contract, read_split, read_voice
from stages.train.batching import length_batches

CLIPS = 24
STAGES = ("resample", "tokenise", "train", "gate")


def main(argv: list[str]) -> None:
    argparse.ArgumentParser(prog="stages.bench", description=__doc__.split("\n")[0]).parse_args(argv)
    params = load_params()
    print(f"{'family':<12} {'what':<46} {'first':>12} {'second':>12} {'ratio':>6}")
    for name in params.models:
        tokens = Path(f"data/{name}/tokens")
        if not tokens.is_dir():
            raise UserError(f"{tokens}: not there; run `make repro` first, the bench measures its data")
        family, block = models.load(name), params.family(name)
        examples, voice = read_split(family, tokens, "train"), read_voice(tokens)
        tokenising(family, block, name)
        if block.train.epochs:
            training(family, block, examples)
            if not read_contract(tokens).vocabulary:
                encoding_once(family, block, examples, name)
        generating(family, block, examples, voice)
    print(f"\n{'family':<12} {'stage':<10} {'seconds':>9} {'tokens/s':>9} {'peak MiB':>9}")
    for name in params.models:
        tokens_a_frame = read_contract(Path(f"data/{name}/tokens")).tokens
        for stage in STAGES:
            path = FOLDER / f"{stage}-{name}.json"
            if path.is_file():
                values = read_json(path)
                rate = f"{tokens_a_frame * values['frames'] / values['seconds']:.0f}" if values.get("frames") and values["seconds"] else "-"
                print(f"{name:<12} {stage:<10} {values['seconds']:>9} {rate:>9} {values['peak_mib']:>9}")


def tokenising(family: Family, block: FamilyParams, name: str) -> None:
    codec, shards = family.codec(block.weights), Shards(Path(f"data/{name}/resampled"))
    waves = [shards[clip_id].audio for clip_id in shards.ids()[:CLIPS]]
    show(family, "tokenise: clips/s, one batch / one by one", len(waves),
         lambda: codec.encode(waves), lambda: [codec.encode([wave]) for wave in waves])


def training(family: Family, block: FamilyParams, examples: list[Example]) -> None:
    train = block.train
    network = family.adapt(family.network(block.weights, block.torch_dtype), adapt_settings(train)).train()
    shuffled = random.Random(1).sample(examples, min(160, len(examples)))
    size = max(1, len(shuffled) // len(length_batches(shuffled, train.batch_frames)))
    packed = length_batches(shuffled, train.batch_frames)
    padded = [shuffled[i : i + size] for i in range(0, len(shuffled), size)]
    frames = sum(len(e.codes) for e in shuffled)

    def steps(batches: list[list[Example]]) -> Callable[[], Any]:
        return lambda: [family.loss(network, family.batch(network, batch)).total.backward() for batch in batches]

    show(family, "train: frames/s, packed by length / padded as they come", frames, steps(packed), steps(padded))
    show(family, "train: frames/s, packed by length / clip by clip", frames, steps(packed), steps([[example] for example in shuffled]))


def encoding_once(family: Family, block: FamilyParams, examples: list[Example], name: str) -> None:
    """What `tokenise` saves where upstream's trainer encodes the audio of every batch anew: patches of continuous values."""
    network = family.adapt(family.network(block.weights, block.torch_dtype), adapt_settings(block.train)).train()
    codec, shards = family.codec(block.weights), Shards(Path(f"data/{name}/resampled"))
    some = random.Random(1).sample(examples, min(CLIPS, len(examples)))

    def steps(codes: Callable[[list[Example]], list[np.ndarray]]) -> None:
        for batch in length_batches(some, block.train.batch_frames):
            heard = [replace(one, codes=found) for one, found in zip(batch, codes(batch), strict=True)]
            family.loss(network, family.batch(network, heard)).total.backward()

    show(family, "train: frames/s, encoded once / in every step", sum(len(e.codes) for e in some),
         lambda: steps(lambda batch: [e.codes for e in batch]),
         lambda: steps(lambda batch: codec.encode([shards[e.id].audio for e in batch])))


def generating(family: Family, block: FamilyParams, examples: list[Example], voice: Voice) -> None:
    network = family.network(block.weights, block.torch_dtype)
    texts = [e.text for e in sorted(examples, key=lambda e: -len(e.codes))[:8]]
    sampling = Sampling(**block.sampling.model_dump())
    limits = [60] * len(texts)

    def batch() -> None:
        family.generate(network, texts, voice, sampling, list(range(len(texts))), limits)

    def single() -> None:
        for index, text in enumerate(texts):
            family.generate(network, [text], voice, sampling, [index], [60])

    show(family, "generate: frames/s, one batch / one by one", sum(limits), batch, single)


def show(family: Family, what: str, work: int, first: Callable[[], Any], second: Callable[[], Any]) -> None:
    """One row: throughput of both ways and their ratio, taken in turn so that a slow moment hits both."""
    first()
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(3):
        for way, taken in zip((first, second), rates, strict=True):
            start = time.perf_counter()
            way()
            taken.append(work / (time.perf_counter() - start))
    one, two = map(statistics.median, rates)
    print(f"{family.name:<12} {what:<46} {one:>12.1f} {two:>12.1f} {one / two:>6.2f}", flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    run(main)
