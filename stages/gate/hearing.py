"""One take, heard and measured: the figures of a row of rows.jsonl, before any verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from speechmos import dnsmos

from stages.gate.listener import RATE, Listener, resampled
from stages.gate.speaker import Voices, centre, similarity
from stages.gate.words import align

FRAME = RATE // 100
SILENCE_DB = 40.0      # below the loudest 10 ms ...
NOTHING = 1e-6         # ... or below this power: -60 dB of full scale
DNSMOS_WINDOW = 144_160  # samples at 16 kHz; more windows would cost more than all the listening


class Hearing:
    """The listener, the speaker encoder and DNSMOS. `speaker`: recordings of the speaker as (audio, rate)."""

    def __init__(self, speaker: Sequence[tuple[np.ndarray, int]]):
        self.listener = Listener()
        self._voices = Voices()
        self._speaker = centre([self._voices.embed(resampled(audio, rate, RATE)) for audio, rate in speaker])
        dnsmos.run(np.zeros(RATE, np.float32), RATE)  # loads its networks, which threads must not do at the same time

    def measure(self, text: str, audio: np.ndarray, sample_rate: int) -> dict[str, Any]:
        """`audio`: float32 (samples,). Lengths are seconds, `rate` is heard words a second of speech.

        `transcript` is empty when nothing was made out.
        """
        wave = resampled(audio, sample_rate, RATE)
        leading, trailing = silences(wave)
        speech = len(wave) / RATE - leading - trailing
        transcript = self.listener.transcribe(wave) if speech > 0 else ""  # Whisper hears "you" in silence
        alignment = align(text, transcript)
        return {
            "seconds": round(len(audio) / sample_rate, 3),
            "transcript": transcript if alignment.heard else "",
            "words": [list(word) for word in alignment.words],
            "errors": alignment.errors(),
            "word_error_rate": round(alignment.word_error_rate, 4),
            "rate": round(len(alignment.heard) / speech, 3) if speech > 0 else None,
            "leading_silence": round(leading, 2),
            "trailing_silence": round(trailing, 2),
            "similarity": similarity(self._voices.embed(wave), self._speaker),
            "dnsmos": _dnsmos(wave),
        }


def unheard(text: str) -> dict[str, Any]:
    """The same figures for a take that does not exist: every word is dropped."""
    alignment = align(text, "")
    return {
        "seconds": None, "transcript": None, "words": [list(word) for word in alignment.words],
        "errors": alignment.errors(), "word_error_rate": 1.0, "rate": None,
        "leading_silence": None, "trailing_silence": None, "similarity": None, "dnsmos": None,
    }  # fmt: skip


def silences(wave: np.ndarray) -> tuple[float, float]:
    """Seconds of silence at the start and the end of a wave at 16 kHz; all of it at the end where there is no sound."""
    frames = wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME)
    power = (frames.astype(np.float64) ** 2).mean(1) if len(frames) else np.zeros(0)
    loud = np.flatnonzero(power > max(power.max(initial=0.0) * 10 ** (-SILENCE_DB / 10), NOTHING))
    if not len(loud):
        return 0.0, len(wave) / RATE
    return loud[0] * FRAME / RATE, (len(wave) - (loud[-1] + 1) * FRAME) / RATE


def _dnsmos(wave: np.ndarray) -> float | None:
    """Overall DNSMOS P.835 of the first nine seconds."""
    if not len(wave):
        return None
    window = np.clip(np.resize(wave, DNSMOS_WINDOW), -1.0, 1.0)  # shorter takes are said again, as DNSMOS itself does
    return round(float(dnsmos.run(window, RATE)["ovrl_mos"]), 3)
