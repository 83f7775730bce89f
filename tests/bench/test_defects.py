"""Defects are planted where they say: in takes whose every word is a tone of its own."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.bases.kokoro import SAMPLE_RATE, Reading, Word, shared_out
from stages.bench.defects import BAND, DEFECTS, PAUSE, Planted, spliced

TEXT = "When Mary came home there was nobody left, and even that old garden looked empty without these small yellow flowers."
LENGTH, GAP = round(0.2 * SAMPLE_RATE), round(0.05 * SAMPLE_RATE)
FIRST, STEP = 400.0, 80.0  # Hz: of the first word, and from one to the next


def tones(words: list[Word] | None = None) -> Reading:
    """`TEXT`, word by word. A word whose phones are not its letters is a tone between two others."""
    found, waves, at = [], list[np.ndarray](), 0
    for index, word in enumerate(words or [Word(text, text) for text in TEXT.split()]):
        pitch = FIRST + STEP * (index + 0.5 * (word.phones != word.text))
        waves += [0.5 * np.sin(2 * np.pi * pitch * np.arange(LENGTH) / SAMPLE_RATE), np.zeros(GAP)]
        edges = np.linspace(at, at + LENGTH, len(word.phones) + 1).astype(int)
        found.append(Word(word.text, word.phones, tuple(map(int, edges))))
        at += LENGTH + GAP
    return Reading(np.concatenate(waves).astype(np.float32), tuple(found))


def heard(audio: np.ndarray) -> list[float]:
    """The tones in `audio` in their order, as places of words, each with the half that a misread one is off."""
    found: list[float] = []
    size = LENGTH // 8
    for start in range(0, len(audio) - size, size // 2):
        window = audio[start : start + size] * np.hanning(size)
        spectrum = np.abs(np.fft.rfft(window, SAMPLE_RATE))
        place = round(2 * (float(spectrum.argmax()) - FIRST) / STEP) / 2
        if np.abs(window).max() > 0.3 and (not found or found[-1] != place):
            found.append(place)
    return found


def plant(name: str, seed: int) -> tuple[Reading, Planted]:
    reading = tones()
    take = DEFECTS[name].plant(reading, random.Random(seed), lambda words: tones(list(words)))
    assert take is not None
    return reading, take


def places(reading: Reading, words: tuple[str, ...]) -> list[int]:
    return [[word.text for word in reading.words].index(word) for word in words]


def test_a_good_take_is_heard_word_by_word() -> None:
    assert heard(tones().audio) == [*range(len(TEXT.split()))]


@pytest.mark.parametrize("name", ["two words dropped together", "two words dropped apart"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_dropped_words_and_no_others_are_gone(name: str, seed: int) -> None:
    reading, take = plant(name, seed)
    one, two = places(reading, take.words)
    assert two == one + 1 if name.endswith("together") else two >= one + 3
    assert heard(take.audio) == [at for at in range(len(reading.words)) if at not in (one, two)]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_three_words_are_said_again(seed: int) -> None:
    reading, take = plant("three words repeated", seed)
    first, *_, last = places(reading, take.words)
    assert last == first + 2
    assert heard(take.audio) == [*range(last + 1), *range(first, len(reading.words))]
    start, end = (round(at * SAMPLE_RATE) for at in take.where)
    assert heard(take.audio[start:end]) == [first, first + 1, last]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_phrases_change_places(seed: int) -> None:
    reading, take = plant("phrases swapped", seed)
    a, b, c, d, e, f = places(reading, take.words)
    assert [b, c, d, e, f] == [a + 1, a + 2, a + 3, a + 4, a + 5]
    assert heard(take.audio) == [*range(a), d, e, f, a, b, c, *range(f + 1, len(reading.words))]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_of_merged_words_half_is_left(seed: int) -> None:
    reading, take = plant("two words merged", seed)
    first, second = places(reading, take.words)
    assert second == first + 1
    assert heard(take.audio) == [*range(len(reading.words))]
    assert len(reading.audio) - len(take.audio) == pytest.approx(LENGTH + GAP, abs=0.4 * LENGTH)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_a_pause_parts_two_words(seed: int) -> None:
    reading, take = plant("3 s pause", seed)
    _, first, second, _ = places(reading, take.words)  # whoever looks for it finds it by the words around
    start, end = (round(at * SAMPLE_RATE) for at in take.where)
    assert end - start == PAUSE * SAMPLE_RATE
    assert heard(take.audio[:start]) == [*range(first + 1)] and heard(take.audio[end:]) == [*range(second, len(reading.words))]
    assert not take.audio[start + GAP : end - GAP].any()


def test_a_take_is_cut_at_the_end_of_a_word() -> None:
    reading, take = plant("cut at 70 %", 1)
    assert len(take.audio) == pytest.approx(0.7 * len(reading.audio), abs=LENGTH)
    assert heard(take.audio) == [*range(places(reading, take.words)[0])]


def test_a_name_is_read_with_other_phones() -> None:
    reading, take = plant("name mispronounced", 1)
    assert take.words == ("Mary",)
    assert heard(take.audio) == [0, 1.5, *range(2, len(reading.words))]


def test_silence_is_as_long_as_the_take() -> None:
    reading, take = plant("silence", 1)
    assert len(take.audio) == len(reading.audio) and not take.audio.any()


def test_a_narrow_band_holds_nothing_above_it() -> None:
    noise = Reading(np.random.default_rng(1).normal(0, 0.1, SAMPLE_RATE).astype(np.float32), tones().words)
    take = DEFECTS["8 kHz band"].plant(noise, random.Random(1), lambda words: noise)
    assert take is not None and len(take.audio) == SAMPLE_RATE
    power = np.abs(np.fft.rfft(take.audio)) ** 2
    assert power[BAND // 2 + 200 :].mean() < 1e-3 * power[: BAND // 2 - 400].mean()


def test_pieces_meet_without_a_click() -> None:
    wave = np.sin(2 * np.pi * 100 * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    audio = spliced(wave, [(0, 6060), (12_000, 24_000)])  # from a peak to a zero
    assert np.abs(np.diff(audio)).max() < 0.05


def test_a_text_without_a_place_has_no_such_defect() -> None:
    short = Reading(tones().audio, tones().words[:2])
    assert DEFECTS["three words repeated"].plant(short, random.Random(1), lambda words: short) is None


def test_a_cause_counts_when_a_planted_word_is_named() -> None:
    dropped = DEFECTS["two words dropped together"]
    assert dropped.named(["2.1 s of silence at the end", "dropped 2 words: old garden"], ("old", "garden"))
    assert not dropped.named(["dropped 1 word: yellow"], ("old", "garden"))
    assert not dropped.named(["inserted 2 words: old garden"], ("old", "garden"))
    assert DEFECTS["silence"].named(["unheard: the listener made out no words"], ())


# --- which phones are whose -------------------------------------------------------------------------------------------


def test_phones_that_are_written_together_go_to_their_words() -> None:
    assert shared_out("ɪnðə ɡˈɑːdən əvə hˈaʊs", ["ɪn", "ðə", "ɡˈɑːdən", "ɒv", "ɐ", "hˈaʊs"]) == ["ɪn", "ðə", "ɡˈɑːdən", "əv", "ə", "hˈaʊs"]
    assert shared_out("wˈʌn hˈʌndɹɪd ɡˈɛsts", ["wˈʌn hˈʌndɹɪd", "ɡˈɛsts"]) == ["wˈʌn hˈʌndɹɪd", "ɡˈɛsts"]


@given(st.lists(st.text("abdɪə", min_size=1, max_size=6), min_size=1, max_size=8), st.data())
def test_no_phone_is_lost_between_words(words: list[str], data: st.DataObject) -> None:
    said = words[0] + "".join(data.draw(st.sampled_from(["", " "])) + word for word in words[1:])
    found = shared_out(said, words)
    assert len(found) == len(words)
    assert "".join(found).replace(" ", "") == said.replace(" ", "")
