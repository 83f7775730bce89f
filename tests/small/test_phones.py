"""What the tiny bases read: texts as flite pronounces them."""

from __future__ import annotations

import shutil

import pytest

from models.parts.errors import UserError
from models.parts.text import ids_of, text_ids
from models.small import phones
from models.small.phones import PAUSE, phone_tokenizer, pronounced, remember

pytestmark = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed (apt-get install flite)")


def said(text: str) -> list[str]:
    tokenizer = phone_tokenizer(["[STOP]"])
    return [str(tokenizer.id_to_token(token)) for token in ids_of(tokenizer, text)]


def test_words_numbers_and_keys_are_read_as_they_are_said():
    assert said("Press 5, then #.") == "p r eh s f ay v pau dh eh n p aw n d".split()
    assert said("PBX") == "p iy b iy eh k s".split()


@pytest.mark.parametrize("text", ["The conference is full", "the conference is full.", "  the  conference is full!", "thé conference is full"])
def test_how_a_text_is_written_does_not_matter(text):
    assert said(text) == said("the conference is full")


def test_a_word_alone_is_not_the_letter():
    assert said("a dog")[0] == "ax"


def test_special_tokens_stay_what_they_are_and_a_text_with_one_is_refused():
    assert said("go [STOP] on") == ["g", "ow", "[STOP]", "aa", "n"]
    tokenizer = phone_tokenizer(["[STOP]"])
    with pytest.raises(UserError, match=r"\[STOP\] is a control token"):
        text_ids(tokenizer, "go [STOP] on", {0})


@pytest.mark.parametrize("text", ["", "...", " -- ", "¡!"])
def test_what_has_no_words_is_not_read(text):
    assert pronounced(text) == ""
    with pytest.raises(UserError, match="nothing to say"):
        text_ids(phone_tokenizer([]), text, set())


def test_what_is_remembered_is_not_asked_for(monkeypatch):
    monkeypatch.setattr(phones, "_known", {})
    remember("my words.", [PAUSE, "b", "oy", PAUSE])
    monkeypatch.setenv("PATH", "")
    assert pronounced("My words") == "b oy"
    with pytest.raises(UserError, match="flite.*apt-get install flite"):
        pronounced("other words")
