"""When a take sounds, and whether the words that are heard account for it.

Whisper writes a phrase once that is said twice, and leaves out what it can't make out. The time such words take tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from stages.gate.audio import FRAME, RATE
from stages.gate.listener import Word
from stages.gate.spoken import spoken

SECOND = RATE // FRAME  # frames
NEIGHBOURS = 4  # words over which the time that they take is added up
WORD = 2.0      # letters' worth of time that a word takes besides its letters


def timing(sound: np.ndarray, words: Sequence[Word]) -> dict[str, Any]:
    """The seconds of a row of rows.jsonl. `sound`: bool (frames,), which 10 ms are not silent; `words`: heard in them, in order.

    `speech` runs from the first sound to the last, `pause` is the longest silence in it, and `unexplained` the most that a
    few words sound longer than as many letters do elsewhere in the take. `…_after` names the word before.
    """
    frames = np.flatnonzero(sound)
    first, last = (int(frames[0]), int(frames[-1]) + 1) if len(frames) else (0, 0)
    pause, before = _pause(frames)
    unexplained, index = _unexplained(sound, words)
    return {
        "speech": round((last - first) / SECOND, 3),
        "leading_silence": round(first / SECOND, 2),
        "trailing_silence": round((len(sound) - last) / SECOND, 2),
        "pause": round(pause / SECOND, 2),
        "pause_after": _last([word for word in words if word.start * SECOND < before]),
        "unexplained": round(unexplained / SECOND, 2),
        "unexplained_after": _last(words[:index]),
    }


def _pause(frames: np.ndarray) -> tuple[int, int]:
    """The most frames of silence between two sounds, and the frame of the sound before. `frames`: those that sound."""
    gaps = np.diff(frames) - 1
    return (int(gaps.max()), int(frames[gaps.argmax()])) if len(gaps) else (0, 0)


def slowest(sound: np.ndarray, words: Sequence[Word]) -> tuple[int, float]:
    """The number of the word that sounds longest beyond its letters' worth, and by how many seconds."""
    beyond = _beyond(sound, words)
    return (int(beyond.argmax()), float(beyond.max()) / SECOND) if words else (0, 0.0)


def _unexplained(sound: np.ndarray, words: Sequence[Word]) -> tuple[float, int]:
    """Frames of sound beyond what is due to the letters of one to `NEIGHBOURS` words, and the number of the first of them."""
    beyond = _beyond(sound, words)
    sums = [np.convolve(beyond, np.ones(count), "valid") for count in range(1, min(NEIGHBOURS, len(words)) + 1)]
    return max(((float(some.max()), int(some.argmax())) for some in sums), default=(0.0, 0))


def _beyond(sound: np.ndarray, words: Sequence[Word]) -> np.ndarray:
    """Frames (words,) of sound beyond what is due to the letters of each word, by the pace of most."""
    if not words:
        return np.zeros(0)
    starts = [0, *(round(word.start * SECOND) for word in words[1:]), len(sound)]
    taken = np.array([sound[start:end].sum() for start, end in pairwise(starts)])
    letters = np.array([len("".join(spoken(word.text))) + WORD for word in words])
    return np.asarray(taken - letters * np.median(taken / letters))


def _last(words: Sequence[Word]) -> str | None:
    """As it is said, without its punctuation."""
    return " ".join(spoken(words[-1].text)) if words else None
