"""Text in ASCII for the tiny bases: what a person reads aloud is there, and what nobody can is named."""

from __future__ import annotations

import shutil
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.parts.text import ids_of, text_ids
from models.small.phones import phone_tokenizer, pronounced
from models.small.plain import plain, unspoken

# What is written, and the same in plain words. The phones of both must be the same.
PAIRS = {
    "the car—a red one—stopped": "the car, a red one, stopped", "yes – no": "yes, no", "yes—no": "yes, no", "a•b": "a, b",
    "don’t": "don't", "Johnʼs car": "John's car", "rock ’n’ roll": "rock 'n' roll", "he said “stop” twice": 'he said "stop" twice', "well‑known": "well-known",
    "10–15": "ten to fifteen", "$5–$10": "five dollars to ten dollars", "9am–5pm": "9am to 5pm", "10%–20%": "ten percent to twenty percent", "A–Z": "A to Z",
    "1914–1918": "nineteen fourteen to nineteen eighteen", "555–0123": "555-0123", "It is −5 outside": "It is minus five outside", "5−3": "five minus three",
    "½ cup": "one half cup", "1½ cups": "one and a half cups", "1 ½ cups": "one and a half cups", "2¾": "two and three quarters", "⅓": "one third", "3⁄4": "3/4",
    "£5": "five pounds", "£1": "one pound", "£5.50": "five pounds fifty", "£0.99": "ninety nine pence", "£5 million": "five million pounds",
    "£2.5bn": "two point five billion pounds", "€5": "five euros", "5 €": "five euros", "¥500": "five hundred yen", "50¢": "fifty cents", "₹20": "twenty rupees",
    "20°C": "twenty degrees celsius", "20 °F": "twenty degrees fahrenheit", "20℃": "twenty degrees celsius", "1°": "one degree", "20ºC": "twenty degrees celsius",
    "3×4": "three times four", "8÷2": "eight divided by two", "§5": "section five", "§§ 5": "sections five", "№ 5": "number five", "A & B": "A and B",
    "5 m²": "five square meters", "x²": "x squared", "10⁶": "ten to the six", "H₂O": "H2O", "π": "pi", "5′10″": "five feet ten inches",
    "Łódź": "Lodz", "Søren": "Soren", "Straße": "strasse", "æther": "aether", "œuvre": "oeuvre", "þorn": "thorn", "Dvořák": "Dvorak", "ﬁnally": "finally",
    "naïve café": "naive cafe", "Ångström": "Angstrom", "Pleаse": "Please", "ＡＢＣ １２": "ABC 12", "wait… what": "wait... what", "so\u00adft": "soft",
    "visit www.example.org.": "visit www dot example dot org", "john.smith@example.com": "john dot smith@example dot com",
    "hello 你好 there": "hello there", "hello你好there": "hello there", "OK 👍🏽": "OK", "→ next": "next",
}  # fmt: skip


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed (apt-get install flite)")
@pytest.mark.parametrize("written", PAIRS)
def test_signs_are_read_as_people_read_them(written):
    tokenizer = phone_tokenizer(["[STOP]"])
    assert pronounced(written) == pronounced(PAIRS[written])
    assert text_ids(tokenizer, written, set()) == ids_of(tokenizer, PAIRS[written])


def test_what_nobody_reads_out_is_named():
    assert unspoken("→ ♪ 你好 مر 😀 — “x” … ½ £5 café Łódź, 5°") == ["→", "♪", "你", "好", "م", "ر", "😀"]


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_ascii_stays_as_it_is(text):
    assert plain(text) == text and unspoken(text) == []


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=8).filter(str.strip))
def test_no_letter_or_sign_is_lost_in_silence(text):
    """Whatever carries a sound is spelt, or named; and words do not grow together."""
    spelt, lost = plain(f"a {text} b"), unspoken(text)
    assert spelt.isascii() and spelt.startswith("a") and spelt.endswith("b")
    for character in unicodedata.normalize("NFC", text):
        if unicodedata.category(character)[0] in "LNS" and not character.isascii():
            assert character in lost or plain(f"x {character} y").replace(" ", "").replace(",", "") not in ("xy", "")
    if text and text[0] in lost:
        assert plain(f"a{text[0]}b") == "a b"
