"""Real speech for tests: clips of the demo corpus, with their texts."""

from __future__ import annotations

import zipfile
from functools import cache
from pathlib import Path

import numpy as np

from stages.common.audio import decode
from stages.common.files import read_jsonl

DEMO = Path(__file__).parents[1] / "data/demo"
RATE = 16_000
# Clips that make a take of more than half a minute.
LONG = (
    "agent-newlocation", "conf-placeintoconf", "demo-echodone", "dir-nomatch", "vm-nobodyavail", "feature-not-avail-line",
    "pls-hold-while-try", "vm-nonumber", "vm-msgforwarded", "vm-tempgreetactive", "privacy-prompt", "vm-newpassword",
)  # fmt: skip


@cache
def speech(clip: str) -> tuple[str, np.ndarray]:
    """Text and audio (float32, 16 kHz, silence at the ends cut to about 0.1 s) of one demo clip."""
    row = next(row for row in read_jsonl(DEMO / "transcripts.jsonl") if row["id"] == clip)
    with zipfile.ZipFile(DEMO / "allison.zip") as archive:
        audio = decode(archive.read(Path(row["audio"]).name), row["audio"])[0][:, 0]
    loud = np.flatnonzero(np.abs(audio) > np.abs(audio).max() * 10 ** (-45 / 20))
    return row["text"], audio[max(loud[0] - RATE // 10, 0) : loud[-1] + RATE // 10]


def joined(*clips: str, pause: float = 0.3) -> np.ndarray:
    """The audio of several clips with pauses between them."""
    silence = np.zeros(round(pause * RATE), np.float32)
    return np.concatenate([part for clip in clips for part in (silence, speech(clip)[1])][1:])


def text_of(*clips: str) -> str:
    return " ".join(speech(clip)[0].rstrip(".") + "." for clip in clips)
