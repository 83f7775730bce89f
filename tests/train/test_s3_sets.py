"""Token sets of the families with S3 codes, made by the stage from a small release: whose they are, and how long a clip may be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pytest

import models
from models.parts.errors import UserError
from models.released import s3
from stages import tokenise
from stages.common.tokens import read_split, read_voice
from stages.train import __main__ as train
from tests.small_cosyvoice import release, workplace

NAMES = ("cosyvoice2", "cosyvoice3", "chatterbox")
SECONDS = (31.0, 52.4, 0.05, 1.5, 1.0)  # the last is held out


def tokenised(place: Path, name: str, weights: Path, seconds: Sequence[float]) -> Path:
    """The workplace of a family once its stage has run."""
    with chdir(workplace(place, name, weights, seconds)):
        tokenise.main(["--model", name])
    return place


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small release of each family."""
    chatterbox = tmp_path_factory.mktemp("chatterbox")
    models.load("chatterbox").write_release(chatterbox, "small")
    return {"cosyvoice2": release(2).folder, "cosyvoice3": release(3).folder, "chatterbox": chatterbox}


@pytest.fixture(scope="module")
def places(weights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same clips, tokenised by each."""
    return {name: tokenised(tmp_path_factory.mktemp(f"{name}-set"), name, weights[name], SECONDS) for name in NAMES}


# --- whose codes they are -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs", "versions"),
    [("cosyvoice3", "cosyvoice2", (3, 2)), ("cosyvoice2", "cosyvoice3", (2, 3)), ("chatterbox", "cosyvoice3", (2, 3))],
)
def test_codes_of_the_other_tokeniser_are_refused_though_their_range_is_the_same(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: str, theirs: str, versions: tuple[int, int]
) -> None:
    """Even in a set that is this family's own in every other respect."""
    monkeypatch.chdir(shutil.copytree(places[mine], tmp_path / mine))
    own, other, family = Path(f"data/{mine}/tokens"), places[theirs] / f"data/{theirs}/tokens", models.load(mine)
    for split in ("train", "validation"):
        said = {example.id: example.codes for example in models.load(theirs).read(other / split)}
        examples = [replace(example, codes=said[example.id]) for example in family.read(own / split)]
        shutil.rmtree(own / split)
        family.write(examples, own / split)
    shutil.copy(other / "contract.json", own)
    with pytest.raises(UserError) as raised:
        train.main(["--model", mine])
    meant, made = (f"S3 version {version}" for version in versions)
    assert str(raised.value) == f"{own}/contract.json: made with tokeniser {made}, but this network needs {meant}; run its tokenise stage again"


def test_a_set_of_version_2_as_it_is_has_no_instruction_for_version_3(places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shutil.copytree(places["cosyvoice3"], tmp_path / "cosyvoice3"))
    tokens = Path("data/cosyvoice3/tokens")
    shutil.rmtree(tokens)
    shutil.copytree(places["cosyvoice2"] / "data/cosyvoice2/tokens", tokens)
    with pytest.raises(UserError, match=f"^{tokens}/train/parquet_000000000.parquet: no column instruct; it was made for another model"):
        train.main(["--model", "cosyvoice3"])


# --- how long a clip may be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_may_be_very_long_or_very_short_where_the_corpus_lets_it(places: dict[str, Path], name: str) -> None:
    """One is read in windows of 30 s that overlap; upstream refuses it, drops it, or loses its end. The voice is of neither."""
    tokens = places[name] / f"data/{name}/tokens"
    assert [len(example.codes) for example in read_split(models.load(name), tokens, "train")] == [775, 1310, 2, 38]
    assert read_voice(tokens).prompts[0].id == "clip-03"


@pytest.mark.parametrize(
    ("name", "seconds", "told"),
    [
        ("cosyvoice3", 0.01, "a clip of 240 samples (0.010 s) is too short for a code; raise corpus.min_seconds"),
        ("chatterbox", 0.01, "a clip of 240 samples (0.010 s) is too short for a code; raise corpus.min_seconds"),
        ("cosyvoice3", 0.04, "a clip of 960 samples (0.040 s) is too short for a speaker vector; raise corpus.min_seconds"),
    ],
)
def test_a_clip_that_is_too_short_is_named(weights: dict[str, Path], tmp_path: Path, name: str, seconds: float, told: str) -> None:
    with pytest.raises(UserError) as raised:
        tokenised(tmp_path, name, weights[name], [0.6, seconds, 0.5])
    assert str(raised.value) == f"data/{name}/resampled: clip clip-01: {told}"


# --- whether they are upstream's ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_compared_with_what_upstream_itself_runs(places: dict[str, Path], name: str) -> None:
    """Chatterbox's own tokeniser is the one that is here: its release has no other."""
    metrics = json.loads((places[name] / f"reports/metrics/tokenise-{name}.json").read_text())
    share = metrics.get("codes_that_differ_from_upstreams")
    assert share is None if name == "chatterbox" else share < tokenise.MOST_DIFFERENT


@pytest.mark.parametrize("name", NAMES[:2])
def test_codes_that_are_others_than_upstreams_are_told(
    weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Of a tokeniser that does not know where a frame stands."""
    turned = s3._rotary
    monkeypatch.setattr(s3, "_rotary", lambda length, device: tuple(table[:1].expand_as(table) for table in turned(length, device)))
    place = tokenised(tmp_path, name, weights[name], [1.0, 2.3, 0.8, 1.1])
    share = json.loads((place / f"reports/metrics/tokenise-{name}.json").read_text())["codes_that_differ_from_upstreams"]
    assert share > tokenise.MOST_DIFFERENT
    assert f"data/{name}/resampled: {share:.2%} of the codes of 3 clips are not those of upstream's own tokeniser; 0.5% may be rounding" in capsys.readouterr().out
