"""Audio files are read whole, as a player shows them, or one line says why not."""

from __future__ import annotations

import io
import struct
from typing import Any

import av
import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from models.parts.errors import UserError
from stages.common.audio import decode

RATE, COUNT = 16000, 32001
TONE = (0.3 * np.sin(2 * np.pi * 220 * np.arange(COUNT) / RATE) + 0.01 * np.random.default_rng(0).standard_normal(COUNT)).astype(np.float32)


def written(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, TONE, RATE, format=kind, **options)
    return buffer.getvalue()


def telephone(kind: str, codec: str) -> bytes:
    """What a phone or a browser writes: 48 kHz, so that every codec takes it."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as out:
        stream: Any = out.add_stream(codec, rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(TONE[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        fits = av.AudioResampler(format=stream.codec_context.format or "fltp", rate=48000, layout="mono", frame_size=stream.codec_context.frame_size or 1024)
        for part in [*fits.resample(frame), *fits.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def sizes(data: bytes, riff: int | None = None, audio: int | None = None) -> bytes:
    """The same WAV file with other lengths in its header."""
    changed, at = bytearray(data), data.index(b"data") + 4
    if riff is not None:
        changed[4:8] = struct.pack("<I", riff)
    if audio is not None:
        changed[at : at + 4] = struct.pack("<I", audio)
    return bytes(changed)


WAV = written("WAV")


@pytest.mark.parametrize("data", [sizes(WAV, 32036, 32000), sizes(WAV, audio=32000), sizes(WAV, audio=31999), written("WAV", subtype="PCM_U8") + TONE.tobytes()])
def test_bytes_after_what_the_header_promises_are_an_error(data: bytes) -> None:
    with pytest.raises(UserError, match=r"^x.wav: \d+ bytes follow after the \d+ bytes of audio that its header promises; .*export it again$"):
        decode(data, "x.wav")


def test_the_same_in_aiff_and_rf64() -> None:
    aiff, rf64 = bytearray(written("AIFF")), bytearray(written("RF64"))
    at = aiff.index(b"SSND") + 4
    aiff[at : at + 4] = struct.pack(">I", 20008)
    rf64[28:36] = struct.pack("<Q", 20000)
    for data in (aiff, rf64):
        with pytest.raises(UserError, match="bytes follow after"):
            decode(bytes(data), "x")


LIST = b"LIST" + struct.pack("<I", 4) + b"INFO"


@pytest.mark.parametrize(
    "data",
    [WAV, sizes(WAV, 2**32 - 1, 2**32 - 1), sizes(WAV, 35, 2**32 - 1), sizes(WAV, 36), WAV + LIST, WAV + LIST[:-2], WAV + bytes(100), WAV + b"\n", WAV + b"TAG" + b"x" * 125,
     WAV + b"ID3\x04" + bytes(10), written("WAV", subtype="PCM_U8"), written("WAV", subtype="PCM_U8")[:-1] + b"a" + LIST, written("RF64"), written("WAVEX"), written("WAV", endian="BIG")],
)  # fmt: skip
def test_what_players_show_whole_is_read_whole(data: bytes) -> None:
    audio, rate = decode(data, "x.wav")
    assert (audio.shape, rate) == ((COUNT, 1), RATE)
    np.testing.assert_allclose(audio[:-1, 0], TONE[:-1], atol=2**-7)


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "RF64", "W64", "AU", "FLAC", "MP3", "OGG"])
def test_what_is_cut_off_is_named(kind: str) -> None:
    whole = written(kind)
    assert decode(whole, "x.wav")[0].shape == (COUNT, 1)
    with pytest.raises(UserError, match="cut off|not audio that can be read|holds no samples"):
        decode(whole[: len(whole) // 2], "x.wav")


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "FLAC", "MP3", "OGG", "AU"])
def test_two_recordings_in_one_file_are_named(kind: str) -> None:
    with pytest.raises(UserError, match="several recordings one after the other"):
        decode(2 * written(kind), "x.wav")


PHONE = {"m4a": ("mp4", "aac"), "webm": ("webm", "libopus"), "aac": ("adts", "aac"), "mka": ("matroska", "aac"), "3gp": ("3gp", "aac")}


@pytest.mark.parametrize("suffix", PHONE)
def test_what_telephones_and_browsers_write_is_read(suffix: str) -> None:
    data = telephone(*PHONE[suffix])
    audio, rate = decode(data, f"x.{suffix}")
    assert rate == 48000 and len(audio) / rate == pytest.approx(COUNT / RATE, abs=0.06)
    assert np.sqrt(np.square(audio).mean()) == pytest.approx(np.sqrt(np.square(TONE).mean()), rel=0.05)
    if suffix == "m4a":
        np.testing.assert_array_equal(decode(data, "renamed.wav")[0], audio)
    if suffix != "aac":  # which has no header that knows the length
        with pytest.raises(UserError, match="cut off|not audio that can be read"):
            decode(data[: len(data) // 2], f"x.{suffix}")


@pytest.mark.parametrize("name", ["x.wav", "x.m4a", "x.mp3"])
def test_text_under_the_name_of_audio_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: text, not audio"):
        decode(b"this is a text, saved under the wrong name\n" * 9, name)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, len(WAV) - 1), st.binary(min_size=1, max_size=8), st.sampled_from([WAV, written("AIFF"), written("FLAC")]))
def test_damage_is_read_or_one_line(at: int, bytes_: bytes, data: bytes) -> None:
    at %= len(data)
    try:
        audio, _ = decode(data[:at] + bytes_ + data[at + len(bytes_) :], "x.wav")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(audio).all()
