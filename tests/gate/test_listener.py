"""The listener, on real recordings: what is said is heard, silence is not, and long takes lose nothing at a cut."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.gate.hearing import silences
from stages.gate.listener import LONGEST, RATE, Listener, resampled, windows
from stages.gate.words import align
from tests.demo_speech import joined, speech, text_of

LONG = (
    "agent-newlocation", "conf-placeintoconf", "demo-echodone", "dir-nomatch", "vm-nobodyavail", "feature-not-avail-line",
    "pls-hold-while-try", "vm-nonumber", "vm-msgforwarded", "vm-tempgreetactive", "privacy-prompt", "vm-newpassword",
)  # fmt: skip


@pytest.fixture(scope="module")
def listener() -> Listener:
    return Listener()


def test_hears_a_recording_at_any_rate_and_always_the_same(listener: Listener) -> None:
    text, audio = speech("agent-newlocation")
    heard = listener.transcribe(audio)
    assert align(text, heard).wrong == 0
    assert heard == listener.transcribe(audio)
    up = resampled(audio, RATE, 44_100)
    assert len(up) == pytest.approx(len(audio) * 44_100 / RATE, abs=1)
    assert align(text, listener.transcribe(resampled(up, 44_100, RATE))).wrong == 0


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
    heard = listener.transcribe(np.zeros(round(seconds * RATE), np.float32))
    assert not any(word.op == "ok" for word in align("please enter the extension", heard).words)


def test_a_take_longer_than_whispers_window_loses_no_phrase(listener: Listener) -> None:
    audio = joined(*LONG)
    assert len(audio) > LONGEST * RATE
    errors = align(text_of(*LONG), listener.transcribe(audio)).errors()
    assert errors["dropped"] + errors["merged"] + errors["inserted"] + errors["repeated"] <= 1


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 90 * RATE), st.integers(0, 2**32 - 1))
def test_windows_hold_every_sample_once_and_fit(samples: int, seed: int) -> None:
    audio = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    parts = windows(audio)
    assert np.array_equal(np.concatenate(parts), audio)
    assert all(len(part) <= LONGEST * RATE for part in parts)


def test_windows_are_cut_in_the_pause() -> None:
    audio = np.ones(40 * RATE, np.float32)
    audio[20 * RATE : 20 * RATE + RATE // 2] = 0
    assert 20 * RATE <= len(windows(audio)[0]) <= 20 * RATE + RATE // 2


def test_silence_at_the_ends_is_measured() -> None:
    tone = np.sin(np.arange(RATE) * 0.1).astype(np.float32)
    assert silences(np.pad(tone, (RATE // 2, 2 * RATE))) == (0.5, 2.0)
    assert silences(1e-4 * tone) == silences(np.zeros(RATE, np.float32)) == (0.0, 1.0)
    assert silences(np.zeros(0, np.float32)) == (0.0, 0.0)
