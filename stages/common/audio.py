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

SNDFILE = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64")
FFMPEG = (".m4a", ".m4b", ".mp4", ".mov", ".aac", ".wma", ".webm", ".mka", ".amr", ".3gp")  # what telephones and browsers write
SUFFIXES = (*SNDFILE, *FFMPEG, ".g722")
G722_RATE = 16000
HIGH_RATES = (88200, 96000, 176400, 192000)  # FLAC, which the corpus is kept in, has no odd ones above 65535 Hz
STREAMED = 2**31 - 2**16  # writers that cannot seek back put about this length, or more, into a WAV header
CANCELLED_DB = 9.0  # a mix this far below its loudest channel: they cancel (a silent second channel costs 6 dB)
LATER = ("TAG", "ID3", "APETAGEX", "LYRICS")  # tags that players append to any file
SEVERAL = "holds several recordings one after the other, of which players show the first; split them, or export it again"


def decode(data: bytes, name: str) -> tuple[np.ndarray, int]:
    """Samples of one audio file: float32 (samples, channels), full scale 1.0, and the rate in Hz.

    `name` is for the error and its suffix tells G.722, which has no header. UserError for what is not whole audio.
    """
    if not data:
        raise UserError(f"{name}: an empty file (0 bytes); copy or export it again, or take it out of the corpus")
    suffix = PurePath(name).suffix.lower()
    if suffix == ".g722":
        return _decode_ffmpeg(data, name, "g722")
    if suffix in FFMPEG or data[4:8] == b"ftyp":  # MPEG-4 under whatever name
        audio, rate = _decode_ffmpeg(data, name)
    else:
        audio, rate = _decode_sndfile(data, name)
    if not (8000 <= rate < 2**16 or rate in HIGH_RATES):
        raise UserError(f"{name}: at {rate} Hz, which is no rate for speech; resample it to one of 8000 to 48000 Hz")
    if not len(audio):
        raise UserError(f"{name}: holds no samples; export it again, or take it out of the corpus")
    if not np.isfinite(audio).all():
        raise UserError(f"{name}: holds samples that are not numbers (NaN or infinity); export it again")
    return audio, rate


def _decode_sndfile(data: bytes, name: str) -> tuple[np.ndarray, int]:
    _check_chunks(data, name)
    try:
        with sf.SoundFile(io.BytesIO(data)) as file:
            audio, rate, promised, kind = file.read(dtype="float32", always_2d=True), file.samplerate, file.frames, file.format
    except (sf.LibsndfileError, ValueError, TypeError):
        what = "text, not audio" if _is_text(data) else "not audio that can be read"
        raise UserError(f"{name}: {what}; export it as WAV or FLAC, or take it out of the corpus") from None
    if len(audio) < promised < STREAMED:
        raise UserError(f"{name}: cut off ({len(audio) / rate:.1f} of {promised / rate:.1f} s); copy it again, or take it out")
    if kind in ("MP3", "OGG", "FLAC", "AU") and _packets(data) > 1.05 * len(audio) / rate + 0.2:
        raise UserError(f"{name}: {SEVERAL}")
    return audio, rate


def _decode_ffmpeg(data: bytes, name: str, kind: str | None = None) -> tuple[np.ndarray, int]:
    """What libsndfile does not know. `kind`: the format of data that has no header."""
    frames = []
    try:
        with av.open(io.BytesIO(data), mode="r", format=kind) as container:
            if not container.streams.audio:
                raise UserError(f"{name}: holds no audio track; export it as WAV or FLAC, or take it out of the corpus")
            rate = container.streams.audio[0].rate
            # Float, every channel a row. The same layout throughout: a frame that changes it would be no one recording.
            resampler = av.AudioResampler(format="fltp", rate=rate)
            for frame in container.decode(audio=0):
                frames += [part.to_ndarray() for part in resampler.resample(frame)]
            frames += [part.to_ndarray() for part in resampler.resample(None)]
            promised = (container.duration or 0) / av.time_base if "raw" not in container.format.long_name else 0
    except (av.FFmpegError, ValueError) as error:
        what = "text, not audio" if _is_text(data) else f"not audio that can be read ({getattr(error, 'strerror', error)})"
        raise UserError(f"{name}: {what}; copy it again, or export it as WAV or FLAC") from None
    audio = np.concatenate(frames or [np.zeros((1, 0))], axis=1).T.astype(np.float32)
    if kind is None and len(audio) / rate < 0.95 * promised - 0.2:
        raise UserError(f"{name}: cut off ({len(audio) / rate:.1f} of {promised:.1f} s); copy it again, or take it out")
    return audio, rate


