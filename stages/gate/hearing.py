"""One take, heard: what can be told of its audio without knowing its text, which `verdict.measured` compares it with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from speechmos import dnsmos

from stages.gate.audio import RATE, bandwidth, resampled, sounding
from stages.gate.doubt import doubts, twice
from stages.gate.listener import Listener
from stages.gate.speaker import Speaker
from stages.gate.timing import slowest, timing

DNSMOS_WINDOW = 144_160  # samples at 16 kHz: what its network takes in


class Hearing:
    """The listener, the speaker encoder and DNSMOS."""

    def __init__(self, listener: Listener, speaker: Speaker):
        self.listener, self._speaker = listener, speaker
        self._quality = Quality()

    def hear(self, takes: Sequence[tuple[np.ndarray, int]], texts: Sequence[str]) -> list[dict[str, Any]]:
        """`takes`: float32 (samples,) and its rate; `texts`: what was to be said, which plays no part but in `doubts` and `twice`
        (doubt.py). Lengths are seconds; `transcript` is empty when nothing was made out."""
        waves = [resampled(audio, rate, RATE) for audio, rate in takes]
        sounds = [sounding(wave) for wave in waves]
        # Whisper hears "you" in silence.
        heard = self.listener.transcribe([wave if sound.any() else wave[:0] for wave, sound in zip(waves, sounds, strict=True)])
        return [
            {
                "seconds": round(len(audio) / rate, 3),
                "transcript": "".join(word.text for word in words).strip(),
                "doubts": doubts(self.listener, wave, words, text),
                "twice": twice(self.listener, wave, words, *slowest(sound, words)),
                **timing(sound, words),
                "bandwidth": bandwidth(wave),
                "similarity": self._speaker.similarity(wave),
                "dnsmos": self._quality.overall(wave),
            }
            for (audio, rate), text, wave, sound, words in zip(takes, texts, waves, sounds, heard, strict=True)
        ]


class Quality:
    """DNSMOS P.835 (Reddy et al. 2022), by the network and the calibration of speechmos, but on one core, and without its
    second network (P.808): every process of the gate has its own."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        network = Path(dnsmos.__file__).parent / "dnsmos_models/sig_bak_ovr.onnx"
        self._session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])

    def overall(self, wave: np.ndarray) -> float | None:
        """Of a wave at 16 kHz, 1 to 5. None without a wave, and for one of over nine seconds: of a long one it would be told by its
        beginning, or by more windows than all the listening costs."""
        if not 0 < len(wave) <= DNSMOS_WINDOW:
            return None
        window = np.clip(np.resize(wave, DNSMOS_WINDOW), -1.0, 1.0)  # shorter takes are said again, as DNSMOS itself does
        scores = self._session.run(None, {"input_1": window[None].astype(np.float32)})[0][0]
        return round(float(dnsmos.DNSMOS.get_polyfit_val(None, *scores, False)[2]), 3)
