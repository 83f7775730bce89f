"""Words said against words heard: what a listener may write differently costs nothing, and what is lost is named."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.gate.spoken import SAME_SOUND, spoken
from stages.gate.words import align

# No two sound alike, and no two of them joined are a third.
VOCABULARY = ["please", "hold", "extension", "number", "river", "garden", "seven", "press", "line", "message", "window", "call"]
SENTENCE = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=25)
DISTINCT = st.permutations(VOCABULARY)
ANYTHING = st.text(alphabet=st.sampled_from("abc '.,-#$%&/:0123456789éßжthndps"), max_size=60)


def errors(text: str, transcript: str) -> dict[str, int]:
    return {name: count for name, count in align(text, transcript).errors().items() if count}


@settings(deadline=None)
@given(SENTENCE, SENTENCE)
def test_an_alignment_holds_both_sides_in_order(reference: list[str], heard: list[str]) -> None:
    alignment = align(" ".join(reference), " ".join(heard))
    assert alignment.reference == reference
    assert alignment.heard == heard


@settings(deadline=None)
@given(SENTENCE, SENTENCE)
def test_an_alignment_has_the_fewest_errors(reference: list[str], heard: list[str]) -> None:
    row = list(range(len(heard) + 1))  # the textbook edit distance
    for i, word in enumerate(reference, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    assert align(" ".join(reference), " ".join(heard)).wrong == row[-1]


@settings(deadline=None)
@given(ANYTHING)
def test_a_text_heard_as_written_has_no_errors(text: str) -> None:
    assert errors(text, text) == {}


@settings(deadline=None)
@given(ANYTHING, ANYTHING)
def test_any_text_aligns_with_any_transcript(text: str, transcript: str) -> None:
    alignment = align(text, transcript)
    assert alignment.wrong <= max(len(spoken(text)), len(alignment.reference)) + len(alignment.heard)
    assert (alignment.wrong == 0) == all(word.op == "ok" for word in alignment.words)


@settings(deadline=None)
@given(DISTINCT, st.data())
def test_a_lost_phrase_is_counted_and_named(words: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(words) - 1))
    size = data.draw(st.integers(1, len(words) - start))
    alignment = align(" ".join(words), " ".join(words[:start] + words[start + size :]))
    assert [word.reference for word in alignment.words if word.op == "dropped"] == words[start : start + size]
    assert {name: n for name, n in alignment.errors().items() if n} == {"dropped": size, "longest_run": size}


@settings(deadline=None)
@given(DISTINCT, st.data())
def test_a_repeated_phrase_is_counted(words: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(words) - 1))
    size = data.draw(st.integers(1, min(5, len(words) - start)))
    times = data.draw(st.integers(1, 3))
    phrase = words[start : start + size]
    heard = words[: start + size] + phrase * times + words[start + size :]
    assert errors(" ".join(words), " ".join(heard)) == {"repeated": size * times, "longest_run": size * times}


@pytest.mark.parametrize(
    ("text", "transcript"),
    [
        ("voice mail", "Voicemail."),
        ("Dial the touchtone key pad", "dial the touch tone keypad"),
        ("press 7", "Press seven!"),
        ("Enter 1234, then 500", "enter one two three four then five hundred"),
        ("Enter one two three four", "Enter 1, 2, 3, 4."),
        ("Enter one two three four", "Enter 1-2-34."),
        ("dial eighty five hundred", "Dial 8500"),
        ("twenty-eight point eight", "28.8"),
        ("room four oh four", "room 404"),
        ("extension oh one oh two", "extension 0102"),
        ("one thousand two hundred and five", "1,205"),
        ("the 21st of May at 10:30", "The twenty first of may at ten thirty"),
        ("at ten o'clock", "at 10:00"),
        ("It is 5 p.m.", "It is five PM"),
        ("M I S D N", "MISDN"),
        ("the # key", "the pound key"),
        ("press hash", "press #"),
        ("fifty percent of $5.50", "50% of five dollars and fifty cents"),
        ("two for you, by the sea", "to four you buy the C"),
        ("I am sorry, that's all", "I'm sorry, that is all"),
        ("We can't, they won't", "We cannot, they will not"),
        ("the colour of “their” theatre", "The color of there theater."),
    ],
)
def test_what_a_listener_may_write_differently_costs_nothing(text: str, transcript: str) -> None:
    assert errors(text, transcript) == {}
    assert errors(transcript, text) == {}


def test_numbers_that_differ_are_errors() -> None:
    assert errors("dial 500", "dial 502") != {}
    assert errors("press 1", "press 2") == {"substituted": 1}
    assert errors("dial 8500 now", "dial 8510 now") != {}


def test_two_words_heard_as_one_other_word_are_merged() -> None:
    alignment = align("please hold while we try", "please holdwhire we try")
    assert ("merged", "hold while", "holdwhire") in alignment.words
    assert alignment.errors()["merged"] == 1
    assert alignment.wrong == 2


def test_a_lost_phrase_stays_one_run_where_its_words_come_again() -> None:
    assert errors("press one press two now", "press now") == {"dropped": 3, "longest_run": 3}


def test_two_dropped_words_are_not_hidden_in_a_substitution() -> None:
    assert errors("please hold the line now", "please line now") == {"dropped": 2, "longest_run": 2}
    assert align("a x y b", "a q b").errors()["dropped"] == 1


def test_the_spoken_form_of_numbers() -> None:
    assert " ".join(spoken("0 13 40 99 100 1,000,001")) == "zero thirteen forty ninety nine one hundred one million one"
    assert " ".join(spoken("1st 2nd 12th 20th 33rd")) == "first second twelfth twentieth thirty third"


def test_no_word_belongs_to_two_sounds() -> None:
    words = SAME_SOUND.replace("|", " ").split()
    assert sorted({word for word in words if words.count(word) > 1}) == []
