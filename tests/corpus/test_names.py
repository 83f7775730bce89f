"""Files are found as a person finds them, in a file manager; what DVC would not watch is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.corpus.names import Names
from stages.corpus.sources import Source
from tests.small_corpus import read, touch


def metadata(folder: Path, *lines: str) -> Source:
    (folder / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    return read(folder)


def manifest(folder: Path, *audio: str) -> Source:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "list.jsonl").write_text("".join(json.dumps({"audio": name, "text": f"text {number}"}) + "\n" for number, name in enumerate(audio)))
    return read(folder)


def wrong(source: Source) -> list[str]:
    return [str(error) for error in source.errors]


@pytest.mark.parametrize("written", ["a", "a.wav", "a.WAV", "wavs/a.wav", "wavs/a", "./wavs/a.wav", "wavs\\a.wav"])
@pytest.mark.parametrize("there", ["wavs/a.wav", "wavs/a.WAV"])
def test_an_id_may_be_a_name_or_a_path(tmp_path: Path, written: str, there: str) -> None:
    touch(tmp_path, there)
    source = metadata(tmp_path, f"{written}|One")
    assert wrong(source) == [] and [(one.path.relative_to(tmp_path).as_posix(), one.read()) for one in source.utterances] == [(there, there.encode())]
    assert not source.left_out


def test_recordings_beside_the_list_are_found(tmp_path: Path) -> None:
    touch(tmp_path, "clips/a.wav", "b.flac")
    source = metadata(tmp_path, "clips/a.wav|One", "b|Two")
    assert wrong(source) == [] and sorted(one.source for one in source.utterances) == ["b.flac", "clips/a.wav"]


@pytest.mark.parametrize("form, other", [("NFC", "NFD"), ("NFD", "NFC")])
def test_an_accent_may_be_composed_or_not(tmp_path: Path, form: str, other: str) -> None:
    name, there = unicodedata.normalize(form, "c_é"), unicodedata.normalize(other, "c_é")  # type: ignore[arg-type]
    touch(tmp_path / "lj", f"wavs/{there}.wav")
    touch(tmp_path / "json", f"{there}.wav")
    touch(tmp_path / "pairs", f"{there}.wav")
    (tmp_path / f"pairs/{name}.txt").write_text("One")
    with zipfile.ZipFile(tmp_path / "json/all.zip", "w") as archive:
        archive.writestr(f"{there}.WAV", b"inside")
    for source in (metadata(tmp_path / "lj", f"{name}|One"), manifest(tmp_path / "json", f"{name}.wav"), manifest(tmp_path / "json", f"all.zip/{name}.wav"), read(tmp_path / "pairs")):
        assert wrong(source) == [] and all(one.read() for one in source.utterances)


def test_what_is_there_instead_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "clips/Take 1.wav", "clips/b.flac", "clips/c.wav")
    found = dict(line.split(": ", 1) for line in wrong(manifest(tmp_path, "clips/take_1.wav", "clips/b.wav", "elsewhere/c.wav", "clips/d.wav")))
    assert "no such file; clips/Take 1.wav is there" in found["clips/take_1.wav"]
    assert "no such file; clips/b.flac is there" in found["clips/b.wav"]
    assert "no such file; clips/c.wav is there" in found["elsewhere/c.wav"]
    assert found["clips/d.wav"] == "no such file; add the recording, or take its text out of the corpus"


def test_one_id_with_two_recordings_is_not_guessed(tmp_path: Path) -> None:
    touch(tmp_path, "wavs/a.wav", "wavs/a.flac", "wavs/b.wav", "wavs/b.flac")
    (found,) = wrong(metadata(tmp_path, "a|One", "b.flac|Two"))
    assert found == "metadata.csv, line 1: 'a' may be wavs/a.flac or wavs/a.wav; keep one of them, or write its whole name"


def test_a_folder_says_why_a_text_is_not_read(tmp_path: Path) -> None:
    touch(tmp_path, "a.rec", "b.wav", "b.normalized.txt")
    for name in ("a", "b.normalized"):
        (tmp_path / f"{name}.txt").write_text("One")
    found = dict(line.split(": ", 1) for line in wrong(read(tmp_path)))
    assert "a.rec is there, of a kind that is not read: export it as WAV or FLAC" in found["a.txt"]
    assert "add b.txt or b.lab (b.normalized.txt: not the same name)" in found["b.wav"]


@settings(deadline=None)
@given(st.lists(st.text(alphabet="aé.-_ B/", min_size=1, max_size=8).filter(lambda text: text.strip("/. ")), min_size=1, max_size=8))
def test_what_is_there_is_found_as_it_is_written(names: list[str]) -> None:
    there = Names(names)
    for name in names:
        assert there.find(name) == name
        assert there.find(unicodedata.normalize("NFD", name)) in names + [None]


# --- what DVC watches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["absolute", "above", "linked folder", "linked wavs"])
def test_recordings_outside_of_the_folder_are_refused_in_one_line(tmp_path: Path, way: str) -> None:
    root = tmp_path / "corpus"
    touch(tmp_path, "base/a.wav", "base/b.wav")
    touch(root, "inside.wav")
    if way == "linked wavs":
        (root / "wavs").symlink_to("../base")
        source = metadata(root, "a|One", "b|Two")
    else:
        (root / "link").symlink_to("../base")
        prefix = {"absolute": str(tmp_path / "base"), "above": "../base", "linked folder": "link"}[way]
        source = manifest(root, f"{prefix}/a.wav", f"{prefix}/b.wav", "inside.wav")
    (found,) = [line for line in wrong(source) if line.startswith(f"{root}: ")]
    assert "a.wav and 1 more lie outside of it, where DVC does not watch them" in found and "dvc import-url" in found


def test_a_linked_folder_in_a_folder_of_pairs_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "base/a.wav", "corpus/b.wav")
    (tmp_path / "corpus/b.txt").write_text("One")
    (tmp_path / "corpus/more").symlink_to("../base")
    (found,) = wrong(read(tmp_path / "corpus"))
    assert found.startswith("more: a link to a folder, which DVC does not watch")


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to("/not/there.wav")
    assert wrong(manifest(tmp_path, "a.wav")) == ["a.wav: a link to /not/there.wav, which is not there; copy the recording itself here"]


def test_absolute_paths_into_the_folder_and_a_linked_source_are_fine(tmp_path: Path) -> None:
    touch(tmp_path, "corpus/a.wav")
    (tmp_path / "way").symlink_to("corpus")
    manifest(tmp_path / "corpus", str(tmp_path / "corpus/a.wav"))
    assert wrong(read(tmp_path / "way")) == [] and wrong(read(tmp_path / "corpus")) == []


def test_a_manifest_by_its_name_says_what_is_not_watched(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    manifest(tmp_path, "a.wav")
    (warning,) = read(tmp_path / "list.jsonl").warnings
    assert "DVC watches list.jsonl alone" in warning.what


def test_dvc_sees_a_linked_recording_change_and_none_in_a_linked_folder(tmp_path: Path) -> None:
    """Which is why links to files are taken, and links to folders are not."""
    root = tmp_path / "repository"
    touch(tmp_path, "base/a.wav", "base/b.wav")
    touch(root, "voice/c.wav")
    (root / "voice/a.wav").symlink_to("../../base/a.wav")
    (root / "voice/folder").symlink_to("../../base")
    (root / "dvc.yaml").write_text("stages: {corpus: {cmd: 'true', deps: [voice]}}\n")

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, "-m", *command], cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("dvc", "init", "--no-scm")
    run("dvc", "repro")
    (tmp_path / "base/b.wav").write_bytes(b"another one")
    assert "up to date" in run("dvc", "status")
    os.utime(tmp_path / "base/a.wav", (1, 1))
    (tmp_path / "base/a.wav").write_bytes(b"BASE/A.WAV")  # as many bytes
    assert "modified" in run("dvc", "status")
