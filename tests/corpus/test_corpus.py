"""The corpus stage: what comes out, what is named, and that a mistake leaves everything as it was."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from models.parts.errors import UserError
from stages.common.audio import resample
from stages.common.shards import Shards, pcm_sha256
from stages.corpus import __main__ as corpus
from stages.corpus.__main__ import build
from stages.corpus.sources import read_source
from stages.corpus.splits import sentence, split_of
from tests.small_corpus import RATE, ROOT, corpus_params, rows_of, sentences, speech, write_folder


class Built:
    """What one run of the stage left behind."""

    def __init__(self, source: Path, out: Path, **changes: Any):
        self.data, self.report = out / "corpus", out / "report"
        self.metrics = build(corpus_params(source, **changes), self.data, self.report)
        self.rows = {row["id"]: row for row in rows_of(self.data / "manifest.jsonl")}
        self.audit = json.loads((self.report / "audit.json").read_text())
        self.page = (self.report / "index.html").read_text()

    def warnings(self, source: str) -> str:
        return "\n".join(one["what"] for one in self.audit["warnings"] if one["source"] == source)


def write(folder: Path, name: str, text: str, audio: np.ndarray, rate: int = RATE) -> None:
    sf.write(folder / f"{name}.wav", audio, rate)
    (folder / f"{name}.txt").write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "recordings")


def test_clips_that_bring_their_codes_along_are_whole(folder: Path, tmp_path: Path) -> None:
    """Codes are of whole clips, so nothing is trimmed, and they are there for who tokenises."""
    rows = [{"audio": path.name, "text": path.with_suffix(".txt").read_text()} for path in sorted(folder.glob("*.wav"))]
    (folder / "takes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(Built(folder, tmp_path / "recorded").rows) == len(rows)
    (folder / "codes.safetensors").write_bytes(b"codes")
    built = Built(folder, tmp_path / "said")
    for clip in Shards(built.data):
        assert len(clip.audio) == sf.info(folder / f"{clip.id}.wav").frames
    assert (built.data / "codes.safetensors").read_bytes() == b"codes"
    assert not (tmp_path / "recorded/corpus/codes.safetensors").exists()
    assert all(len(clip.audio) < sf.info(folder / f"{clip.id}.wav").frames for clip in Shards(tmp_path / "recorded/corpus"))


def test_manifest_shards_and_statistics_agree(folder: Path, tmp_path: Path) -> None:
    built = Built(folder, tmp_path)
    assert [built.rows[clip]["text"] for clip in sorted(built.rows)] == sentences(40)
    clips = list(Shards(built.data))
    assert [clip.id for clip in clips] == list(built.rows) == sorted(built.rows)
    for clip in clips:
        row = built.rows[clip.id]
        assert (clip.sample_rate, len(clip.audio)) == (row["sample_rate"], row["samples"])
        assert pcm_sha256(clip.audio) == row["sha256"]
    stats = json.loads((built.data / "stats.json").read_text())
    assert sum(split["clips"] for split in stats["splits"].values()) == stats["clips"] == 40
    assert stats["seconds"] == pytest.approx(sum(row["seconds"] for row in built.rows.values()), abs=0.02)
    assert built.metrics["warnings"] == len(built.audit["warnings"])


def test_ends_are_trimmed_to_the_silence_that_is_kept(folder: Path, tmp_path: Path) -> None:
    built = Built(folder, tmp_path, keep_silence=0.1)
    original = speech(sentences(1)[0], seed=0)
    kept = Shards(built.data)["clip00"].audio
    assert len(original) - len(kept) == pytest.approx(2 * 0.3 * RATE, abs=2 * 0.01 * RATE)
    start = round(0.3 * RATE)
    np.testing.assert_allclose(kept, original[start : start + len(kept)], atol=2**-15)


def test_two_runs_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    one, other = Built(folder, tmp_path / "1"), Built(folder, tmp_path / "2")
    for mine, theirs in ((one.data, other.data), (one.report, other.report)):
        names = sorted(path.name for path in mine.iterdir())
        assert names == sorted(path.name for path in theirs.iterdir())
        assert [name for name in names if (mine / name).read_bytes() != (theirs / name).read_bytes()] == []


def test_all_faults_are_told_at_once_and_nothing_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Built(folder, tmp_path)
    kept = {path: path.read_bytes() for path in [*before.data.iterdir(), *before.report.iterdir()]}
    good = speech("a good clip")
    (folder / "text.wav").write_text("This was saved under the wrong name.")
    (folder / "text.txt").write_text("this was saved")
    (folder / "nothing.wav").write_bytes(b"")
    (folder / "nothing.txt").write_text("nothing at all")
    (folder / "no sound.txt").write_text("a missing recording")
    write(folder, "empty", "  \n", good)
    write(folder, "dots", "...", good * 0.9)
    write(folder, "bell", "ring the \a bell", good * 0.8)
    write(folder, "silent", "not a sound", good * 1e-4)
    write(folder, "phase", "both sides", np.stack([good, -good], axis=1))
    write(folder, "cut", "the end of it is lost", good * 0.7)
    whole = (folder / "cut.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    sf.write(folder / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    (folder / "nan.txt").write_text("not a number")
    write(folder, "twice", "another text than before", speech(sentences(1)[0], seed=0))
    capsys.readouterr()

    with pytest.raises(UserError, match="11 to mend, listed above; nothing was written") as raised:
        build(corpus_params(folder), before.data, before.report)
    assert "\n" not in str(raised.value)
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().err.splitlines())
    expected = {
        "text.wav": "text, not audio",
        "nothing.wav": "0 bytes",
        "no sound.txt": "without its recording",
        "empty.wav": "text is empty",
        "dots.wav": "holds no word",
        "bell.wav": "control character, U+0007",
        "silent.wav": "no sound",
        "phase.wav": "cancel each other",
        "cut.wav": "cut off",
        "nan.wav": "not numbers",
        "twice.wav": "same audio as clip00.wav, with another text",
    }
    assert {name: part for name, part in expected.items() if part not in lines.get(name, "")} == {}
    assert {path: path.read_bytes() for path in [*before.data.iterdir(), *before.report.iterdir()]} == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "recordings", "report"]


def test_many_faults_are_counted(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted(folder.glob("*.wav"))[:23]:
        path.write_bytes(b"")
    with pytest.raises(UserError, match="23 to mend"):
        build(corpus_params(folder), tmp_path / "corpus", tmp_path / "report")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21 and lines[-1] == "... and 3 more"
    assert not (tmp_path / "corpus").exists()


def test_stereo_at_another_rate_is_mixed_and_named(folder: Path, tmp_path: Path) -> None:
    text = "A wide recording from another room"
    left, right = speech(text, 44100, seed=90), speech(text, 44100, seed=91)
    write(folder, "wide", text, np.stack([left, right], axis=1), 44100)
    built = Built(folder, tmp_path)
    assert "2 channels" in built.warnings("wide.wav")
    assert "is at 44100 Hz, most of the corpus at 24000 Hz" in built.warnings("wide.wav")
    clip = Shards(built.data)["wide"]
    assert clip.sample_rate == built.rows["wide"]["sample_rate"] == 44100
    start = round(0.3 * 44100)
    np.testing.assert_allclose(clip.audio, ((left + right) / 2)[start : start + len(clip.audio)], atol=2**-15)


@pytest.mark.parametrize("recorded", [8000, 16000])
def test_an_upsampled_clip_is_named_and_the_others_are_not(folder: Path, tmp_path: Path, recorded: int) -> None:
    text = "This one came over the telephone"
    write(folder, "phone", text, resample(speech(text, recorded, seed=92), recorded, RATE))
    built = Built(folder, tmp_path)
    assert re.match(rf"ends at {recorded // 2000}\.\d kHz.* upsampled", built.warnings("phone.wav"))
    assert sum("upsampled" in one["what"] for one in built.audit["warnings"]) == 1


def test_a_text_that_does_not_fit_its_recording_is_named(folder: Path, tmp_path: Path) -> None:
    write(folder, "wrong", "The text of a much longer sentence, which nobody ever said in here", speech("No", seed=93))
    built = Built(folder, tmp_path)
    assert "is short for its text" in built.warnings("wrong.wav")
    assert sum("for its text" in one["what"] for one in built.audit["warnings"]) == 1


def test_clipping_offset_and_gaps_are_named(folder: Path, tmp_path: Path) -> None:
    texts = sentences(99)[96:]
    write(folder, "loud", texts[0], np.clip(speech(texts[0], seed=94) * 5, -0.9, 0.9))
    write(folder, "shifted", texts[1], speech(texts[1], seed=95) + 0.05)
    sound = speech(texts[2], seed=96)
    write(folder, "gap", texts[2], np.concatenate([sound, np.zeros(2 * RATE, np.float32), sound]))
    built = Built(folder, tmp_path)
    assert "clipped" in built.warnings("loud.wav")
    assert "DC offset of +0.050" in built.warnings("shifted.wav")
    assert "silence of 2.8 s inside" in built.warnings("gap.wav")


def test_markup_stays_text(folder: Path, tmp_path: Path) -> None:
    text = 'Press <b onmouseover="alert(1)">one</b> & <script>alert(2)</script>'
    write(folder, "<img src=x>", text, speech(text, seed=97))
    built = Built(folder, tmp_path)
    assert "markup" in built.warnings("<img src=x>.wav")
    (row,) = [row for row in built.rows.values() if row["source"] == "<img src=x>.wav"]
    assert row["text"] == text and row["id"] == "img_src_x"
    assert "<script" not in built.page and "<img src=x" not in built.page
    assert "&lt;b onmouseover" in built.page and "&lt;img src=x&gt;.wav" in built.page


def test_what_is_left_out_is_listed_with_its_reason(folder: Path, tmp_path: Path) -> None:
    write(folder, "blip", "Oh", speech("", seed=98)[round(0.4 * RATE) :][: round(0.1 * RATE)])
    write(folder, "long", "A long silence follows", np.repeat(speech("much longer", seed=99), 10))
    write(folder, "twin", sentences(1)[0].upper(), speech(sentences(1)[0], seed=0))
    built = Built(folder, tmp_path, max_seconds=5.0)
    reasons = {one["clip"]: one["reason"] for one in built.metrics["left_out"]}
    assert "shorter than corpus.min_seconds" in reasons["blip.wav"]
    assert "longer than corpus.max_seconds" in reasons["long.wav"]
    assert reasons["twin.wav"] == "the same audio as clip00.wav"
    assert not {"blip", "long", "twin"} & set(built.rows) and len(built.rows) == 40
    assert all(name in built.page for name in reasons)


def test_the_same_sentence_twice_is_one_split(folder: Path, tmp_path: Path) -> None:
    for number, text in enumerate(sentences(40)):
        write(folder, f"again{number:02d}", text.upper() + "!", speech(text, seed=200 + number))
    built = Built(folder, tmp_path)
    splits: dict[str, set[str]] = {}
    for row in built.rows.values():
        splits.setdefault(sentence(row["text"]), set()).add(row["split"])
    assert len(splits) == 40 and all(len(found) == 1 for found in splits.values())
    assert len(built.audit["repeated_texts"]) == 40


def test_a_clip_keeps_its_split_when_others_come_and_go(folder: Path, tmp_path: Path) -> None:
    before = Built(folder, tmp_path / "1").rows
    for number in range(5):
        (folder / f"clip{number:02d}.wav").unlink()
        (folder / f"clip{number:02d}.txt").unlink()
    write(folder, "new", "A sentence that is new", speech("A sentence that is new", seed=300))
    after = Built(folder, tmp_path / "2").rows
    assert {clip: row["split"] for clip, row in after.items() if clip != "new"} == {
        clip: row["split"] for clip, row in before.items() if clip in after
    }


def test_a_split_without_a_sentence_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "three", 3)
    with pytest.raises(UserError, match="nothing was written"):
        build(corpus_params(folder, validation=0.01, test=0.01), tmp_path / "corpus", tmp_path / "report")
    assert "corpus.validation" in capsys.readouterr().err


THIRDS = corpus_params(Path("anywhere"), validation=0.33, test=0.33)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(categories=("L", "N")), min_size=1), st.sampled_from("!?.,;:'\"- "))
def test_case_and_punctuation_do_not_move_a_sentence(word: str, mark: str) -> None:
    assert split_of(f'  "Say {word}{mark} NOW{mark}', THIRDS) == split_of(f"say {word} now", THIRDS)


def test_shares_are_of_sentences() -> None:
    params = corpus_params(Path("anywhere"), validation=0.06, test=0.1)
    splits = [split_of(text, params) for text in sentences(5000)]
    assert splits.count("validation") / 5000 == pytest.approx(0.06, abs=0.012)
    assert splits.count("test") / 5000 == pytest.approx(0.1, abs=0.015)


def test_the_demo_holds_out_enough_sentences_for_the_gate() -> None:
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())["corpus"]
    params = corpus_params(ROOT / "data/demo", validation=settings["validation"], test=settings["test"])
    source = read_source(params.source, params.speaker, params.language)
    held_out = {u.text for u in source.utterances if split_of(u.text, params) == "test" and len(u.text.split()) >= 6}
    assert len(source.utterances) == 551 and not source.errors
    assert len(held_out) >= 12


def test_as_a_stage(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    family = models.names()[0]
    settings["models"], settings["intended_use"] = [family], "research"
    settings[family]["tiny"]["weights"] = str(tmp_path)
    settings["corpus"] |= {"source": str(folder), "validation": 0.2, "test": 0.2}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    corpus.main([])
    metrics = json.loads(Path("reports/metrics/corpus.json").read_text())
    assert metrics["clips"] == 40 and metrics["audio_seconds"] > 60 and metrics["left_out"] == []
    assert Path("data/corpus/stats.json").is_file() and Path("reports/corpus/index.html").is_file()

    (folder / "clip07.wav").write_bytes(b"")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.corpus"]
    failed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert failed.stderr.splitlines()[0].startswith("clip07.wav: an empty file")
