"""Stage `tokenise`: resampled audio -> codes, in the training format of one family.

    python -m stages.tokenise --model cosyvoice3

Clips are encoded in batches of like length, on every core or on every GPU. Each batch is kept in `.scratch` under the hash
of what went into it, so a killed run continues where it stopped and ends with the same bytes. What was written is read back
and compared.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

import models
from models.parts.errors import UserError
from models.parts.family import Codec, Example, Family, Voice
from models.parts.precision import cards, repeatable
from stages.common.cli import run
from stages.common.codes import CODES, brought_codes
from stages.common.files import SCRATCH, staged
from stages.common.metrics import StageMetrics
from stages.common.parallel import Workers
from stages.common.params import load_params
from stages.common.shards import Clip, Shards, read_manifest
from stages.common.tokens import SPLITS, write_contract, write_voice

CORPUS = Path("data/corpus")
BATCH_SECONDS = 60.0
COMPARED, MOST_DIFFERENT = 5, 0.005  # clips, and the share of their codes that may differ from what upstream itself runs
FLAT = 5  # samples in flat tops, from which on a clip counts as clipped
VOICE_CLIPS = 20  # the speaker's voice is the mean over so many of the longest training clips


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.tokenise", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    name = parser.parse_args(argv).model
    params = load_params()
    with StageMetrics("tokenise", name) as metrics:
        # 1. The family, its codec, and the audio that `resample` prepared for it.
        repeatable()
        family = models.load(name)
        weights = params.family(name).weights
        codec = family.codec(weights)
        rows = read_manifest(CORPUS)
        # 2. Codes and speaker vectors, batch by batch.
        scratch = SCRATCH / "tokenise" / name
        audio = Path(f"data/{name}/resampled")
        brought = brought_codes(CORPUS, codec.contract)
        encoded = encode(name, weights, codec, audio, rows, scratch, brought)
        # 3. The family's own format, read back, and what it was made with.
        examples = {
            split: family.prepare([encoded[row["id"]] for row in rows if row["split"] == split], weights) for split in SPLITS
        }
        with staged(Path(f"data/{name}/tokens")) as folder:
            for split in SPLITS:
                family.write(examples[split], folder / split)
                verify(family, examples[split], folder / split)
            differ = compare(codec, examples["train"], audio)
            write_contract(folder, codec.contract, {split: len(examples[split]) for split in SPLITS})
            voice = voice_of(examples["train"], family.references)
            if codec.reference_seconds:
                voice = with_reference(voice, codec, examples["train"], Shards(audio))
            write_voice(folder, voice)
        frames = sum(len(example.codes) for example in encoded.values())
        contract = codec.contract
        metrics.set(
            tokeniser=contract.tokeniser, clips=len(encoded), frames=frames,
            tokens_per_10s=round(10 * contract.token_rate * contract.tokens, 1),
        )
        if contract.vocabulary:
            used = np.unique(np.concatenate([e.codes[:, 0] for e in encoded.values()]))
            metrics.set(first_codebook_used=len(used), first_codebook_size=contract.vocabulary[0])
        if brought is not None:
            metrics.set(own_voice=voice.speaker)
        if differ is not None:
            metrics.set(codes_that_differ_from_upstreams=round(differ, 6))
        shutil.rmtree(scratch)  # kept under what was encoded, not under the code that did it


def encode(
    name: str, weights: Path, codec: Codec, audio: Path, rows: list[dict], scratch: Path, brought: Mapping[str, np.ndarray] | None
) -> dict[str, Example]:  # fmt: skip
    """Every row of the manifest as an Example, by id; `audio` is the folder of their shards, `brought` their codes where the
    corpus brings those of this codec along."""
    scratch.mkdir(parents=True, exist_ok=True)
    todo, encoded = batches(rows), {}
    here = codec if len(cards()) < 2 else None  # on a card it is of no use to the process of another
    with Workers(partial(encoder, name, weights, here, audio, scratch, brought), cards=cards()) as workers:
        files = tqdm(workers.map(todo), desc="tokenise", total=len(todo), unit="batch")
        for batch, file in zip(todo, files, strict=True):
            arrays = load_file(file)
            for index, row in enumerate(batch):
                encoded[row["id"]] = Example(
                    row["id"], row["text"], row["speaker"], arrays[f"{index}.codes"], arrays[f"{index}.speaker"]
                )
    return encoded


def encoder(
    name: str, weights: Path, codec: Codec | None, audio: Path, scratch: Path, brought: Mapping[str, np.ndarray] | None
) -> Callable[[list[dict]], Path]:  # fmt: skip
    """What a process that encodes starts with: it gives the function that works on a batch. `codec`: None where it makes its own."""
    repeatable()
    own, shards = codec or models.load(name).codec(weights), Shards(audio)
    return lambda batch: kept(own, shards, batch, scratch, brought)


def batches(rows: list[dict]) -> list[list[dict]]:
    """Rows sorted by length, in batches of about a minute: clips of like length waste no padding."""
    result: list[list[dict]] = []
    for row in sorted(rows, key=lambda r: (r["seconds"], r["id"])):
        if not result or (len(result[-1]) + 1) * row["seconds"] > BATCH_SECONDS:
            result.append([])
        result[-1].append(row)
    return result


def kept(codec: Codec, shards: Shards, batch: list[dict], scratch: Path, brought: Mapping[str, np.ndarray] | None) -> Path:
    """The file with the arrays of one batch, from an earlier run or made now."""
    key = hashlib.sha256(repr((codec.contract, [(r["id"], r["sha256"]) for r in batch])).encode()).hexdigest()[:32]
    file = scratch / f"{key}.safetensors"
    if not file.is_file():
        partial = file.with_suffix(f".{os.getpid()}.partial")
        save_file(encode_batch(codec, shards, batch, brought), partial)
        partial.rename(file)
    return file


def encode_batch(
    codec: Codec, shards: Shards, batch: list[dict], brought: Mapping[str, np.ndarray] | None
) -> dict[str, np.ndarray]:  # fmt: skip
    """Codes and speaker vectors of one batch, checked: rate, frame count, range. `brought`: the codes, where they are known."""
    contract = codec.contract
    clips = [shards[row["id"]] for row in batch]
    for clip in clips:
        if clip.sample_rate != contract.sample_rate:
            raise UserError(f"{shards.folder}: clip {clip.id} has {clip.sample_rate} Hz, the tokeniser needs {contract.sample_rate}; run the resample stage again")
    if brought is None:
        encoded = prepared(codec, clips, shards.folder)
    elif unknown := [clip.id for clip in clips if clip.id not in brought]:
        raise UserError(f"{CORPUS / CODES}: no codes of clip {unknown[0]}; let it be said anew (stage takes), and don't add recordings to such a corpus")
    else:
        encoded = [(brought[clip.id], codec.speaker_embedding(clip.audio)) for clip in clips]
    arrays = {}
    for index, (clip, (codes, speaker)) in enumerate(zip(clips, encoded, strict=True)):
        expected = len(clip.audio) / clip.sample_rate * contract.token_rate
        if abs(len(codes) - expected) > 2:
            raise UserError(f"{shards.folder}: clip {clip.id} gave {len(codes)} frames where its length makes {expected:.0f}; the tokeniser is not the one that its card describes")
        if not contract.fits(codes):
            wrong = f"codes outside of the vocabulary {contract.vocabulary}"
            if not contract.vocabulary:
                wrong = f"values that are not {contract.codebooks} finite numbers a frame"
            raise UserError(f"{shards.folder}: clip {clip.id} gave {wrong}; the codec and its config.json do not belong together")
        arrays[f"{index}.codes"] = np.ascontiguousarray(codes, contract.dtype)
        arrays[f"{index}.speaker"] = speaker.astype(np.float32)
    return arrays


def prepared(codec: Codec, clips: list[Clip], folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Codes and speaker vectors of a batch. Where a codec refuses it, the clips go one by one, so that the one that is meant is named."""
    try:
        return codec.prepared([clip.audio for clip in clips])
    except UserError:
        found = []
        for clip in clips:
            try:
                found += codec.prepared([clip.audio])
            except UserError as error:
                raise UserError(f"{folder}: clip {clip.id}: {error}") from None
        return found


