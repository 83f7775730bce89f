"""Who speaks, in which language, how loud: nothing of it is assumed in silence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from models.parts.errors import UserError
from stages.common.files import read_json
from stages.common.languages import CODES, words
from stages.common.params import read_params
from stages.common.shards import Shards
from stages.corpus.__main__ import build
from tests.small_corpus import RATE, ROOT, corpus_params, rows_of, sentences, speech, write_folder


def manifest(folder: Path, texts: list[str], **keys: Sequence[str | None]) -> Path:
    """A manifest of as many clips as there are texts, with these keys where they are not None."""
    folder.mkdir(parents=True)
    rows = []
    for number, text in enumerate(texts):
        sf.write(folder / f"c{number:02d}.wav", speech(text[:40], seed=number), RATE)
        rows.append({"audio": f"c{number:02d}.wav", "text": text} | {key: said for key, column in keys.items() if (said := column[number])})
    (folder / "list.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return folder


def built(source: Path, out: Path, **changes: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Manifest and audit of the corpus stage."""
    build(corpus_params(source, **changes), out / "corpus", out / "report")
    return rows_of(out / "corpus/manifest.jsonl"), read_json(out / "report/audit.json")


def refused(source: Path, out: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    with pytest.raises(UserError, match="nothing was written"):
        built(source, out, **changes)
    assert not (out / "corpus").exists()
    return capsys.readouterr().err


def warned(audit: dict[str, Any]) -> str:
    return "\n".join(f"{one['source']}: {one['what']}" for one in audit["warnings"])


PEOPLE: list[str | None] = ["ann", "ann", "bob"] * 8


def test_one_speaker_of_several_is_taken_and_the_others_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = manifest(tmp_path / "in", sentences(24), speaker=PEOPLE)
    rows, audit = built(folder, tmp_path, speaker="ann")
    assert len(rows) == 16 and {row["speaker"] for row in rows} == {"ann"}
    assert "clips left out 8" in capsys.readouterr().out
    assert {"source": "speaker bob", "what": "8 clips, like c02.wav"} in audit["left_out"] and len(audit["others"]["speaker bob"]) == 8
    said = refused(folder, tmp_path / "other", capsys, speaker="eve")
    assert "has no clip of speaker 'eve'; it has ann (16 clips), bob (8 clips): set corpus.speaker to one of them" in said


def test_clips_of_which_nobody_says_who_speaks_are_told(tmp_path: Path) -> None:
    rows, audit = built(manifest(tmp_path / "in", sentences(24), speaker=["ann"] * 20 + [None] * 4), tmp_path, speaker="ann")
    assert len(rows) == 24 and "has 4 clips of which it does not say who speaks, like c20.wav; they are taken for 'ann'" in warned(audit)


def test_folders_may_be_speakers_and_the_stage_says_how_it_took_them(tmp_path: Path) -> None:
    for who in ("p225", "p226"):
        write_folder(tmp_path / "in" / who, 20)
    for number in range(20):  # another recording of the same sentence
        sf.write(tmp_path / f"in/p226/clip{number:02d}.wav", speech(sentences(20)[number], seed=100 + number), RATE)
    rows, audit = built(tmp_path / "in", tmp_path / "all", speaker="me")
    assert len(rows) == 40 and "lies in 2 folders (p225, p226), all taken for recordings of 'me'" in warned(audit)
    rows, audit = built(tmp_path / "in", tmp_path / "one", speaker="p226")
    assert {row["id"][:4] for row in rows} == {"p226"} and len(rows) == 20 and "folders" not in warned(audit)


def test_another_language_than_the_settings_is_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed = manifest(tmp_path / "in", sentences(24), language=["en-US"] * 20 + ["nl"] * 4)
    rows, audit = built(mixed, tmp_path, language="en")
    assert len(rows) == 20 and {"source": "language nl", "what": "4 clips, like c20.wav"} in audit["left_out"]
    assert "has no clip of language 'de'; it has en (20 clips), nl (4 clips): set corpus.language" in refused(mixed, tmp_path / "other", capsys, language="de")


def test_texts_of_another_language_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cyrillic = manifest(tmp_path / "ru", [f"Это предложение номер {number} в нашей книге" for number in range(24)])
    assert "its letters are Cyrillic, which 'en' is not written in; set corpus.language" in refused(cyrillic, tmp_path / "1", capsys)
    _, audit = built(cyrillic, tmp_path / "2", language="ru")
    assert "the tiny bases (profile tiny) pronounce English alone" in warned(audit) and "not spoken" not in warned(audit)
    german = manifest(tmp_path / "de", [f"Das ist nicht der Weg und ich gehe mit dir auf die Seite {number}" for number in range(24)])
    _, audit = built(german, tmp_path / "3")
    assert "its commonest words are those of 'de', and corpus.language says 'en'" in warned(audit)
    assert "commonest" not in warned(built(german, tmp_path / "4", language="de")[1])


def test_the_language_is_left_for_later_stages_and_counts_words(tmp_path: Path) -> None:
    built(manifest(tmp_path / "in", [f"今天是第{number}個好天氣我們去公園" for number in range(24)]), tmp_path, language="zh")
    stats = read_json(tmp_path / "corpus/stats.json")
    assert stats["language"] == "zh" and stats["words_per_second"] == stats["chars_per_second"] > 2
    assert words("今天 好。", "zh") == 3 and words("so it is", "en") == 3


def test_an_unknown_code_is_refused_with_the_list(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    for value, said in (("xx", "is no code of a language; they are af am ar"), ("english", "is no code of a language"), ("en-GB", "must be the code alone, en")):
        (tmp_path / "params.yaml").write_text(text.replace("language: en ", f"language: {value} "))
        with pytest.raises(UserError, match=f"corpus.language: '{value}' {said}"):
            read_params(tmp_path / "params.yaml")
    assert "yue" in CODES


def test_what_will_not_be_spoken_is_named_with_its_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = sentences(24)
    texts[3], texts[5], texts[7] = "Say 你好 to the river", "Well done 👍 to all of you", "The café costs £5 — or ½"
    _, audit = built(manifest(tmp_path / "in", texts), tmp_path)
    assert "c03.wav: its text holds 你 (U+4F60), 好 (U+597D), which will not be spoken" in warned(audit)
    assert "c05.wav: its text holds 👍 (U+1F44D), which will not be spoken" in warned(audit) and "c07.wav: its text" not in warned(audit)
    assert "not spoken, 2 times; the first: c03.wav" in capsys.readouterr().out


# --- levels -----------------------------------------------------------------------------------------------------------


def test_a_hot_float_clip_is_made_quieter_and_loses_nothing(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", 24)
    sound = speech(sentences(24)[4], seed=4)
    hot = 2.5 * sound / np.abs(sound).max()
    sf.write(folder / "clip04.wav", hot, RATE, subtype="FLOAT")
    rows, audit = built(folder, tmp_path)
    assert "clip04.wav: goes 8.0 dB beyond full scale; it was made quieter by so much, and lost nothing" in warned(audit)
    kept = Shards(tmp_path / "corpus")["clip04"].audio
    start = int(np.flatnonzero(np.abs(kept) > 0)[0])
    whole = hot / 2.5
    first = int(np.flatnonzero(np.abs(whole) > 0)[0])
    np.testing.assert_allclose(kept[start : start + 20000], whole[first : first + 20000], atol=2**-22)


@pytest.mark.parametrize("scale, said", [(2**15, "16-bit integers written as floats: divide them by 32768"), (2**23, "24-bit"), (100, "8-bit")])
def test_integers_written_as_floats_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str], scale: int, said: str) -> None:
    folder = write_folder(tmp_path / "in", 12)
    sound = speech(sentences(12)[4], seed=4)
    sf.write(folder / "clip04.wav", 0.9 * scale * sound / np.abs(sound).max(), RATE, subtype="FLOAT")
    found = refused(folder, tmp_path, capsys)
    assert found.startswith("clip04.wav: goes ") and "dB beyond full scale" in found and said in found


def test_a_corpus_that_was_scaled_twice_is_told(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", 24)
    for number, text in enumerate(sentences(24)):
        sf.write(folder / f"clip{number:02d}.wav", 0.02 * speech(text, seed=number), RATE, subtype="FLOAT")
    assert "is very quiet (-57 dBFS); were its samples scaled twice?" in warned(built(folder, tmp_path)[1])
