"""Which column is the text: what is none stops with a line that says what it looks like, and quotes are what they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from models.parts.errors import UserError
from stages.corpus.__main__ import build
from stages.corpus.listing import read_lines
from stages.corpus.sources import Source, read_source
from tests.small_corpus import RATE, corpus_params, rows_of, sentences, speech

TEXTS = [f"{text}, Mr. Lee." for text in sentences(12)]
EMOTIONS = ["neutral", "happy", "sad", "angry"]


def ljspeech(folder: Path, *lines: str) -> Path:
    """An LJSpeech folder whose recordings are there, and hold nothing yet."""
    (folder / "wavs").mkdir()
    for number in range(len(lines)):
        (folder / f"wavs/c{number:03d}.wav").touch()
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def three(third: list[str]) -> list[str]:
    return [f"c{number:03d}|{TEXTS[number % len(TEXTS)]}|{column}" for number, column in enumerate(third)]


def wrong(source: Source) -> list[str]:
    return [str(error) for error in source.errors]


THIRD = {
    "numbers alone": [f"{1.5 + 0.137 * number:.3f}" for number in range(12)],
    "the same in every line": ["0"] * 12,
    "names of files or ids": [f"spk_{number:02d}" for number in range(12)],
    "phonemes": ["ðə ˈɹɪvəɹ ɪz ˈnʌmbəɹ wʌn"] * 6 + ["ðə ˈɡɑːɹdən ɪz ˈnʌmbəɹ tuː"] * 6,
    "phonemes, like 'HH": ["HH AH0 L OW1 pau"] * 6 + ["DH AX R IH V ER"] * 6,
    "labels (": EMOTIONS * 8,
    "% of the words": [f"{text} is what somebody else said" for text in ("Eine andere Rede", "Guten Morgen", "Danke schön", "Auf Wiedersehen")] * 3,
}


@pytest.mark.parametrize("looks", THIRD)
def test_a_third_column_that_is_no_normalised_text_stops(tmp_path: Path, looks: str) -> None:
    found = wrong(read_source(ljspeech(tmp_path, *three(THIRD[looks])), "me", "en"))
    assert len(found) == 1 and found[0].startswith("metadata.csv, line 1: column 3") and looks in found[0]
    assert "normalised form; take it out of the file" in found[0]


def test_one_line_whose_third_column_is_another_text_is_named(tmp_path: Path) -> None:
    third = [text.replace("Mr.", "mister") for text in TEXTS]
    third[4], third[7] = "somebody else said this", "2.35"
    found = wrong(read_source(ljspeech(tmp_path, *three(third)), "me", "en"))
    assert [re.match(r"metadata.csv, line (\d+): column 3", line)[1] for line in found] == ["5", "8"]  # type: ignore[index]


def test_normalised_texts_are_read_whatever_they_spell_out(tmp_path: Path) -> None:
    lines = ["c000|He paid $5 in 1455.|he paid five dollars in fourteen fifty-five", "c001|No. 5|number five", "c002|10:30|half past ten", "c003|Dr. Lee|doctor lee"]
    source = read_source(ljspeech(tmp_path, *lines), "me", "en")
    assert not source.errors and [one.text for one in source.utterances] == [line.split("|")[2] for line in lines]


def test_a_line_that_shares_no_word_is_read_and_told(tmp_path: Path) -> None:
    source = read_source(ljspeech(tmp_path, *three([text.lower() for text in TEXTS]), "c012|OK|all right"), "me", "en")
    assert [str(one) for one in source.warnings] == ["metadata.csv, line 13: column 3 ('all right') is read, which has no word of column 2 ('OK')"]


@pytest.mark.parametrize("second", [["0"] * 12, EMOTIONS * 8, ["ann"] * 12])
def test_a_speaker_in_the_second_column_is_no_text(tmp_path: Path, second: list[str]) -> None:
    lines = [f"c{number:03d}|{who}|{TEXTS[number % 12]}" for number, who in enumerate(second)]
    (found,) = wrong(read_source(ljspeech(tmp_path, *lines), "me", "en"))
    assert "column 2 looks like" in found and "id|text|normalised text" in found


@pytest.mark.parametrize("other", ["normalized_text", "sentence", "transcription", "text_unnormalised"])
def test_a_manifest_with_two_texts_says_so(tmp_path: Path, other: str) -> None:
    for number in range(12):
        (tmp_path / f"{number}.wav").touch()

    def read(texts: list[str]) -> Source:
        rows = [{"audio": f"{number}.wav", "text": TEXTS[number], other: text} for number, text in enumerate(texts)]
        (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_source(tmp_path, "me", "en")

    (found,) = wrong(read(["A different thing was said"] * 12))
    assert found.startswith('list.jsonl, row 1: "text" (') and f'"{other}" (' in found and "take the other key out" in found
    spelt = read([text.replace("Mr.", "mister") for text in TEXTS])
    assert not spelt.errors and [one.what.split(" differ, in ")[1] for one in spelt.warnings] == ['12 rows; "text" is read']
    same = read(TEXTS)
    assert not same.errors and not same.warnings


def test_a_manifest_that_calls_its_text_otherwise_is_told_how(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps({"audio_filepath": "a.wav", "sentence": "Hello"}) + "\n" + json.dumps({"audio": "a.wav", "sentence": "Hello"}))
    found = wrong(read_source(tmp_path, "me", "en"))
    assert '"audio_filepath": call that "audio"' in found[0] and '"sentence": call that "text"' in found[1]


NO_PROSE = {
    "labels with times": "0 2500000 pau\n2500000 4100000 hh\n4100000 9000000 ax\n",
    "labels with times ": "0.000000\t1.250000\tHello there\n",
    "labels with times  ": "#\n0.1150 125 pau\n0.2500 125 hh\n",
    "labels with times   ": "1\n00:00:00,000 --> 00:00:02,000\nHello there\n",
    "labels with times    ": "c1 1 0.00 0.35 hello\nc1 1 0.35 0.20 there\n",
    "JSON": '{"text": "hello there"}',
    "begins with the name of its file, as 5 more do": "NAME hello there",
    "phonemes": "pau\nhh\nax\nl\now\npau\n",
    "numbers alone": "1.5",
}


@pytest.mark.parametrize("looks", NO_PROSE)
def test_a_folder_whose_texts_are_labels_stops(tmp_path: Path, looks: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for number in range(6):
        sf.write(tmp_path / f"in/c{number}.wav", speech("a few words", seed=number), RATE)
        (tmp_path / f"in/c{number}.lab").write_text(NO_PROSE[looks].replace("1.5", f"{number + 1.5}").replace("NAME", f"c{number}").replace("\nax", "\nax" * (number + 1)))
    with pytest.raises(UserError, match="nothing was written"):
        build(corpus_params(tmp_path / "in"), tmp_path / "corpus", tmp_path / "report")
    assert looks.strip() in capsys.readouterr().err.splitlines()[0]


def texts_of(content: str) -> list[str]:
    return [line.text for line in read_lines(content, "metadata.csv")]


def test_quotes_of_a_csv_writer_are_its_own() -> None:
    assert texts_of('c0|"To increase the volume"\nc1|"She said ""No."" twice"\nc2|press 1\n') == ["To increase the volume", 'She said "No." twice', "press 1"]
    assert texts_of('"c0"|"One."\n"c1"|"Two."\n') == ["One.", "Two."]
    assert texts_of('c0|"One | two"\nc1|"over\ntwo lines"\n') == ["One | two", "over\ntwo lines"]


def test_quotes_of_prose_stay() -> None:
    lines = ['"Yes," he said.', 'He said "no."', '"Whole and in quotes."', 'An inch is 1"', '"Open', "Plain"]
    assert texts_of("".join(f"c{number}|{text}\n" for number, text in enumerate(lines))) == lines
    assert texts_of('c0|"Go home."\nc1|Plain\n') == ['"Go home."', "Plain"]
    assert texts_of('c0|He said "no."\nc1|"She said ""No."" twice"\n') == ['He said "no."', 'She said "No." twice']


ROW = st.text(alphabet='ab ".,|\n', min_size=1, max_size=12).filter(str.strip)


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=5))
def test_what_pandas_wrote_comes_back_where_it_quoted_all(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    texts = [text for text in texts if not ("|" in text and "\n" in text)] or ["a"]  # a broken row looks like that
    frame = pd.DataFrame({"id": [f"c{number}" for number in range(len(texts))], "text": texts})
    assert texts_of(frame.to_csv(sep="|", header=False, index=False, quoting=1, lineterminator="\n")) == [text if text.strip() else "" for text in texts]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_where_an_editor_ends_them(end: str) -> None:
    assert [(line.number, line.columns) for line in read_lines(f"a|One{end}{end}b|Two", "metadata.csv")] == [(1, ["a", "One"]), (3, ["b", "Two"])]


@pytest.mark.parametrize("mark, name", [("\t", "tabs"), (",", "commas"), (";", "semicolons")])
def test_other_separators_are_one_line(mark: str, name: str) -> None:
    with pytest.raises(UserError, match=f"metadata.csv: line 1: its columns are separated by {name}, where LJSpeech has `id|text`"):
        read_lines(f"a{mark}One\nb{mark}Two\n", "metadata.csv")


def test_the_header_of_a_table_is_no_clip(tmp_path: Path) -> None:
    ljspeech(tmp_path, "c000|One river", "c001|Two rivers")
    (tmp_path / "metadata.csv").write_text("file_name|transcription\nc000|One river\nc001|Two rivers\n")
    source = read_source(tmp_path, "me", "en")
    assert not source.errors and [one.id for one in source.utterances] == ["c000", "c001"]


def test_a_quoted_corpus_reaches_the_manifest_without_its_quotes(tmp_path: Path) -> None:
    (tmp_path / "in/wavs").mkdir(parents=True)
    for number, text in enumerate(sentences(12)):
        sf.write(tmp_path / f"in/wavs/c{number:02d}.wav", speech(text, seed=number), RATE)
    pd.DataFrame([(f"c{number:02d}", f'"{text}" she said') for number, text in enumerate(sentences(12))]).to_csv(
        tmp_path / "in/metadata.csv", sep="|", header=False, index=False
    )
    build(corpus_params(tmp_path / "in"), tmp_path / "corpus", tmp_path / "report")
    assert [row["text"] for row in rows_of(tmp_path / "corpus/manifest.jsonl")] == [f'"{text}" she said' for text in sentences(12)]