def verify(family: Family, examples: list[Example], folder: Path) -> None:
    """What was written says exactly what was meant, in the same order."""
    back = family.read(folder)
    if len(back) != len(examples):
        raise UserError(f"{folder}: {len(examples)} utterances written, {len(back)} read back; the disk may be full")
    for wanted, found in zip(examples, back, strict=True):
        same = (wanted.id, wanted.text, wanted.speaker) == (found.id, found.text, found.speaker)
        if not same or not np.array_equal(wanted.codes, found.codes):
            raise UserError(f"{folder}: utterance {wanted.id} reads back different from what was written; please report this")


def compare(codec: Codec, train: list[Example], audio: Path) -> float | None:
    """How many codes of a few clips, from short to long, are others than upstream's own; told where they are many."""
    shards, step = Shards(audio), max(1, len(train) // COMPARED)
    some = sorted(train, key=lambda example: (len(example.codes), example.id))[::step][:COMPARED]
    differ = codec.disagreement([shards[example.id].audio for example in some])
    if differ is not None and differ > MOST_DIFFERENT:
        print(f"{audio}: {differ:.2%} of the codes of {len(some)} clips are not those of upstream's own tokeniser; {MOST_DIFFERENT:.1%} may be rounding, more is other speech than the network learnt")
    return differ


def voice_of(train: list[Example], references: int = 0) -> Voice:
    """The speaker's vector: the float32 mean over the longest training clips, never the first item of a batch.

    The longest `references` of them come along, for families that take a prompt.
    """
    if not train:
        raise UserError("data/corpus/manifest.jsonl: no training utterance; lower corpus.validation and corpus.test or add recordings")
    longest = sorted(train, key=lambda e: (-len(e.codes), e.id))[:VOICE_CLIPS]
    vectors = np.stack([e.speaker_embedding for e in longest])
    mean = vectors.mean(0, dtype=np.float64).astype(np.float32)
    return Voice(longest[0].speaker, mean, tuple(longest[:references]))


def with_reference(voice: Voice, codec: Codec, train: list[Example], shards: Shards) -> Voice:
    """`voice` with a recording for a decoder that has to hear one, and that alone as its prompt.

    It is the longest training clip that the decoder hears whole; where all are longer, the shortest. One that is clipped
    is taken only where all are.
    """
    most = codec.reference_seconds * codec.contract.token_rate
    by_length = sorted(train, key=lambda e: (len(e.codes) > most, len(e.codes) if len(e.codes) > most else -len(e.codes), e.id))
    best = next((example for example in by_length if not is_clipped(shards[example.id].audio)), by_length[0])
    clip = shards[best.id]
    prompt = replace(best, codes=codec.prompt(clip.audio))
    vector = codec.voice_embedding(voice.speaker_embedding, clip.audio)
    return replace(voice, speaker_embedding=vector, prompts=(prompt,), reference=clip.audio, reference_rate=clip.sample_rate)


def is_clipped(audio: np.ndarray) -> bool:
    """Does it stay at its peak for several samples in a row, again and again?"""
    flat = np.abs(audio) >= 0.999 * np.abs(audio).max()
    return int((flat[:-2] & flat[1:-1] & flat[2:]).sum()) > FLAT


if __name__ == "__main__":
    run(main)
