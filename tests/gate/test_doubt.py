"""What the listener writes by mistake is no error, what it hears otherwise is, and a phrase said twice is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.gate.audio import RATE
from stages.gate.doubt import ONE_SOUND, doubts, pardoned, twice
from stages.gate.listener import Listener, Word
from stages.gate.words import align
from tests.demo_speech import LONG, joined, speech, text_of

CLIP = "agent-newlocation"


@pytest.fixture(scope="module")
def listener() -> Listener:
    return Listener()


def wrong(listener: Listener, audio: np.ndarray, words: list[Word], text: str) -> list[str]:
    """Operations that are left as errors."""
    alignment = align(text, "".join(word.text for word in words))
    return [step.op for step in pardoned(alignment, doubts(listener, audio, words, text)).words if step.op not in ("ok", "unclear")]


def written(words: list[Word], this: str, instead: str) -> list[Word]:
    """As if the listener had written something else for a word."""
    assert sum(this in word.text for word in words) == 1
    return [replace(word, text=word.text.replace(this, instead)) for word in words]


def test_what_the_listener_would_as_well_have_written_is_no_error(listener: Listener) -> None:
    text, audio = speech(CLIP)
    words = listener.transcribe([audio])[0]
    assert wrong(listener, audio, words, text) == []
    slip = written(words, " new", " now")
    assert align(text, "".join(word.text for word in slip)).wrong == 1
    assert wrong(listener, audio, slip, text) == []


def test_what_was_said_otherwise_stays_an_error(listener: Listener) -> None:
    text, audio = speech(CLIP)
    words = listener.transcribe([audio])[0]
    assert wrong(listener, audio, words, text.replace("new", "no")) == ["substituted"]
    assert wrong(listener, audio, words, text.replace("new", "very new")) == ["dropped"]
    assert wrong(listener, audio, words, text.replace(" new", "")) == ["inserted"]


def test_a_slip_late_in_a_take_of_two_windows_is_judged_where_it_is(listener: Listener) -> None:
    text, audio = text_of(*LONG), joined(*LONG)
    words = listener.transcribe([audio])[0]
    assert len(audio) > 30 * RATE
    before = wrong(listener, audio, words, text)
    last = max(index for index, word in enumerate(words) if word.text == " password")
    slip = [replace(word, text=" passwort") if index == last else word for index, word in enumerate(words)]
    assert wrong(listener, audio, slip, text) == before


def test_a_phrase_that_was_said_twice_and_written_once_is_found(listener: Listener) -> None:
    _, audio = speech("vm-nobodyavail")
    words = listener.transcribe([audio])[0]
    first = next(index for index, word in enumerate(words) if word.text == " is")
    start, end = round(words[first].start * RATE), round(words[first + 3].start * RATE)
    again = np.concatenate([audio[:end], audio[start:]])
    later = [word if index < first + 3 else replace(word, start=word.start + (end - start) / RATE) for index, word in enumerate(words)]
    assert twice(listener, again, later, first + 2, 1.0) == "is available to"
    assert twice(listener, audio, words, first + 2, 1.0) is None
    assert twice(listener, again, later, first + 2, 0.0) is None  # nothing lasts too long there


def test_a_phrase_that_was_said_and_left_out_is_no_error_and_one_that_was_not_said_is(listener: Listener) -> None:
    text, audio = speech("vm-nobodyavail")
    words = listener.transcribe([audio])[0]
    first = next(index for index, word in enumerate(words) if word.text == " is")
    start, end = (round(words[index].start * RATE) for index in (first, first + 3))
    without = np.concatenate([audio[:start], audio[end:]])
    assert wrong(listener, audio, words[:first] + words[first + 3 :], text) == []
    assert wrong(listener, without, listener.transcribe([without])[0], text) == ["dropped"] * 3


WORDS = st.lists(st.sampled_from(["hold", "the", "line", "please", "or", "all", "i"]), max_size=8).map(" ".join)


@given(WORDS, WORDS, st.floats(-20, 20))
def test_pardons_keep_every_word_and_never_add_an_error(text: str, transcript: str, nats: float) -> None:
    alignment = align(text, transcript)
    every = [
        [" ".join(word for step in alignment.words[start:end] if (word := step[side])) for side in (1, 2)] + [nats]
        for start in range(len(alignment.words)) for end in range(start + 1, len(alignment.words) + 1)
    ]  # fmt: skip
    found = pardoned(alignment, every)
    assert (found.reference, found.heard) == (alignment.reference, alignment.heard)
    assert found.wrong <= alignment.wrong
    assert pardoned(alignment, []) == alignment
    if nats > ONE_SOUND:
        assert found.wrong == alignment.wrong
