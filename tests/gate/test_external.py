"""Systems from elsewhere, by the real commands: real recordings are their takes, named by the ids of `--prompts`."""

from __future__ import annotations

import csv
import re
import shutil
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

from stages.common.files import read_json, read_jsonl
from stages.common.params import read_params
from stages.gate.external import take_id
from stages.gate.prompts import bank, rounds
from stages.gate.spoken import spoken
from tests.demo_speech import RATE, speech
from tests.gate.test_gate import ROOT, TEST, Repository

SENTENCES = {speech(name)[0].rstrip(".") + ".": name for name in TEST}


def spoken_by(text: str, lost: str = "") -> np.ndarray:
    """`text` as the speaker of the demo reads it, but for one clip."""
    parts = []
    while text:
        sentence = next(one for one in SENTENCES if text.startswith(one))
        text = text[len(sentence) :].strip()
        if SENTENCES[sentence] != lost:
            parts += [speech(SENTENCES[sentence])[1], np.zeros(RATE // 4, np.float32)]
    return np.concatenate(parts)


class Elsewhere(Repository):
    """A repository with two checkpoints of the system `acme`: e2 loses the last phrase of every text, e10 reads all, and
    lacks its last take."""

    def __init__(self, root: Path):
        super().__init__(root, {})
        self.write_params(self.params | {"external": ["acme"]})
        self.said = self.gate("--prompts")
        with (root / "reports/prompts.csv").open(encoding="utf-8", newline="") as file:
            self.prompts = list(csv.DictReader(file))
        for prompt in self.prompts:
            last = next(name for sentence, name in SENTENCES.items() if prompt["text"].endswith(sentence))
            self.bring("e2", prompt, "flac", lost=last)
        for prompt in self.prompts[:-1]:
            self.bring("e10", prompt, "wav")
        shutil.copy(root / f"data/external/acme/e10/{self.prompts[0]['id']}.wav", root / "data/external/acme/e10/of-another-corpus.wav")

    def bring(self, checkpoint: str, prompt: dict[str, str], suffix: str, lost: str = "") -> None:
        folder = self.root / "data/external/acme" / checkpoint
        folder.mkdir(parents=True, exist_ok=True)
        sf.write(folder / f"{prompt['id']}.{suffix}", spoken_by(prompt["text"], lost), RATE)

    @property
    def out(self) -> Path:
        return self.root / "data/acme/gate"

    def judged(self, **wanted: object) -> list[dict[str, Any]]:
        return [row for row in read_jsonl(self.out / "rows.jsonl") if wanted.items() <= row.items()]

    def stage(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", f"stages.{name}", *arguments], cwd=self.root, text=True, capture_output=True)


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    """The gate has heard what is there."""
    repository = Elsewhere(tmp_path_factory.mktemp("external"))
    repository.told = repository.gate("--model", "acme")  # type: ignore[attr-defined]
    return repository


def test_prompts_are_what_the_gate_asks_for_screening_first(acme: Elsewhere) -> None:
    assert acme.said.startswith(f"reports/prompts.csv: {len(acme.prompts)} texts, about ")
    tiers = ["5s", "15s", "30s"]
    assert [prompt["length"] for prompt in acme.prompts] == 3 * tiers  # one a length to screen, two rounds to confirm
    heard = [(row["phase"], row["tier"], row["text"]) for row in acme.judged(checkpoint="e10")]
    assert [text for _, _, text in heard] == [prompt["text"] for prompt in acme.prompts[:-1]]
    assert [phase for phase, _, _ in heard] == 3 * ["screen"] + 5 * ["confirm"]


def test_the_checkpoint_that_loses_a_phrase_is_ruled_out_by_name(acme: Elsewhere) -> None:
    assert acme.verdict["order"] == ["e2", "e10"]
    for row in acme.judged(checkpoint="e2"):
        lost = spoken(next(sentence for sentence in SENTENCES if row["text"].endswith(sentence)))
        assert (row["passed"], row["reasons"][0]) == (False, f"dropped {len(lost)} words: {' '.join(lost)}")
    assert acme.verdict["candidates"]["e2"]["confirmed"] is None
    assert all(row["passed"] for row in acme.judged(checkpoint="e10"))


def test_where_takes_end_nothing_is_proven_until_they_are_there(acme: Elsewhere) -> None:
    """... and what is there for no text is told, not heard."""
    told: str = acme.told  # type: ignore[attr-defined]
    last = acme.prompts[-1]
    assert f"data/external/acme/e10: 1 of 9 texts have no audio, like {last['id']}.wav: a length is heard until its takes end" in told
    assert "data/external/acme/e10: 1 of 9 files are of no text that is asked for, like of-another-corpus.wav: not heard" in told
    tiers = acme.verdict["candidates"]["e10"]["confirmed"]["tiers"]
    assert {tier: (one["verdict"], one["takes"]) for tier, one in tiers.items()} == {"5s": ("passes", 2), "15s": ("passes", 2), "30s": ("undecided", 1)}
    assert acme.verdict["promoted"] is None

    taken = acme.taken()
    acme.bring("e10", last, "wav")
    acme.gate("--model", "acme")
    assert acme.verdict["promoted"] == "e10"
    assert taken.items() <= acme.taken().items()
    assert sum(path.endswith(".flac") for path in acme.taken().keys() - taken.keys()) == 1  # the others are heard already
    metrics = read_json(acme.root / "reports/metrics/gate-acme.json")
    assert (metrics["promoted"], metrics["scale"], metrics["base_word_error_rate"]) == ("e10", None, None)


def test_a_longer_length_is_asked_for_once_the_shorter_ones_are_proven(acme: Elsewhere) -> None:
    second = next(prompt for prompt in acme.prompts[6:] if prompt["length"] == "5s")
    shutil.copytree(acme.root / "data/external/acme/e10", acme.root / "data/external/beta/only")
    (acme.root / f"data/external/beta/only/{second['id']}.wav").unlink()
    acme.write_params(acme.params | {"external": ["acme", "beta"]})
    acme.gate("--model", "beta")
    tiers = read_json(acme.root / "data/beta/gate/verdict.json")["candidates"]["only"]["confirmed"]["tiers"]
    assert {tier: (one["verdict"], one["takes"]) for tier, one in tiers.items()} == {tier: ("undecided", 1) for tier in ("5s", "15s", "30s")}


def test_it_has_a_page_with_its_takes_beside_the_recordings(acme: Elsewhere) -> None:
    done = acme.stage("report", "--model", "acme")
    assert (done.returncode, done.stdout.strip()) == (0, "reports/families/acme/index.html"), done.stderr
    page = (acme.root / done.stdout.strip()).read_text()
    assert "not from here: see its own licence" in page and "codec" not in re.findall(r'<th scope="col"[^>]*>(\w+)</th>', page)
    players = re.findall(r'<audio[^>]* src="([^"]+)"', page)
    assert {path.split("/")[1] for path in players} == {"recording", "e2", "e10"}
    assert all((acme.root / "reports/families/acme" / path).is_file() for path in players)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder, ids: (folder / f"e10/{ids[0]}.wav").unlink(), "data/external/acme/e10: 1 of the 6 texts that every checkpoint has to read"),
        (lambda folder, ids: (folder / f"e10/{ids[5]}.wav").unlink(), "have no audio, like {ids[5]}.wav; `make prompts` writes the texts"),
        (lambda folder, ids: (folder / f"e10/{ids[7]}.wav").write_text("not yet"), "data/external/acme/e10/{ids[7]}.wav: text, not audio"),
        (lambda folder, ids: shutil.copy(folder / f"e10/{ids[1]}.wav", folder / f"e2/{ids[1]}.wav"), "is a take of the same text; keep one"),
        (lambda folder, ids: shutil.move(folder / f"e10/{ids[1]}.wav", folder), "/{ids[1]}.wav: audio outside of a checkpoint's folder"),
        (lambda folder, ids: shutil.move(folder / "e10", folder / "codec"), "acme/codec: `codec` is what the pages call something else"),
        (lambda folder, ids: (shutil.move(folder, folder.with_name("other")), folder.mkdir()), "data/external/acme: holds no checkpoint"),
        (lambda folder, ids: shutil.rmtree(folder), "data/external/acme: not there; `make prompts` writes what acme has to read"),
    ],
)
def test_what_cannot_be_judged_is_one_line_before_anything_is_heard(acme: Elsewhere, tmp_path: Path, spoil: Any, said: str) -> None:
    for part in ("stages", "models", "params.yaml", "data/corpus", "data/external"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (shutil.copytree if (acme.root / part).is_dir() else shutil.copy)(acme.root / part, tmp_path / part)
    ids = [prompt["id"] for prompt in acme.prompts]
    spoil(tmp_path / "data/external/acme", ids)
    done = subprocess.run([sys.executable, "-m", "stages.gate", "--model", "acme"], cwd=tmp_path, text=True, capture_output=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert said.format(ids=ids) in done.stderr
    assert not (tmp_path / ".scratch").exists() and not (tmp_path / "data/acme").exists()


def test_there_is_no_model_of_it_to_train_or_to_prune(acme: Elsewhere) -> None:
    for stage in ("export", "prune"):
        done = acme.stage(stage, "--model", "acme")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert done.stderr.startswith("--model acme: a system from elsewhere")


# --- ids --------------------------------------------------------------------------------------------------------------

GATE = read_params(ROOT / "params.yaml").gate
CLIPS = st.lists(st.tuples(st.text("abc é/.,:~", min_size=1), st.floats(0.5, 20)), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(CLIPS, st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 60))
def test_ids_are_file_names_of_one_text_each_whatever_the_corpus_says(
    clips: list[tuple[str, float]], seed: int, screen: int, budget: int
) -> None:
    manifest = [
        {"id": f"{number}/é", "text": f"one two three {text}", "seconds": seconds, "split": "test"} for number, (text, seconds) in enumerate(clips)
    ]
    gate = GATE.model_copy(update={"seed": seed, "screen": screen, "batch": 1, "budget": budget})
    asked = [reading for some in rounds(bank(manifest, 2.6, "en", seed, whole=False), gate) for readings in some.values() for reading in readings]
    names = [take_id(reading) for reading in asked]
    assert len({*names}) == len(names) == 3 * (screen + budget)
    assert all(re.fullmatch(r"[a-z0-9-]{5,60}", name) for name in names)
    again = bank(manifest[::-1], 2.6, "en", seed, whole=False)
    assert [take_id(reading) for some in rounds(again, gate) for readings in some.values() for reading in readings] == names


def test_another_corpus_never_names_its_texts_alike() -> None:
    manifest = yaml.safe_load("[{id: a, text: one two three four, seconds: 5.0, split: test}]")
    other = [manifest[0] | {"text": "four three two one"}]
    one, two = ({take_id((prompt, 11)) for prompt in bank(rows, 2.6, "en", 11, whole=False)["5s"] if prompt.clips} for rows in (manifest, other))
    assert one and two and not one & two
