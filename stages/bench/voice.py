"""How well the voices speak, step by step: recordings, codec alone, base alone, and what fine-tuning made of it.

    python -m stages.bench.voice            (make bench-voice)

Works on the last run (`make repro` first) and hears everything as the gate does. The codecs get the recordings that
nobody trained on, and what two of Kokoro's voices say that nothing was trained on. A base reads sentences that it has never
seen, in these voices and the demo speaker's.
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
from stages.bases.kokoro import SAMPLE_RATE, Kokoro
from stages.bases.natural import HELD_OUT
from stages.bases.sentences import example_sentences, stream
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

SENTENCES, WORDS = 32, 6  # that a base reads in each voice, of at least so many words
Heard = tuple[str, np.ndarray, int]  # text, audio, sample rate


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.bench.voice", description=__doc__.split("\n")[0])
    parser.add_argument("--model", action="append", help="a family of params.yaml's models; without it, all of them")
    params = load_params()
    names = parser.parse_args(argv).model or params.models
    corpus = Corpus(CORPUS)
    hearing = Hearing(Listener(params.gate.listener, params.corpus.language), corpus.speaker())
    held_out = [row for row in corpus.manifest if row["split"] != "train" and len(spoken(row["text"])) >= FEWEST_WORDS]
    texts = unseen(params, names)
    strangers = read_aloud(Kokoro(), texts)
    print(f"{'family':<12} {'what is heard':<44} {'word error':>10} {'similarity':>10} {'DNSMOS':>7}")
    recordings = [(row["text"], clip.audio, clip.sample_rate) for row in held_out for clip in [corpus.shards[row["id"]]]]
    show("-", f"{len(held_out)} held-out recordings", listen(hearing, recordings))
    for stranger, said in strangers.items():
        show("-", f"{len(said)} sentences, {stranger}", listen(hearing, said), stranger)
    for name in names:
        if not Path(f"data/{name}/gate/rows.jsonl").is_file():
            raise UserError(f"data/{name}/gate: not there; run `make repro` first, its results are measured")
        block, family = params.family(name), models.load(name)
        codec = family.codec(block.weights)
        voices = [read_voice(Path(f"data/{name}/tokens")), *(voice_of(codec, stranger, said) for stranger, said in strangers.items())]
        for voice, said in zip(voices, (recordings, *strangers.values()), strict=True):
            show(name, f"codec, {voice.speaker}", listen(hearing, through(codec, voice, said)), voice.speaker)
        for voice in voices:
            show(name, f"base, {SENTENCES} unseen sentences, {voice.speaker}", listen(hearing, base(family, block, codec, voice, texts, params, corpus)), voice.speaker)
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


def show(name: str, what: str, rows: Sequence[dict[str, Any]], speaker: str = "") -> None:
    """One line: word errors over all words, and the means of similarity (to the corpus' speaker) and DNSMOS."""
    found = score(rows, [])
    similarity, dnsmos = (math.nan if found[key] is None else found[key] for key in ("similarity", "dnsmos"))
    alike = f"{similarity:>10.3f}" if speaker not in HELD_OUT else f"{'':>10}"
    print(f"{name:<12} {what:<44} {found['word_error_rate']:>10.3f} {alike} {dnsmos:>7.2f}", flush=True)


def through(codec: Codec, voice: Voice, said: Sequence[Heard]) -> list[Heard]:
    """Recordings, encoded and decoded."""
    waves = codec.decode(codec.encode([resampled(wave, rate, codec.contract.sample_rate) for _, wave, rate in said]), voice)
    return [(text, wave, codec.output_sample_rate) for (text, *_), wave in zip(said, waves, strict=True)]


def voice_of(codec: Codec, name: str, said: Sequence[Heard]) -> Voice:
    """Who speaks in `said`, as the codec hears it."""
    vectors = [codec.speaker_embedding(resampled(wave, rate, codec.contract.sample_rate)) for _, wave, rate in said]
    return Voice(name, np.mean(vectors, 0))


def unseen(params: Params, names: Sequence[str]) -> list[str]:
    """Sentences of everyday prose (WordNet's examples) that none of the bases has seen."""
    recipes = [yaml.safe_load((params.family(name).weights / "recipe.yaml").read_text())["voices"] for name in names]
    real = example_sentences(DOWNLOADS)
    made_of = {(one["seed"], one["sentences"]) for one in recipes}
    seen = [" ".join(islice(stream(seed, real), count)).lower() for seed, count in sorted(made_of)]
    some = iter(random.Random(1).sample(real, len(real)))
    fresh = (text for text in some if len(spoken(text)) >= WORDS and not any(text.lower() in texts for texts in seen))
    return [f"{text[0].upper()}{text[1:]}." for text in islice(fresh, SENTENCES)]


def read_aloud(kokoro: Kokoro, texts: Sequence[str]) -> dict[str, list[Heard]]:
    """`texts` in each of the voices that no base has heard."""
    return {voice: [(text, kokoro.read(kokoro.words(text, voice), voice).audio, SAMPLE_RATE) for text in texts] for voice in HELD_OUT}


def base(family: Family, block: FamilyParams, codec: Codec, voice: Voice, texts: Sequence[str], params: Params, corpus: Corpus) -> list[Heard]:
    """The untouched base reads `texts` in `voice`."""
    sampling = Sampling(**block.sampling.model_dump())
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
