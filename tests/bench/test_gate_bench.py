"""`make bench-gate`, from a voice that reads to the table: with flite in the place of Kokoro, whose packages need a network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from stages.bases.kokoro import SAMPLE_RATE, Reading, Word
from stages.bases.voices import PITCH, read_aloud
from stages.bases.voices import SAMPLE_RATE as FLITE_RATE
from stages.bench import gate as bench
from stages.common.files import sha256
from stages.common.params import load_params
from stages.gate.audio import resampled
from stages.gate.prompts import Prompt
from tests.gate.test_gate import Repository

ROOT = Path(__file__).parents[2]
TEXTS = (
    "The morning train was late again, so everybody waited under the station roof.",
    "Her brother painted every window green before the long winter began.",
    "Please close the kitchen door, because the children are sleeping upstairs.",
)


class Flite:
    """Reads word by word, so that it is known where each begins."""

    def words(self, text: str, voice: str) -> list[Word]:
        return [Word(word, word) for word in text.split()]

    def read(self, words: Sequence[Word], voice: str) -> Reading:
        found, waves, at = [], list[np.ndarray](), 0
        for word in words:
            spoken, _ = read_aloud(word.phones, voice, 1.0, PITCH[voice])
            audio = resampled(spoken, FLITE_RATE, SAMPLE_RATE)
            loud = np.flatnonzero(np.abs(audio) > 0.02)
            audio = audio[loud[0] : loud[-1]]
            waves += [audio, np.zeros(SAMPLE_RATE // 12, np.float32)]
            found.append(Word(word.text, word.phones, (at, at + len(audio) // 2, at + len(audio))))
            at += len(audio) + SAMPLE_RATE // 12
        return Reading(np.concatenate(waves), tuple(found))


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed (apt-get install flite)")
def test_the_table_tells_what_was_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params(ROOT / "params.yaml")
    jobs: list[bench.Job] = [(Prompt(f"text-{at}", "5s", "general", text), "rms", at > 0) for at, text in enumerate(TEXTS)]
    for part in ("stages", "models", "reports"):
        (tmp_path / part).symlink_to(ROOT / part)
    monkeypatch.chdir(tmp_path)
    takes = bench.planted(jobs, Flite)
    rows = bench.verdicts(takes, bench.heard(takes, params), params)
    lines = {line[:28].strip(): line[28:].split() for line in bench.table(rows).splitlines()}
    assert lines["nothing (failed in error)"][:2] == ["1", "0"]
    for defect in ("two words dropped together", "three words repeated", "silence"):
        assert lines[defect][:5] == ["1", "1", "(100%)", "1", "(100%)"], rows
    assert "name mispronounced" not in {row["defect"] for row in rows}  # the text has none, and the table says so
    assert lines["name mispronounced"][:3] == ["0", "-", "-"]

    # Nothing is read, planted or heard again.
    kept = {path: sha256(path) for path in (tmp_path / ".scratch").rglob("*.*") if path.is_file()}
    monkeypatch.setattr(Flite, "read", None)
    monkeypatch.setattr(bench, "Hearing", None)
    again = bench.planted(jobs, Flite)
    assert bench.verdicts(again, bench.heard(again, params), params) == rows
    assert {path: sha256(path) for path in (tmp_path / ".scratch").rglob("*.*") if path.is_file()} == kept


def test_the_gate_is_run_with_other_seeds(tmp_path: Path) -> None:
    """On a checkpoint that reads everything; nothing of it lands where the results of the last run are."""
    repository = Repository(tmp_path, {4: {}})
    gate = repository.params["gate"] | {"batch": 2, "finalists": 1, "checkpoints": "last", "reading": {"tiny": {"segment_words": 12, "long_whole": False}}}
    block = repository.params["talker"]["tiny"] | {"scales": [0.5]}
    repository.write_params(repository.params | {"gate": gate, "talker": {"tiny": block}})
    done = subprocess.run([sys.executable, "-m", "stages.bench.gate", "--retest", "2"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, family, total = done.stdout.strip().splitlines()[-3:]
    assert family.split()[0] == "talker" and family.count("epoch-04 (") == 2
    assert int(family.split()[1]) >= 3 and family.split()[1:3] == total.split()[1:3]  # three lengths, and those of the base
    assert not repository.out.exists() and not (tmp_path / "reports/metrics").exists()
    runs = sorted((tmp_path / ".scratch/bench/retest").iterdir())
    first, second = ((run / "data/talker/gate/rows.jsonl").read_text() for run in runs)
    assert first != second
