"""Words said against words heard: what a listener may write differently costs nothing, and what is lost is named."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.gate.english import ALIKE
from stages.gate.spoken import spoken
from stages.gate.wordgraph import Graph
from stages.gate.words import align
from tests.gate.word_pairs import COSTLY, FREE

# No two sound alike, and no two of them joined are a third.
VOCABULARY = ["please", "hold", "extension", "number", "river", "garden", "seven", "press", "line", "message", "window", "call"]
SENTENCE = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=25)
DISTINCT = st.permutations(VOCABULARY)
ANYTHING = st.text(alphabet=st.sampled_from("abc '.,-#$%&/:0123456789éßжthndpsxIV½°×−¢\"٣ﬁ"), max_size=60)
WRITTEN = st.lists(st.sampled_from([text for kind in FREE.values() for pair in kind for text in pair]), max_size=4).map(" ".join)


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


def test_a_repeat_that_breaks_off_in_a_word_is_a_repeat() -> None:
    text = "you can see all of it from the hill"
    assert errors(text, text.replace("see all", "see all of it bee see all")) == {"repeated": 5, "longest_run": 5}
    assert errors(text, text.replace("see all", "see blue dogs all")) == {"inserted": 2, "longest_run": 2}


@settings(deadline=None)
@given(DISTINCT, st.data())
def test_a_repeated_phrase_is_counted(words: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(words) - 1))
    size = data.draw(st.integers(1, min(5, len(words) - start)))
    times = data.draw(st.integers(1, 3))
    phrase = words[start : start + size]
    heard = words[: start + size] + phrase * times + words[start + size :]
    assert errors(" ".join(words), " ".join(heard)) == {"repeated": size * times, "longest_run": size * times}


@pytest.mark.parametrize("kind", FREE)
def test_what_a_listener_may_write_differently_costs_nothing(kind: str) -> None:
    pairs = [pair for text, other in FREE[kind] for pair in ((text, other), (other, text))]
    assert {pair: wrong for pair in pairs if (wrong := errors(*pair))} == {}


@pytest.mark.parametrize("kind", COSTLY)
def test_different_speech_counts_however_alike(kind: str) -> None:
    pairs = [pair for text, other in COSTLY[kind] for pair in ((text, other), (other, text))]
    assert [pair for pair in pairs if not errors(*pair)] == []


@settings(deadline=None)
@given(WRITTEN)
def test_the_usual_reading_of_a_text_is_one_of_its_readings(text: str) -> None:
    assert errors(text, " ".join(spoken(text))) == {}


@settings(deadline=None)
@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_number_is_heard_as_itself_alone(number: int, other: int) -> None:
    said = " ".join(spoken(str(number)))
    assert errors(said, f"{number:,}") == {}
    assert number == other or errors(said, str(other)) != {}


def test_numbers_that_differ_are_errors() -> None:
    assert errors("press 1", "press 2") == {"substituted": 1}


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
    words = ALIKE.replace("|", " ").split()
    assert sorted({word for word in words if words.count(word) > 1}) == []


def test_amounts_add_little_work() -> None:
    """Readings share their words, and a good transcript is followed, not searched for."""
    text = (
        "In the 1990s the city spent $3.5 million on a bridge that was 1,250 feet long, another $2.75 billion on roads by "
        "May 21, 2005, and at 10:30 on that day some 12,345 people walked across it while the band played on the river "
        "and the mayor said that three of the four banks had paid for the whole of it since the first of the year"
    )
    said = (
        "in the nineteen nineties the city spent three and a half million dollars on a bridge that was one thousand two hundred "
        "and fifty feet long another two point seven five billion dollars on roads by may the twenty first two thousand and five "
        "and at half past ten on that day some twelve thousand three hundred and forty five people walked across it while the "
        "band played on the river and the mayor said that three of the four banks had paid for the whole of it since the first "
        "of the year"
    )
    words = len(said.split())
    assert len(Graph(text).onward) < 3 * words
    for one, other in ((text, said), (said, text), (text, text)):
        alignment = align(one, other)
        assert alignment.wrong == 0
        assert alignment.cells < 10 * words
    lost = said.replace("people walked across it while the ", "")
    assert align(text, lost).errors()["longest_run"] == 6
    assert align(text, lost).cells < 100 * words
