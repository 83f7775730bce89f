"""How fast released IndexTTS2 prepares recordings: every clip in one pass, one on each core, against upstream's way.

    python -m stages.bench.preparation        (make bench)

Upstream's preprocessing (instavar/indextts2-finetuning, tools/preprocess_data.py, as it comes) takes one clip at a time: features
by transformers, all layers of w2v-bert, codes, condition, emotion. Both ways run on a release of rehearsal's size, in turn.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchaudio
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

import models
from models.indextts2.released.codec import RATE, ReleasedCodec
from models.indextts2.released.files import HEARING, LAYERS, hearing_config
from models.indextts2.released.hearing import RATE as HEARD
from models.parts.weights import load_into
from stages.bench.__main__ import show
from stages.common.cli import run

SECONDS = np.linspace(2, 8, 12)  # of the clips


def main(argv: list[str]) -> None:
    argparse.ArgumentParser(prog="stages.bench.preparation", description=__doc__.split("\n")[0]).parse_args(argv)
    random, family = np.random.default_rng(1), models.load("indextts2")
    clips = [(0.1 * random.standard_normal(round(RATE * seconds))).astype(np.float32) for seconds in SECONDS]
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        family.write_release(Path(place), "small")
        codec = family.codec(Path(place))
        assert isinstance(codec, ReleasedCodec)
        theirs = one_at_a_time(codec, Path(place))
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        differ = [(ours != codes).mean() for (ours, _), codes in zip(codec.prepared(clips), map(theirs, clips), strict=True)]
        show(family, "prepare: clips/s, one pass each / upstream's way", len(clips), lambda: codec.prepared(clips), lambda: [theirs(clip) for clip in clips])
    print(f"{family.name:<12} of the codes, {np.mean(differ):.2%} differ between the two")


def one_at_a_time(codec: ReleasedCodec, release: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Upstream's steps for a clip at 24 kHz; returns its codes (T, 1)."""
    extractor = SeamlessM4TFeatureExtractor.from_pretrained(release / HEARING)
    model = Wav2Vec2BertModel(Wav2Vec2BertConfig.from_dict(hearing_config(release))).eval()
    load_into(model, release / HEARING / "model.safetensors")

    @torch.no_grad()
    def prepare(clip: np.ndarray) -> np.ndarray:
        wave = torchaudio.functional.resample(torch.from_numpy(clip), RATE, HEARD)
        inputs = extractor(wave.numpy(), sampling_rate=HEARD, return_tensors="pt")
        states = model(**inputs, output_hidden_states=True).hidden_states[LAYERS]
        points = (states - codec.hearing.mean) / codec.hearing.var.sqrt()
        codes = codec.repcodec.codes(points[0]).numpy()[:, None]
        codec.conditioner.condition(points, inputs["attention_mask"].sum(1))
        return codes

    return prepare


if __name__ == "__main__":
    run(main)
