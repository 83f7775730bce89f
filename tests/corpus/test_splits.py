"""Small corpora: every split that is asked for has its sentences, and what is held out depends on little else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.parts.errors import UserError
from stages.common.files import read_json
from stages.common.params import read_params
from stages.corpus.__main__ import build
from stages.corpus.splits import LEAST, PHRASE, sentence, split_of, splits_of
from stages.gate.corpus import Corpus
from stages.gate.floor import noise_floor, recorded
from stages.gate.prompts import bank
from tests.small_corpus import ROOT, corpus_params, rows_of, sentences, write_folder

WORDS = st.lists(st.sampled_from("river garden seven number walk our the of".split()), min_size=1, max_size=6).map(" ".join)
SHARES = st.sampled_from([0.0, 0.02, 0.06, 0.1, 0.2, 0.3])


@settings(deadline=None, max_examples=60)
@given(st.sets(WORDS, min_size=8, max_size=60), SHARES, SHARES)
def test_every_split_has_its_sentences_and_not_many_more(texts: set[str], validation: float, test: float) -> None:
    params = corpus_params(Path("anywhere"), validation=validation, test=test)
    found = splits_of(texts, params)
    counts = Counter(found.values())
    assert found.keys() == {sentence(text) for text in texts} and counts["train"] >= len(texts) - sum(counts[split] for split in LEAST) > 0
    phrases = [text for text in texts if len(text.split()) >= PHRASE]
    if test:
        assert sum(found[text] == "test" for text in phrases) >= min(LEAST["test"], len(phrases))
    for split, share in (("validation", validation), ("test", test)):
        assert bool(counts[split]) == bool(share) and counts[split] <= 1.5 * share * len(texts) + 1 + 2 * LEAST[split]


@settings(deadline=None, max_examples=20)
@given(st.integers(300, 600))
def test_many_sentences_are_split_by_their_place_alone(count: int) -> None:
    params = corpus_params(Path("anywhere"), validation=0.1, test=0.1)
    assert splits_of(sentences(count), params) == {sentence(text): split_of(text, params) for text in sentences(count)}


def test_a_test_sentence_stays_one_when_recordings_come(tmp_path: Path) -> None:
    params = corpus_params(tmp_path, validation=0.06, test=0.06)
    for count in range(100, 400, 7):
        before, after = splits_of(sentences(count), params), splits_of(sentences(count + 7), params)
        assert [text for text, split in before.items() if split == "test" and after[text] != "test"] == []


@pytest.mark.parametrize("share", [0.06, 0.1, 0.2, 0.3])
def test_twelve_clips_are_no_lottery(tmp_path: Path, share: float) -> None:
    build(corpus_params(write_folder(tmp_path / "in", 12), validation=share, test=share), tmp_path / "corpus", tmp_path / "report")
    counts = Counter(row["split"] for row in rows_of(tmp_path / "corpus/manifest.jsonl"))
    assert counts["train"] >= 3 and 1 <= counts["validation"] <= counts["train"] + 1 and 2 <= counts["test"] <= counts["train"] + 2
    said = [one["what"] for one in read_json(tmp_path / "report/audit.json")["warnings"]]
    assert any("is small: test takes 2 of its 12 sentences, where corpus.test asks for 0.7" in what for what in said) == (share == 0.06)


def test_too_few_sentences_say_what_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="nothing was written"):
        build(corpus_params(write_folder(tmp_path / "in", 3)), tmp_path / "corpus", tmp_path / "report")
    said = capsys.readouterr().err
    assert "has 3 different sentences, and holds out at least 2 for test and 1 for validation" in said
    assert "set corpus.test: 0 and corpus.validation: 0 in params.yaml" in said
    build(corpus_params(tmp_path / "in", test=0, validation=0), tmp_path / "corpus", tmp_path / "report")
    assert {row["split"] for row in rows_of(tmp_path / "corpus/manifest.jsonl")} == {"train"}


def test_nothing_held_out_is_said_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(corpus_params(write_folder(tmp_path / "in", 12), test=0, validation=0), tmp_path / "corpus", tmp_path / "report")
    page, console = (tmp_path / "report/index.html").read_text(), capsys.readouterr().out
    for told in ("(corpus.test is 0): the gate judges without a noise floor", "corpus.validation is 0): training has no loss"):
        assert told in page and told in console


def test_the_gate_judges_a_corpus_that_holds_out_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build(corpus_params(write_folder(tmp_path / "in", 12), test=0, validation=0), Path("corpus"), Path("report"))
    corpus, gate = Corpus(Path("corpus")), read_params(ROOT / "params.yaml").gate
    pace = corpus.stats["words_per_second"]
    floor = noise_floor([], gate, pace)
    assert recorded(corpus) == floor.rows == []
    assert {tier.lost for tier in floor.tolerances.values()} == {gate.extra_dropped}
    assert {prompt.kind for some in bank(corpus.manifest, pace, corpus.stats["language"], gate.seed, whole=True).values() for prompt in some} == {"general"}


def test_a_test_split_of_single_words_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "in", 12)
    for number, path in enumerate(sorted(folder.glob("*.txt"))):
        path.write_text(f"river {'walk' * number}")
    build(corpus_params(folder), tmp_path / "corpus", tmp_path / "report")
    assert f"holds out no recording (no test clip has {PHRASE} words): the gate judges without a noise floor" in capsys.readouterr().out
