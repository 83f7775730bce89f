"""How much a take sounds like the speaker: Resemblyzer's d-vectors (GE2E, Wan et al. 2018).

Its absolute scale says little (two synthetic voices reach 0.97); what counts is the distance from what real
recordings of the speaker reach among themselves. The package's weights are a state dict, which torch (2.6 and later)
reads without unpickling anything else.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from resemblyzer import VoiceEncoder, preprocess_wav

from stages.gate.audio import RATE, resampled

LEAST = 0.5  # seconds of voice below which an embedding means nothing


class Speaker:
    """Who is meant to speak: `voice`, as `of` gives it; None: nothing is like them or unlike."""

    def __init__(self, voice: np.ndarray | None = None) -> None:
        self._encoder = VoiceEncoder("cpu", verbose=False)
        self._voice = voice

    def of(self, recordings: Iterable[tuple[np.ndarray, int]]) -> np.ndarray | None:
        """The mean direction of recordings, (audio, rate) each; None where none has enough voice."""
        known = [one for audio, rate in recordings if (one := self._embed(resampled(audio, rate, RATE))) is not None]
        if not known:
            return None
        mean = np.mean(known, axis=0)
        return np.asarray(mean / np.linalg.norm(mean))

    def similarity(self, audio: np.ndarray) -> float | None:
        """Of audio at 16 kHz: the cosine, -1 to 1; None when one side is unknown."""
        embedding = self._embed(audio)
        return None if embedding is None or self._voice is None else round(float(embedding @ self._voice), 4)

    def _embed(self, audio: np.ndarray) -> np.ndarray | None:
        """The embedding of audio at 16 kHz, float32 (256,) of length one; None where there is too little voice to tell."""
        if not len(audio) or not np.abs(audio).max():
            return None
        voiced = preprocess_wav(audio.astype(np.float32))
        if len(voiced) < LEAST * RATE:
            return None
        return np.asarray(self._encoder.embed_utterance(voiced))
