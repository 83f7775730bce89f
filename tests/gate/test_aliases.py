"""reports/aliases.txt: what a team agrees on costs nothing, and what is no pair is named by its line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.parts.errors import UserError
from stages.gate.aliases import ALIASES, known_aliases, parse
from stages.gate.words import align

WORD = st.text(alphabet="abcdefghij", min_size=1, max_size=8)
SPELLING = st.lists(WORD, min_size=1, max_size=3).map(tuple)
PAIR = st.tuples(SPELLING, SPELLING).filter(lambda pair: pair[0] != pair[1])
SPACE = st.sampled_from(["", " ", "\t", "  "])
COMMENT = st.sampled_from(["", "# a comment", " # one = two", "#"])


@given(st.lists(st.tuples(PAIR, SPACE, SPACE, COMMENT)), st.sampled_from(["\n", "\r\n", "\n\n", "\n# names\n"]))
def test_what_is_written_is_read(lines: list[tuple[tuple[tuple[str, ...], tuple[str, ...]], str, str, str]], newline: str) -> None:
    text = newline.join(f"{before}{' '.join(one)}{before}={after}{' '.join(other)}{after}{note}" for (one, other), before, after, note in lines)
    assert parse(text, "aliases.txt") == tuple(pair for pair, *_ in lines)


@given(st.text(max_size=40))
def test_any_text_is_pairs_or_one_line_that_says_where(text: str) -> None:
    try:
        pairs = parse(text, "aliases.txt")
    except UserError as error:
        assert str(error).startswith("aliases.txt: line ") and "\n" not in str(error)
    else:
        assert all(one and other and one != other for one, other in pairs)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("paiseh", "aliases.txt: line 2: 'paiseh' is not a pair; write one spelling = the other"),
        ("a = b = c", "aliases.txt: line 2: 'a = b = c' is not a pair; write one spelling = the other"),
        ("paiseh =", "aliases.txt: line 2: '' has no words, or more than words; write it in letters"),
        ("route 66 = root", "aliases.txt: line 2: 'route 66' has no words, or more than words; write it in letters"),
        ("Zoë = zoe", "aliases.txt: line 2: both sides are 'zoe'; take the line out"),
    ],
)
def test_what_is_no_pair_is_named_by_its_line(line: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        parse(f"one = two\n{line}\n", "aliases.txt")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ALIASES).parent.mkdir()
    return tmp_path


def test_an_alias_costs_nothing_on_either_side(folder: Path) -> None:
    assert align("So paiseh, lah!", "so pie say la").wrong > 1
    (folder / ALIASES).write_text("paiseh = pie say\nLah = La  # at the end of a sentence\nAh-Beng = are Ben\n")
    assert align("So paiseh, lah!", "so pie say la").wrong == 0
    assert align("so pie say la", "So paiseh, lah!").wrong == 0
    assert align("Ah-Beng's sister called ah beng.", "are Ben's sister called Are Ben").wrong == 0
    assert align("so paiseh", "so").wrong == 1
    assert align("so pie", "so paiseh").wrong == 1


def test_a_change_counts_at_once_and_no_file_is_no_alias(folder: Path) -> None:
    assert known_aliases() == ()
    (folder / ALIASES).write_text("")
    assert known_aliases() == ()
    (folder / ALIASES).write_text("\ufeffone thing = another\n", "utf-8")
    os.utime(folder / ALIASES, (1, 1))
    assert known_aliases() == ((("one", "thing"), ("another",)),)
    (folder / ALIASES).write_bytes(b"caf\xe9 = cafe")
    with pytest.raises(UserError, match="^reports/aliases.txt: .*UTF-8$"):
        align("one", "two")
