"""Synthetic voices for the tiny bases: flite reads the made-up sentences, at varied speed and pitch.

The programs come from the operating system (`make bases` installs them when it runs as root). Nothing of the demo
speaker is in here: that is what makes fine-tuning on her a real transfer.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile as sf
from tqdm import tqdm

from models.parts.errors import UserError
from stages.common.shards import Clip, write_shards

SAMPLE_RATE = 16000
# Voice and its share of the sentences. Most are read by rms, a US man, whom a listener understands best: held-out sentences
# of the demo have a word error of 0.04 in his voice, 0.09 (slt), 0.10 (awb) and 0.11 (kal16) in the others.
FLITE = {"rms": 0.70, "slt": 0.15, "kal16": 0.08, "awb": 0.07}
PITCH = {"slt": 170, "rms": 95, "kal16": 105, "awb": 125}
Phone = tuple[str, float]  # its name, and when it ends (seconds)


def read_aloud(text: str, voice: str, stretch: float, pitch: float) -> tuple[np.ndarray, list[Phone]]:
    """`text` in a flite voice: mono float32 at 16 kHz, and its phones. `stretch` scales durations, `pitch` is the mean F0
    in Hz."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as wav:
        said = subprocess.run(
            ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}",
             "--setf", f"int_f0_target_mean={pitch:.1f}", "-psdur", "-t", text, "-o", wav.name],
            check=True, capture_output=True, text=True,
        )
        audio, rate = sf.read(wav.name, dtype="float32")
    if rate != SAMPLE_RATE:
        raise UserError(f"flite voice {voice}: speaks at {rate} Hz, expected {SAMPLE_RATE}; install Debian's flite 2.2")
    return audio, [(name, float(end)) for name, _, end in (part.rpartition(":") for part in said.stdout.split())]


def phone_labels(phones: list[Phone], times: np.ndarray) -> list[tuple[str, str]]:
    """What is being said at `times` (seconds): the phone before and the one at hand in the first half of a phone, this one
    and the next in the second."""
    names, ends = [name for name, _ in phones], np.array([end for _, end in phones])
    at = np.minimum(np.searchsorted(ends, times), len(names) - 1)
    middles = (np.concatenate([[0.0], ends])[at] + ends[at]) / 2
    around = ["", *names, ""]
    return [(around[k], around[k + 1]) if time < middle else (around[k + 1], around[k + 2]) for k, time, middle in zip(at, times, middles, strict=True)]


def synthesise(folder: Path, texts: list[str], seed: int, workers: int = 2) -> list[dict]:
    """Read texts aloud into audio shards below `folder`; returns manifest rows (id, text, speaker, phones, seconds)."""
    if not shutil.which("flite"):
        raise UserError("flite: not installed; `apt-get install flite`, or `make bases` as root")
    rng = random.Random(seed)
    plan = []
    for index, text in enumerate(texts):
        voice = rng.choices(list(FLITE), list(FLITE.values()))[0]
        plan.append((f"{voice}-{index:06d}", text, voice, rng.uniform(0.92, 1.18), PITCH[voice] * rng.uniform(0.9, 1.12)))
    rows: list[dict] = []

    def clips():
        with ThreadPoolExecutor(workers) as pool:
            read = pool.map(lambda p: read_aloud(p[1], p[2], p[3], p[4]), plan)
            for (clip_id, text, voice, *_), (wave, phones) in tqdm(zip(plan, read, strict=True), total=len(texts), desc="synthesise", unit="clip"):
                rows.append({"id": clip_id, "text": text, "speaker": voice, "phones": phones, "seconds": len(wave) / SAMPLE_RATE})
                yield Clip(clip_id, SAMPLE_RATE, wave)

    write_shards(folder, clips())
    return rows
