"""Cutting long texts: nothing is lost, nothing is too long, and a cut stands where a speaker would pause."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stages.common.segments import segments

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
    assert segments("Dr. Smith comes at five p.m. today. He knows.", 8) == ["Dr. Smith comes at five p.m. today.", "He knows."]
    assert segments("Room J. is free. Go in.", 4) == ["Room J. is free.", "Go in."]
