"""Audio files to samples, and samples from one rate to another."""

from __future__ import annotations

import io
import shutil
import struct
from pathlib import PurePath

import av
import numpy as np
import soundfile as sf

from models.parts.errors import UserError

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".g722")
G722_RATE = 16000
HIGH_RATES = (88200, 96000, 176400, 192000)  # FLAC, which the corpus is kept in, has no odd ones above 65535 Hz
STREAMED = 2**31 - 2**16  # writers that cannot seek back put about this length, or more, into a WAV header
CANCELLED_DB = 9.0  # a mix this far below its loudest channel: they cancel (a silent second channel costs 6 dB)


def decode(data: bytes, name: str) -> tuple[np.ndarray, int]:
    """Samples of one audio file: float32 (samples, channels), full scale 1.0, and the rate in Hz.

    `name` is for the error and its suffix tells G.722, which has no header. UserError for what is not whole audio.
    """
    if not data:
        raise UserError(f"{name}: an empty file (0 bytes); copy or export it again, or take it out of the corpus")
    if PurePath(name).suffix.lower() == ".g722":
        return _decode_g722(data, name), G722_RATE
    _check_riff(data, name)
    try:
        audio, rate = sf.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (sf.LibsndfileError, ValueError, TypeError):
        what = "text, not audio" if _is_text(data) else "not audio that can be read"
        raise UserError(f"{name}: {what}; export it as WAV or FLAC, or take it out of the corpus") from None
    if not (8000 <= rate < 2**16 or rate in HIGH_RATES):
        raise UserError(f"{name}: at {rate} Hz, which is no rate for speech; resample it to one of 8000 to 48000 Hz")
    if not len(audio):
        raise UserError(f"{name}: holds no samples; export it again, or take it out of the corpus")
    if not np.isfinite(audio).all():
        raise UserError(f"{name}: holds samples that are not numbers (NaN or infinity); export it again")
    return audio, rate


def _decode_g722(data: bytes, name: str) -> np.ndarray:
    try:
        with av.open(io.BytesIO(data), mode="r", format="g722") as container:
            frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    except av.FFmpegError as error:
        raise UserError(f"{name}: not G.722 audio ({error.strerror}); copy it again") from None
    return (np.concatenate(frames).astype(np.float32) / 2**15)[:, None]


def _check_riff(data: bytes, name: str) -> None:
    """A WAV file that was cut off reads without complaint, only shorter; its header knows the length."""
    if data[:4] != b"RIFF" or len(data) < 8:
        return
    promised = struct.unpack("<I", data[4:8])[0]
    if len(data) < promised < STREAMED:
        raise UserError(f"{name}: cut off ({len(data)} of {promised + 8} bytes); copy it again, or take it out")


def _is_text(data: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in data[:512])


def mono(audio: np.ndarray, name: str) -> np.ndarray:
    """The mean of the channels of (samples, channels). UserError when they cancel each other."""
    if audio.shape[1] == 1:
        return audio[:, 0]
    mixed = audio.mean(axis=1, dtype=np.float64)
    loudest = np.square(audio, dtype=np.float64).mean(axis=0).max()
    if np.square(mixed).mean() < loudest * 10 ** (-CANCELLED_DB / 10):
        raise UserError(f"{name}: its {audio.shape[1]} channels cancel each other when mixed; keep one of them")
    return mixed.astype(np.float32)


def check_sox() -> None:
    """UserError when the sox program is missing: the PyPI package only calls it."""
    if shutil.which("sox") is None:
        raise UserError("sox: the program is not installed; run `apt-get install sox`, or `brew install sox` on macOS")


def resample(audio: np.ndarray, rate: int, target: int) -> np.ndarray:
    """`audio` (float32, (samples,)) at `target` Hz by SoX's very high quality `rate -v`; the same rate is a copy.

    No dither, floats in and out, so the same input gives the same bits. `rate` -v: 95 % bandwidth, -175 dB of noise
    (sox(1), "rate"). Length is samples × target / rate, rounded.
    """
    if rate == target:
        return audio.copy()
    import sox  # starts the program when imported, so not before check_sox

    transformer = sox.Transformer()
    transformer.set_globals(dither=False, verbosity=1)
    transformer.set_output_format(rate=target)
    # Through extra_args: the package warns of the `rate` effect for arrays, whose only other way is a lower quality.
    return transformer.build_array(input_array=audio, sample_rate_in=rate, extra_args=["rate", "-v"])
