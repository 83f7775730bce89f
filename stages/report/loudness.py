"""How loud takes are, so that a listener compares voices and not volumes. The audio files stay as they are: the page
turns players down."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pyloudnorm
import soundfile as sf

QUIET = 6.0  # dB below the median from which a take does not pull all others down with it


class Sound(NamedTuple):
    """Of an audio file: its seconds, its integrated loudness (ITU-R BS.1770, in LUFS; None: silent, or too short to tell),
    the volume (0 to 1) that makes it as loud as the others, and the dB that it stays below them even at full volume."""

    seconds: float
    loudness: float | None
    volume: float
    below: float


def matched(files: Mapping[str, Path]) -> dict[str, Sound]:
    """Each file's `Sound`. A player has no volume above 1: all come down to the quietest that is within `QUIET` dB of the
    median."""
    heard = {name: _measured(path) for name, path in files.items()}
    known = [loudness for _, loudness in heard.values() if loudness is not None]
    target = min((one for one in known if one >= median(known) - QUIET), default=0.0)
    found = {}
    for name, (seconds, loudness) in heard.items():
        gain = 0.0 if loudness is None else target - loudness
        found[name] = Sound(round(seconds, 3), loudness, round(min(1.0, 10 ** (gain / 20)), 3), round(max(0.0, gain), 1))
    return found


def _measured(path: Path) -> tuple[float, float | None]:
    audio, rate = sf.read(path)
    meter = pyloudnorm.Meter(rate)
    if len(audio) <= meter.block_size * rate:
        return len(audio) / rate, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of silence
        loudness = float(meter.integrated_loudness(audio))
    return len(audio) / rate, loudness if isfinite(loudness) else None
