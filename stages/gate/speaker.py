"""How much a take sounds like the speaker: Resemblyzer's d-vectors (GE2E, Wan et al. 2018).

Its absolute scale says little (two synthetic voices reach 0.97); what counts is the distance from what real
recordings of the speaker reach among themselves. The package's weights are a state dict, which torch (2.6 and later)
reads without unpickling anything else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from resemblyzer import VoiceEncoder, preprocess_wav

LEAST = 0.5  # seconds of voice below which an embedding means nothing
RATE = 16_000


class Voices:
    """Speaker embeddings: float32 (256,), of length one, from audio at 16 kHz."""

    def __init__(self) -> None:
        self._encoder = VoiceEncoder("cpu", verbose=False)

    def embed(self, audio: np.ndarray) -> np.ndarray | None:
        """None where there is too little voice to tell."""
        if not len(audio) or not np.abs(audio).max():
            return None
        voiced = preprocess_wav(audio.astype(np.float32))
        if len(voiced) < LEAST * RATE:
            return None
        return np.asarray(self._encoder.embed_utterance(voiced))


def centre(embeddings: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The mean direction of the embeddings there are."""
    known = [one for one in embeddings if one is not None]
    if not known:
        return None
    mean = np.mean(known, axis=0)
    return np.asarray(mean / np.linalg.norm(mean))


def similarity(embedding: np.ndarray | None, reference: np.ndarray | None) -> float | None:
    """Cosine, -1 to 1; None when one side is unknown."""
    return None if embedding is None or reference is None else round(float(embedding @ reference), 4)
