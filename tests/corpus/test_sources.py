"""The layouts that a corpus may have, what is wrong in them, and the demo's own."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from models.parts.errors import UserError
from stages.common.audio import decode, mono
from stages.corpus.sources import Source, slug, tidy
from tests.small_corpus import ROOT, read, rows_of, touch

DEMO = ROOT / "data/demo"


def manifest(folder: Path, *rows: Any) -> Source:
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read(folder)


def errors(source: Source) -> dict[str, str]:
    return {error.source: error.what for error in source.errors}


def test_ljspeech_takes_the_normalised_column(tmp_path: Path) -> None:
    touch(tmp_path, "wavs/LJ001-0001.wav", "wavs/LJ001-0002.wav", "wavs/LJ001-0003.flac", "wavs/spare.wav")
    first = 'LJ001-0001|He said "no" in 1455|He said "no" in fourteen fifty-five'
    lines = "\r\n".join([first, "LJ001-0002|Plain|", "LJ001-0003|Two", ""])
    (tmp_path / "metadata.csv").write_text(lines, newline="")
    source = read(tmp_path)
    assert (source.kind, source.errors) == ("ljspeech", [])
    assert [(u.id, u.text, u.source, u.speaker) for u in source.utterances] == [
        ("LJ001-0001", 'He said "no" in fourteen fifty-five', "wavs/LJ001-0001.wav", "me"),
        ("LJ001-0002", "Plain", "wavs/LJ001-0002.wav", "me"),
        ("LJ001-0003", "Two", "wavs/LJ001-0003.flac", "me"),
    ]
    assert [str(one) for one in source.left_out] == ["wavs/spare.wav: not in metadata.csv"]


def test_ljspeech_names_the_missing_recording_and_the_bad_line(tmp_path: Path) -> None:
    touch(tmp_path, "wavs/a.wav")
    (tmp_path / "metadata.csv").write_text("a|Here\nno separator\nb|Gone|Gone\n")
    found = errors(read(tmp_path))
    assert "id|text" in found["metadata.csv, line 2"] and "no such file" in found["wavs/b.wav"] and len(found) == 2


def test_a_folder_pairs_recordings_with_texts(tmp_path: Path) -> None:
    touch(tmp_path, "day 1/it's \"me\".wav", "b.WAV", "c.flac", "._c.flac", "notes.md")
    (tmp_path / "day 1/it's \"me\".txt").write_text("one\n two ", encoding="utf-8-sig")
    (tmp_path / "b.lab").write_text("three")
    (tmp_path / "c.txt").write_text("four")
    source = read(tmp_path)
    assert (source.kind, source.errors) == ("folder", [])
    assert [(u.id, u.text) for u in source.utterances] == [("b", "three"), ("c", "four"), ("day_1_it_s_me", "one two")]
    assert source.utterances[2].read() == b"day 1/it's \"me\".wav"


def test_a_folder_names_what_has_no_partner(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.wav", "b.txt", "b.lab", "c.txt", "d.wav", "x/e.wav", "x e.wav")
    (tmp_path / "d.txt").write_bytes("café".encode("latin-1"))
    for name in ("x/e", "x e"):
        (tmp_path / f"{name}.txt").write_text("twice the same id")
    found = errors(read(tmp_path))
    expected = {"a.wav": "no text", "b.wav": "two texts", "c.txt": "without its recording", "d.wav": "not UTF-8"}
    assert {name: part for name, part in expected.items() if part not in found[name]} == {}
    assert [name for name in found if "gets the id 'x_e'" in found[name]] in (["x/e.wav"], ["x e.wav"])
    assert len(found) == 5


def test_a_manifest_row_may_say_who_speaks_and_what_to_leave_out(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.wav", "elsewhere/2.wav")
    source = manifest(
        tmp_path,
        {"audio": "a/1.wav", "text": "One.", "speaker": "ann", "language": "nl", "mood": "glad"},
        {"audio": str(tmp_path / "elsewhere/2.wav"), "text": "Two.", "id": "second"},
        {"audio": "a/3.wav", "text": "[door]", "exclude": "not speech"},
    )
    assert [(u.id, u.speaker, u.language) for u in source.utterances] == [("a_1", "ann", "nl"), ("second", "me", "en")]
    assert [str(one) for one in source.left_out] == ["a/3.wav: not speech"] and not source.errors
    assert read(tmp_path / "list.jsonl").utterances == source.utterances


def test_a_manifest_reads_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("in/one.wav", b"inside")
    source = manifest(
        tmp_path, {"audio": "all.zip/in/one.wav", "text": "One"}, {"audio": "all.zip/in/two.wav", "text": "Two"}
    )
    assert [(u.id, u.read()) for u in source.utterances] == [("in_one", b"inside")]
    assert "no such file" in errors(source)["all.zip/in/two.wav"]


def test_an_archive_that_is_none_is_one_line(tmp_path: Path) -> None:
    touch(tmp_path, "all.zip")
    with pytest.raises(UserError, match=r"all\.zip: not a zip archive"):
        manifest(tmp_path, {"audio": "all.zip/one.wav", "text": "One"})


def test_a_manifest_names_the_row(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    good = {"audio": "a.wav", "text": "ok"}
    found = errors(manifest(tmp_path, good, {"text": "x"}, {"audio": "a.wav", "text": 5}, {"audio": " ", "text": ""}))
    assert 'no "audio"' in found["list.jsonl, row 2"]
    assert "must be text, not 5" in found["list.jsonl, row 3"]
    assert '"audio" is empty' in found["list.jsonl, row 4"]
    (tmp_path / "list.jsonl").write_text('{"audio": "a.wav", "text": "ok"}\n{"audio"\n')
    with pytest.raises(UserError, match="list.jsonl: line 2: not JSON"):
        read(tmp_path)


def test_what_is_no_corpus_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; set corpus.source"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no recordings here"):
        read(tmp_path)
    touch(tmp_path, "a.jsonl", "metadata.csv")
    with pytest.raises(UserError, match=r"a\.jsonl, metadata\.csv, several corpora"):
        read(tmp_path)


@settings(deadline=None)
@given(st.text(min_size=1))
def test_ids_are_safe_file_names(name: str) -> None:
    made = slug(name)
    assert made and "/" not in made and made not in (".", "..") and slug(made) == made
    assert all(character.isalnum() or character in "_.-" for character in made)


@settings(deadline=None)
@given(st.text())
def test_tidying_only_touches_white_space_and_composition(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text)
    assert [c for c in tidy(text) if c.isalnum()] == [c for c in tidy("".join(text.split("\n"))) if c.isalnum()]


def test_a_mix_keeps_one_sided_recordings() -> None:
    one_sided = np.stack([np.full(100, 0.5, np.float32), np.zeros(100, np.float32)], axis=1)
    np.testing.assert_array_equal(mono(one_sided, "x"), np.full(100, 0.25, np.float32))


def demo_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_build", DEMO / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_is_what_its_script_makes() -> None:
    """Archive, rows and rules fit each other; the packages themselves are needed only to build it again."""
    build, rows = demo_build(), rows_of(DEMO / "transcripts.jsonl")
    with zipfile.ZipFile(DEMO / "allison.zip") as archive:
        members = archive.namelist()
    assert [row["audio"] for row in rows] == [f"allison.zip/{member}" for member in members] and len(rows) == 568
    names = [member.removesuffix(".g722") for member in members]
    assert rows == [build.row(name, row.get("published", row["text"])) for name, row in zip(names, rows, strict=True)]
    spoken = [row["text"] for row in rows if "exclude" not in row]
    assert len(spoken) == 551 and not [text for text in spoken if set(text) & set("[]<>()*#")]


def test_g722_is_read_whole() -> None:
    (hello,) = [u for u in read(DEMO).utterances if u.id == "hello-world"]
    data = hello.read()
    audio, rate = decode(data, hello.source)
    assert (rate, audio.shape) == (16000, (2 * len(data), 1))  # 4 bits a sample
    assert 0.1 < np.abs(audio).max() <= 1.0 and np.abs(audio[:160]).max() < 0.05


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_wav_is_read_exactly(tmp_path: Path, subtype: str) -> None:
    audio = (np.random.default_rng(1).integers(-(2**15), 2**15, (500, 2)) / 2**15).astype(np.float32)
    sf.write(tmp_path / "a.wav", audio, 22050, subtype=subtype)
    read_back, rate = decode((tmp_path / "a.wav").read_bytes(), "a.wav")
    assert rate == 22050
    np.testing.assert_array_equal(read_back, audio)
