"""Stage `tokenise`: resampled audio -> codes, in the training format of one family.

    python -m stages.tokenise --model cosyvoice3

Clips are encoded in batches of like length. Each batch is kept in `.scratch` under the hash of what went into it, so a
killed run continues where it stopped and ends with the same bytes. What was written is read back and compared.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

import models
from models.parts.errors import UserError
from models.parts.family import Codec, Example, Family, Voice
from models.parts.precision import repeatable
from stages.common.cli import run
from stages.common.files import SCRATCH, read_jsonl, staged
from stages.common.metrics import StageMetrics
from stages.common.params import load_params
from stages.common.shards import Shards
from stages.common.tokens import SPLITS, write_contract, write_voice

BATCH_SECONDS = 60.0
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
        shards = Shards(Path(f"data/{name}/resampled"))
        rows = read_jsonl(Path("data/corpus/manifest.jsonl"))
        # 2. Codes and speaker vectors, batch by batch.
        scratch = SCRATCH / "tokenise" / name
        encoded = encode(codec, shards, rows, scratch)
        # 3. The family's own format, read back, and what it was made with.
        examples = {
            split: family.prepare([encoded[row["id"]] for row in rows if row["split"] == split], weights) for split in SPLITS
        }
        with staged(Path(f"data/{name}/tokens")) as folder:
            for split in SPLITS:
                family.write(examples[split], folder / split)
                verify(family, examples[split], folder / split)
            write_contract(folder, codec.contract, {split: len(examples[split]) for split in SPLITS})
            write_voice(folder, voice_of(examples["train"], family.references))
        frames = sum(len(example.codes) for example in encoded.values())
        used = np.unique(np.concatenate([e.codes[:, 0] for e in encoded.values()]))
        metrics.set(
            tokeniser=codec.contract.tokeniser, clips=len(encoded), frames=frames,
            tokens_per_10s=round(10 * codec.contract.token_rate * codec.contract.codebooks, 1),
            first_codebook_used=len(used), first_codebook_size=codec.contract.vocabulary[0],
        )
        shutil.rmtree(scratch)  # kept under what was encoded, not under the code that did it


def encode(codec: Codec, shards: Shards, rows: list[dict], scratch: Path) -> dict[str, Example]:
    """Every row of the manifest as an Example, by id."""
    scratch.mkdir(parents=True, exist_ok=True)
    encoded = {}
    for batch in tqdm(batches(rows), desc="tokenise", unit="batch"):
        key = hashlib.sha256(repr((codec.contract, [(r["id"], r["sha256"]) for r in batch])).encode()).hexdigest()[:32]
        file = scratch / f"{key}.safetensors"
        if not file.is_file():
            partial = file.with_suffix(".partial")
            save_file(encode_batch(codec, shards, batch), partial)
            partial.rename(file)
        arrays = load_file(file)
        for index, row in enumerate(batch):
            encoded[row["id"]] = Example(
                row["id"], row["text"], row["speaker"], arrays[f"{index}.codes"], arrays[f"{index}.speaker"]
            )
    return encoded


def batches(rows: list[dict]) -> list[list[dict]]:
    """Rows sorted by length, in batches of about a minute: clips of like length waste no padding."""
    result: list[list[dict]] = []
    for row in sorted(rows, key=lambda r: (r["seconds"], r["id"])):
        if not result or (len(result[-1]) + 1) * row["seconds"] > BATCH_SECONDS:
            result.append([])
        result[-1].append(row)
    return result


def encode_batch(codec: Codec, shards: Shards, batch: list[dict]) -> dict[str, np.ndarray]:
    """Codes and speaker vectors of one batch, checked: rate, frame count, range."""
    contract = codec.contract
    clips = [shards[row["id"]] for row in batch]
    for clip in clips:
        if clip.sample_rate != contract.sample_rate:
            raise UserError(f"{shards.folder}: clip {clip.id} has {clip.sample_rate} Hz, the tokeniser needs {contract.sample_rate}; run the resample stage again")
    arrays = {}
    for index, (clip, codes) in enumerate(zip(clips, codec.encode([c.audio for c in clips]), strict=True)):
        expected = len(clip.audio) / clip.sample_rate * contract.token_rate
        if abs(len(codes) - expected) > 2:
            raise UserError(f"{shards.folder}: clip {clip.id} gave {len(codes)} frames where its length makes {expected:.0f}; the tokeniser is not the one that its card describes")
        if codes.shape[1] != contract.codebooks or codes.min() < 0 or (codes.max(0) >= contract.vocabulary).any():
            raise UserError(f"{shards.folder}: clip {clip.id} gave codes outside of the vocabulary {contract.vocabulary}; the codec and its config.json do not belong together")
        arrays[f"{index}.codes"] = np.ascontiguousarray(codes, np.int32)
        arrays[f"{index}.speaker"] = codec.speaker_embedding(clip.audio).astype(np.float32)
    return arrays


def verify(family: Family, examples: list[Example], folder: Path) -> None:
    """What was written says exactly what was meant, in the same order."""
    back = family.read(folder)
    if len(back) != len(examples):
        raise UserError(f"{folder}: {len(examples)} utterances written, {len(back)} read back; the disk may be full")
    for wanted, found in zip(examples, back, strict=True):
        same = (wanted.id, wanted.text, wanted.speaker) == (found.id, found.text, found.speaker)
        if not same or not np.array_equal(wanted.codes, found.codes):
            raise UserError(f"{folder}: utterance {wanted.id} reads back different from what was written; please report this")


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


if __name__ == "__main__":
    run(main)
