"""The listener, on real recordings: what is said is heard, silence is not, and long takes lose nothing at a cut."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.gate.audio import RATE, bandwidth, resampled, sounding
from stages.gate.listener import LONGEST, Listener, Window, Word, windows
from stages.gate.timing import timing
from stages.gate.words import align
from tests.demo_speech import LONG, joined, speech, text_of


@pytest.fixture(scope="module")
def listener() -> Listener:
    return Listener()


def heard(listener: Listener, *waves: np.ndarray) -> list[str]:
    return ["".join(word.text for word in words) for words in listener.transcribe(waves)]


def test_hears_a_recording_at_any_rate_and_always_the_same(listener: Listener) -> None:
    text, audio = speech("agent-newlocation")
    assert align(text, heard(listener, audio)[0]).wrong == 0
    assert listener.transcribe([audio]) == listener.transcribe([audio])
    up = resampled(audio, RATE, 44_100)
    assert len(up) == pytest.approx(len(audio) * 44_100 / RATE, abs=1)
    assert align(text, heard(listener, resampled(up, 44_100, RATE))[0]).wrong == 0


def test_takes_that_are_heard_together_are_heard_as_each_by_itself(listener: Listener) -> None:
    waves = [speech(name)[1] for name in LONG[:4]] + [np.zeros(0, np.float32), joined(*LONG)]
    assert heard(listener, *waves) == [heard(listener, wave)[0] for wave in waves]


MEASURED = """
import hashlib, os, sys
os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: int(sys.argv[1])]))
import stages.gate.listener, numpy as np
from faster_whisper.feature_extractor import FeatureExtractor
noise = np.random.default_rng(5).standard_normal(20 * stages.gate.listener.RATE).astype(np.float32)
print(hashlib.sha256(FeatureExtractor()(noise).tobytes()).hexdigest())
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_what_the_listener_reads_does_not_depend_on_the_cores() -> None:
    """A word was heard on one core and another one on two: numpy added up in another order."""
    free = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}

    def measured(cores: int) -> str:
        return subprocess.run(
            [sys.executable, "-c", MEASURED, str(cores)], capture_output=True, text=True, check=True, env=free
        ).stdout

    assert measured(1) == measured(2)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 2.0])
def test_silence_is_heard_as_nothing_or_as_no_word_of_the_text(listener: Listener, seconds: float) -> None:
    (found,) = heard(listener, np.zeros(round(seconds * RATE), np.float32))
    assert not any(word.op == "ok" for word in align("please enter the extension", found).words)


def test_a_take_longer_than_whispers_window_loses_no_phrase(listener: Listener) -> None:
    audio = joined(*LONG)
    assert len(audio) > LONGEST * RATE
    errors = align(text_of(*LONG), heard(listener, audio)[0]).errors()
    assert errors["dropped"] + errors["merged"] + errors["inserted"] + errors["repeated"] <= 1


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 90 * RATE), st.integers(0, 2**32 - 1))
def test_windows_hold_every_sample_once_and_fit(samples: int, seed: int) -> None:
    audio = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    parts = windows(Window(0, 0.0, audio))
    assert np.array_equal(np.concatenate([part.audio for part in parts] or [audio]), audio)
    assert all(part.seconds <= LONGEST for part in parts)
    assert len(parts) > 0 or samples < RATE // 10


def test_windows_are_cut_in_the_pause() -> None:
    audio = np.ones(40 * RATE, np.float32)
    audio[20 * RATE : 20 * RATE + RATE // 2] = 0
    assert 20 <= windows(Window(0, 0.0, audio))[0].seconds <= 20.5


# --- time that no word accounts for -------------------------------------------------------------------------------------


def heard_at(listener: Listener, audio: np.ndarray) -> dict[str, Any]:
    return timing(sounding(audio), listener.transcribe([audio])[0])


def test_silence_at_the_ends_is_measured() -> None:
    tone = np.sin(np.arange(RATE) * 0.1).astype(np.float32)

    def silences(wave: np.ndarray) -> tuple[float, float]:
        found = timing(sounding(wave), [])
        return found["leading_silence"], found["trailing_silence"]

    assert silences(np.pad(tone, (RATE // 2, 2 * RATE))) == (0.5, 2.0)
    assert silences(1e-4 * tone) == silences(np.zeros(RATE, np.float32)) == (0.0, 1.0)
    assert silences(np.zeros(0, np.float32)) == (0.0, 0.0)


def test_a_pause_in_the_middle_is_measured_and_placed(listener: Listener) -> None:
    (_, first), (_, second) = speech("agent-newlocation"), speech("vm-nonumber")
    found = heard_at(listener, np.concatenate([first, np.zeros(3 * RATE, np.float32), second]))
    assert found["pause"] == pytest.approx(3.0, abs=0.4)
    last = listener.transcribe([first])[0][-1].text.strip(" .,").lower()
    assert found["pause_after"] == last


def test_sound_that_is_no_word_is_measured_and_placed(listener: Listener) -> None:
    text, audio = speech("agent-newlocation")
    words = listener.transcribe([audio])[0]
    cut = round(words[3].start * RATE)
    vowel = np.sin(2 * np.pi * 180 * np.arange(2 * RATE) / RATE) * np.abs(audio).max() / 4
    found = heard_at(listener, np.concatenate([audio[:cut], vowel.astype(np.float32), audio[cut:]]))
    assert heard_at(listener, audio)["unexplained"] < 0.5
    assert found["unexplained"] == pytest.approx(2.0, abs=0.6)
    assert str(found["unexplained_after"]) in text
    assert timing(np.ones(500, bool), [Word(" one", 0.0, 4.0), Word(" two", 4.0, 5.0)])["unexplained_after"] is None


def test_a_low_sample_rate_is_measured() -> None:
    _, audio = speech("agent-newlocation")
    assert bandwidth(audio) > 6500
    assert 3500 < bandwidth(resampled(resampled(audio, RATE, 8000), 8000, RATE)) < 4700
    assert bandwidth(np.zeros(RATE, np.float32)) == bandwidth(audio[:100]) == 0