def _packets(data: bytes) -> float:
    """Seconds of audio in the packets of a file, whatever its header says of them; 0 where they can't be told."""
    try:
        with av.open(io.BytesIO(data), mode="r") as container:
            stream = container.streams.audio[0]
            ticks = sum(packet.duration or 0 for packet in container.demux(stream))
            return float(ticks * (stream.time_base or 0))
    except (av.FFmpegError, IndexError):
        return 0.0


def _check_chunks(data: bytes, name: str) -> None:
    """A WAV or AIFF file reads without complaint when its header promises more than is there, or less: only shorter."""
    form, order = data[:4], ">" if data[:4] in (b"FORM", b"RIFX") else "<"
    if len(data) < (promised := _promised(data, form)):
        raise UserError(f"{name}: cut off ({len(data)} of {promised} bytes); copy it again, or take it out")
    if form not in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM") or len(data) < 12:
        return
    at, sizes, heard = 12, {}, 0
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], struct.unpack(f"{order}I", data[at + 4 : at + 8])[0]
        if heard and _hidden(data[at:], kind):
            more = f"{len(data) - at} bytes follow after the {heard} bytes of audio that its header promises"
            way_out = f"if they are audio, `sox --ignore-length {PurePath(name).name} whole.wav` reads them; or export it again"
            raise UserError(f"{name}: {SEVERAL}" if kind in (form, b"RIFF") else f"{name}: {more}; {way_out}")
        if kind == b"ds64":  # the lengths of a file beyond 4 GiB, where the usual places say 0xFFFFFFFF
            sizes[b"data"] = struct.unpack("<Q", data[at + 16 : at + 24])[0]
        elif kind in (b"data", b"SSND"):
            size = sizes.get(kind, size) if size == 2**32 - 1 else size
            if not size or size >= STREAMED:
                return  # nothing, which is told elsewhere; or written by a program that did not know yet: all is read
            heard = size
        at += 8 + size
        at += size % 2 and not _chunk(data[at:])  # padding, which some writers forget


def _promised(data: bytes, form: bytes) -> int:
    """Bytes that the header says the whole file has; 0 where it does not say."""
    places = {b"RIFF": ("<I", 4), b"RIFX": (">I", 4), b"FORM": (">I", 4), b"RF64": ("<Q", 20), b"BW64": ("<Q", 20), b"riff": ("<Q", 16), b".snd": (">I", 8)}
    if form not in places or len(data) < 32:
        return 0
    promised: int = struct.unpack_from(places[form][0], data, places[form][1])[0]
    if form == b"riff":
        return promised  # Wave64, which counts its header
    return promised if promised < STREAMED or form in (b"RF64", b"BW64") else 0


def _chunk(rest: bytes) -> bool:
    """Whether a chunk begins here: four letters, and a length that is there."""
    return len(rest) >= 8 and all(32 <= byte < 127 for byte in rest[:4]) and min(struct.unpack("<I", rest[4:8]) + struct.unpack(">I", rest[4:8])) <= len(rest)


def _hidden(rest: bytes, kind: bytes) -> bool:
    """Whether `rest`, what follows the audio, is neither a chunk, nor tags, nor only zeros."""
    if kind in (b"RIFF", b"RF64", b"FORM"):
        return True
    return not (_chunk(rest) or kind in (b"LIST", b"bext", b"iXML") or rest.startswith(tuple(tag.encode() for tag in LATER)) or not rest.strip(b"\0"))


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
