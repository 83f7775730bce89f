"""The phones of a natural voice: whose they are, and when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.small.phones import PAUSE, PHONES
from stages.bases import natural
from stages.bases.kokoro import FRAME, SAMPLE_RATE, Reading, Word
from stages.bases.natural import timed_phones

LETTERS = [*natural.PHONES, "ˈ", "ˌ", "ː"]


def reading(words: list[tuple[str, list[int]]], frames: int) -> Reading:
    """`words`: phones, and the frame at which each begins and the last ends."""
    said = tuple(Word("x", phones, tuple(FRAME * edge for edge in edges)) for phones, edges in words)
    return Reading(np.zeros(FRAME * frames, np.float32), said)


def test_marks_of_stress_and_length_belong_to_the_vowel():
    said = timed_phones(reading([("hˈɑːt", [10, 12, 13, 16, 17, 20])], 24))
    assert said == [(PAUSE, 0.25), ("hh", 0.3), ("aa", 0.425), ("t", 0.5), (PAUSE, 0.6)]


def test_an_r_after_a_weak_vowel_is_its_colour_unless_another_vowel_follows():
    def names(phones: str) -> list[str]:
        return [name for name, _ in timed_phones(reading([(phones, [*range(len(phones) + 1)])], len(phones)))]

    assert names("lˈɛɾəɹ") == [PAUSE, "l", "eh", "d", "er", PAUSE]
    assert names("wˈɜɹk") == [PAUSE, "w", "er", "k", PAUSE]
    assert names("əɹˈWnd") == [PAUSE, "ax", "r", "aw", "n", "d", PAUSE]


def test_what_is_short_between_two_words_belongs_to_both_and_what_is_long_is_a_pause():
    near = timed_phones(reading([("ʌ", [4, 8]), ("ɪ", [12, 16])], 20))
    far = timed_phones(reading([("ʌ", [4, 8]), ("ɪ", [18, 22])], 26))
    assert near == [(PAUSE, 0.1), ("ah", 0.25), ("ih", 0.4), (PAUSE, 0.5)]
    assert far == [(PAUSE, 0.1), ("ah", 0.2), (PAUSE, 0.45), ("ih", 0.55), (PAUSE, 0.65)]


@given(st.lists(st.lists(st.tuples(st.sampled_from(LETTERS), st.integers(1, 9)), min_size=1, max_size=5), min_size=1, max_size=4), st.integers(0, 9))
def test_phones_fill_the_audio_from_its_beginning_to_its_end(words: list[list[tuple[str, int]]], gap: int):
    spoken, at = [], gap
    for letters in words:
        edges = [at, *(at + int(length) for length in np.cumsum([length for _, length in letters]))]
        spoken.append(("".join(letter for letter, _ in letters), edges))
        at = edges[-1] + gap
    said = timed_phones(reading(spoken, at))
    ends = [end for _, end in said]
    assert ends == sorted(ends) and ends[-1] == pytest.approx(FRAME * at / SAMPLE_RATE)
    assert {name for name, _ in said} <= {PAUSE, *PHONES}
