"""Cutting long texts: nothing is lost, nothing is too long, and a cut stands where a speaker would pause."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stages.gate.segments import segments

TEXT = st.lists(st.sampled_from(["one", "two,", "three.", "Dr.", "p.m.", "7", "four;", "five!", "(six)", '"end."']), max_size=80)


@given(TEXT, st.integers(1, 25))
def test_segments_join_to_the_text_and_keep_the_limit(words: list[str], limit: int) -> None:
    parts = segments("  ".join(words), limit)
    assert " ".join(parts).split() == words
    assert all(1 <= len(part.split()) <= limit for part in parts)


def test_cuts_at_sentence_ends_first_then_at_commas_then_evenly() -> None:
    assert segments("Please hold on. We are busy now. Try later.", 7) == ["Please hold on. We are busy now.", "Try later."]
    assert segments("If you know the extension, you may dial it now.", 7) == ["If you know the extension,", "you may dial it now."]
    assert segments("one two three four five six seven eight nine", 8) == ["one two three four", "five six seven eight nine"]


def test_a_dot_inside_a_sentence_is_no_end() -> None:
    assert segments("We came late. I saw Dr. Smith at home.", 8) == ["We came late.", "I saw Dr. Smith at home."]
    assert segments("We came late. At five p.m. it was dark.", 8) == ["We came late.", "At five p.m. it was dark."]
    assert segments("We came late. Room J. is free.", 6) == ["We came late.", "Room J. is free."]
