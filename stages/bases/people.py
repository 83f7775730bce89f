"""People for the tiny decoders: three professional speakers of telephone prompts, from Debian's packages.

A decoder that has heard synthetic voices alone does not know what a person sounds like. These speak French, Italian
and Russian; none of them is the demo speaker. Each recording is also played slower and faster, which shifts pitch and
formants: nine voices from three. The language models never hear them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torchaudio

from models.parts.errors import UserError
from stages.common.audio import decode
from stages.common.shards import Clip

# package: speaker. June Wallack and Carlo Flora: CC BY-SA 3.0; Maxim Topal: CC BY 3.0.
SPEAKERS = {
    "asterisk-core-sounds-fr-g722": "june",
    "asterisk-core-sounds-it-g722": "carlo",
    "asterisk-core-sounds-ru-g722": "maxim",
}
SPEEDS = (0.88, 1.0, 1.13)
SAMPLE_RATE = 16000


def recordings(packages: list[str], folder: Path) -> Iterator[Clip]:
    """Every prompt of 1 to 25 s at every speed, mono float32 at 16 kHz. `packages` are downloaded to `folder`."""
    if not shutil.which("apt-get"):
        raise UserError("apt-get: not found; the people's recordings come from Debian's packages")
    for package in packages:
        unpacked = folder / package
        if not unpacked.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True)
            (archive,) = folder.glob(f"{package}_*.deb")
            subprocess.run(["dpkg", "-x", archive.name, package], cwd=folder, check=True)
        for file in sorted(unpacked.rglob("*.g722")):
            if "silence" in file.parts or file.stat().st_size < SAMPLE_RATE // 2:  # one of them is empty
                continue
            audio = decode(file.read_bytes(), file.name)[0][:, 0]
            for speed in SPEEDS:
                changed = torchaudio.functional.resample(torch.from_numpy(audio), round(SAMPLE_RATE * speed), SAMPLE_RATE).numpy()
                if SAMPLE_RATE <= len(changed) <= 25 * SAMPLE_RATE and np.abs(changed).max() > 0.02:
                    yield Clip(f"{SPEAKERS[package]}-{file.relative_to(unpacked).with_suffix('')}-{speed}", SAMPLE_RATE, changed)
