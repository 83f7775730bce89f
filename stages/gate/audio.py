"""Audio as the gate hears it and keeps it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soundfile as sf

from stages.common.audio import decode, mono

RATE = 16_000  # Hz, of everything that is listened to
FRAME = RATE // 100
SILENCE_DB = 40.0  # below the loudest 10 ms ...
NOTHING = 1e-6     # ... or below this power: -60 dB of full scale
SPECTRUM = 512     # samples of a piece
FAINT_DB = 55.0    # below the loudest frequencies


def resampled(audio: np.ndarray, sample_rate: int, target: int) -> np.ndarray:
    """Mono float32 (samples,) at `sample_rate` Hz, at `target` Hz."""
    if sample_rate == target:
        return np.asarray(audio, np.float32)
    from scipy.signal import resample_poly  # half a second that a gate which only decides anew need not spend

    common = math.gcd(target, sample_rate)
    return resample_poly(audio, target // common, sample_rate // common).astype(np.float32)


def read_audio(path: Path, where: str = "") -> tuple[np.ndarray, int]:
    """Mono audio of any file and its rate; UserError starting with `where` for what is not audio."""
    name = f"{where}: {path}" if where else str(path)
    audio, rate = decode(path.read_bytes(), name)
    return mono(audio, name), rate


def write_flac(path: Path, audio: np.ndarray, sample_rate: int) -> None:
    """16 bit. The gate hears what is in the file, exactly as people will. No take at all is one silent sample: a FLAC file
    of none can't be read."""
    audio = audio if len(audio) else np.zeros(1, np.float32)
    sf.write(path, np.clip(audio, -1.0, 1.0 - 2**-15), sample_rate, format="FLAC", subtype="PCM_16")


def sounding(wave: np.ndarray, loudest: np.ndarray | None = None) -> np.ndarray:
    """Which frames of 10 ms of a wave at 16 kHz are not silent, bool (frames,). `loudest`: the wave that it is part of."""
    power = _power(wave)
    peak = (power if loudest is None else _power(loudest)).max(initial=0.0)
    return power > max(peak * 10 ** (-SILENCE_DB / 10), NOTHING)


def bandwidth(wave: np.ndarray) -> int:
    """The highest frequency (Hz) of a wave at 16 kHz at which its mean spectrum is not faint; 0 without sound."""
    if len(wave) < SPECTRUM or not np.abs(wave).max():
        return 0
    pieces = np.lib.stride_tricks.sliding_window_view(wave, SPECTRUM)[:: SPECTRUM // 2] * np.hanning(SPECTRUM)
    power = np.convolve((np.abs(np.fft.rfft(pieces)) ** 2).mean(0), np.ones(5) / 5, "same")
    return int(np.flatnonzero(power > power.max() * 10 ** (-FAINT_DB / 10))[-1] * RATE / SPECTRUM)


def _power(wave: np.ndarray) -> np.ndarray:
    frames = wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME)
    return (frames.astype(np.float64) ** 2).mean(1) if len(frames) else np.zeros(0)
