"""How well the voices speak, step by step: recordings, codec alone, base alone, and what fine-tuning made of it.

    python -m stages.bench.voice            (make bench-voice)

Works on the last run (`make repro` first) and hears everything as the gate does. The codecs get the recordings that
nobody trained on; a base reads sentences of its own domain that it has never seen, in a synthetic voice.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm import trange

import models
from models.parts.errors import UserError
from models.parts.family import Codec, Family, Sampling, Voice
from stages.bases.debian import DOWNLOADS
from stages.bases.sentences import clause, example_sentences, stream
from stages.bases.voices import FLITE, PITCH, SAMPLE_RATE, read_aloud
from stages.common.cli import run
from stages.common.files import read_json, read_jsonl
from stages.common.params import FamilyParams, Params, load_params
from stages.common.shards import Shards
from stages.common.tokens import read_voice
from stages.gate.audio import resampled
from stages.gate.corpus import CORPUS, Corpus
from stages.gate.hearing import Hearing
from stages.gate.judging import TOGETHER
from stages.gate.listener import Listener
from stages.gate.prompts import FEWEST_WORDS
from stages.gate.reader import Reader, Script
from stages.gate.spoken import spoken
from stages.gate.verdict import measured, score

SENTENCES = 32      # that a base reads
SYNTHETIC = max(FLITE, key=FLITE.__getitem__)   # the voice that the bases heard most of
Heard = tuple[str, np.ndarray, int]  # text, audio, sample rate


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.bench.voice", description=__doc__.split("\n")[0])
    parser.add_argument("--model", action="append", help="a family of params.yaml's models; without it, all of them")
    params = load_params()
    names = parser.parse_args(argv).model or params.models
    corpus = Corpus(CORPUS)
    hearing = Hearing(Listener(params.gate.listener, params.corpus.language), corpus.speaker())
    held_out = [row for row in corpus.manifest if row["split"] != "train" and len(spoken(row["text"])) >= FEWEST_WORDS]
    print(f"{'family':<12} {'what is heard':<44} {'word error':>10} {'similarity':>10} {'DNSMOS':>7}")
    recordings = [(row["text"], clip.audio, clip.sample_rate) for row in held_out for clip in [corpus.shards[row["id"]]]]
    show("-", f"{len(held_out)} held-out recordings", listen(hearing, recordings))
    for name in names:
        if not Path(f"data/{name}/gate/rows.jsonl").is_file():
            raise UserError(f"data/{name}/gate: not there; run `make repro` first, its results are measured")
        block, family = params.family(name), models.load(name)
        codec = family.codec(block.weights)
        show(name, "the same through the codec", listen(hearing, through(codec, name, held_out)))
        show(name, f"base, {SENTENCES} unseen sentences, synthetic voice", listen(hearing, base(family, block, codec, params, corpus)))
        tuned(name)
        seconds = encoding(codec, name)
        print(f"{name:<12} encodes the corpus ({corpus.stats['seconds'] / 60:.0f} min) in {seconds:.1f} s")


def listen(hearing: Hearing, takes: Iterable[Heard]) -> list[dict[str, Any]]:
    takes, rows = list(takes), []
    for start in trange(0, len(takes), TOGETHER, desc="listen", leave=False, disable=None):
        some = takes[start : start + TOGETHER]
        heard = hearing.hear([(audio, rate) for _, audio, rate in some], [text for text, _, _ in some])
        rows += [measured(text, one) for (text, _, _), one in zip(some, heard, strict=True)]
    return rows


def show(name: str, what: str, rows: Sequence[dict[str, Any]]) -> None:
    """One line: word errors over all words, and the means of similarity and DNSMOS."""
    found = score(rows, [])
    similarity, dnsmos = (math.nan if found[key] is None else found[key] for key in ("similarity", "dnsmos"))
    print(f"{name:<12} {what:<44} {found['word_error_rate']:>10.3f} {similarity:>10.3f} {dnsmos:>7.2f}", flush=True)


def through(codec: Codec, name: str, rows: Sequence[dict[str, Any]]) -> list[Heard]:
    """Recordings, encoded and decoded."""
    shards, voice = Shards(Path(f"data/{name}/resampled")), read_voice(Path(f"data/{name}/tokens"))
    waves = codec.decode(codec.encode([shards[row["id"]].audio for row in rows]), voice)
    return [(row["text"], wave, codec.output_sample_rate) for row, wave in zip(rows, waves, strict=True)]


def base(family: Family, block: FamilyParams, codec: Codec, params: Params, corpus: Corpus) -> list[Heard]:
    """The untouched base reads sentences of its domain that were not in its training."""
    recipe = yaml.safe_load((block.weights / "recipe.yaml").read_text())["voices"]
    known = set(islice(stream(recipe["seed"], example_sentences(DOWNLOADS)), recipe["sentences"]))
    rng = random.Random(1)
    texts = list(islice((text for text in iter(lambda: f"{clause(rng).capitalize()}.", None) if text not in known), SENTENCES))
    read = [read_aloud(text, SYNTHETIC, 1.0, PITCH[SYNTHETIC])[0] for text in texts[:8]]
    vectors = [codec.speaker_embedding(resampled(wave, SAMPLE_RATE, codec.contract.sample_rate)) for wave in read]
    voice, sampling = Voice(SYNTHETIC, np.mean(vectors, 0)), Sampling(**block.sampling.model_dump())
    reader, network = Reader(family, codec, voice, sampling, corpus.stats["chars_per_second"]), family.network(block.weights, block.torch_dtype)
    takes = reader.read(network, [Script(str(index), text, 1) for index, text in enumerate(texts)], params.reading.segment_words)
    return [(text, np.zeros(0, np.float32) if take.audio is None else take.audio, codec.output_sample_rate) for text, take in zip(texts, takes, strict=True)]


def tuned(name: str) -> None:
    """The gate's takes of the base and of the checkpoint that the report calls best: held-out sentences first, then all
    texts."""
    rows = read_jsonl(Path(f"data/{name}/gate/rows.jsonl"))
    best = read_json(Path(f"reports/families/{name}/summary.json"))["chosen"]["best"]
    for checkpoint in dict.fromkeys(["base", best]):
        for kind, kinds in (("held-out", ("held-out",)), ("all", ("held-out", "general"))):
            takes = [row for row in rows if row["checkpoint"] == checkpoint and row["phase"] == "confirm" and row["kind"] in kinds]
            show(name, f"gate, {checkpoint}, {kind} texts", takes)


def encoding(codec: Codec, name: str) -> float:
    """Seconds that the codec takes for the whole corpus."""
    waves = [clip.audio for clip in Shards(Path(f"data/{name}/resampled"))]
    start = time.perf_counter()
    codec.encode(waves)
    return time.perf_counter() - start


if __name__ == "__main__":
    run(main)
