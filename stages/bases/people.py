"""People for the tiny decoders: three professional speakers of telephone prompts, and the demo's training clips.

A decoder that has heard synthetic voices alone does not know what a person sounds like. The three speak French, Italian
and Russian, from Debian's packages. Each recording is also played slower and faster, which shifts pitch and formants.
The semantic codes and the language models are learnt without them, and nobody hears the demo's held-out clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torchaudio

from stages.bases.debian import unpacked
from stages.common.audio import decode
from stages.common.shards import Clip, Shards, read_manifest

# package: speaker. June Wallack and Carlo Flora: CC BY-SA 3.0; Maxim Topal: CC BY 3.0.
SPEAKERS = {
    "asterisk-core-sounds-fr-g722": "june",
    "asterisk-core-sounds-it-g722": "carlo",
    "asterisk-core-sounds-ru-g722": "maxim",
}
SPEEDS = (0.88, 1.0, 1.13)
SAMPLE_RATE = 16000


def recordings(packages: list[str], corpus: Path | None, downloads: Path) -> Iterator[Clip]:
    """Every recording of 1 to 25 s at every speed, mono float32 at 16 kHz: of the packages' speakers, and of the training
    split of `corpus` (the folder that the corpus stage wrote)."""
    for clip_id, audio in _recorded(packages, corpus, downloads):
        for speed in SPEEDS:
            changed = torchaudio.functional.resample(torch.from_numpy(audio), round(SAMPLE_RATE * speed), SAMPLE_RATE).numpy()
            if SAMPLE_RATE <= len(changed) <= 25 * SAMPLE_RATE and np.abs(changed).max() > 0.02:
                yield Clip(f"{clip_id}-{speed}", SAMPLE_RATE, changed)


def _recorded(packages: list[str], corpus: Path | None, downloads: Path) -> Iterator[tuple[str, np.ndarray]]:
    for package in packages:
        root = unpacked(package, downloads)
        for file in sorted(root.rglob("*.g722")):
            if "silence" in file.parts or file.stat().st_size < SAMPLE_RATE // 2:  # one of them is empty
                continue
            yield f"{SPEAKERS[package]}-{file.relative_to(root).with_suffix('')}", decode(file.read_bytes(), file.name)[0][:, 0]
    if corpus:
        shards = Shards(corpus)
        for row in read_manifest(corpus):
            if row["split"] == "train":
                clip = shards[row["id"]]
                yield f"{row['speaker']}-{clip.id}", torchaudio.functional.resample(torch.from_numpy(clip.audio), clip.sample_rate, SAMPLE_RATE).numpy()
