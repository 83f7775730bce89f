"""A system from elsewhere on the pages: what was heard of it stands beside the families, what nobody here knows does not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from models.parts.errors import UserError
from stages.report import __main__ as report
from stages.report.verdicts import audio_of
from tests.report.parsed import Parsed, page, summary


def test_its_page_has_its_takes_and_the_recordings_and_nothing_that_is_not_known(elsewhere: Path) -> None:
    found = page(elsewhere, "acme")
    assert "A system from elsewhere: its takes are the files of data/external/acme" in found.words
    assert "epoch-04 is promoted" in found.words and "Licence not from here: see its own licence" in found.words
    assert "How it reads long texts is its own affair; every one is judged as a whole." in found.words
    assert {one["data-checkpoint"] for one in found.named("td") if "data-checkpoint" in one} == {"recording", "epoch-02", "epoch-04"}
    assert found.named("figure") == []
    told = ("Paradigm", "validation loss", "the base", "None", "segments")
    assert [word for word in told if word in found.words] == []


def test_it_is_compared_with_the_families(elsewhere: Path) -> None:
    html = (elsewhere / "reports/index.html").read_text()
    words = Parsed(html).words
    assert "Of acme, from elsewhere, epoch-04 is proven to pass at every length." in words
    assert "1 of 6 fine-tuned families has a checkpoint" in words
    assert "weights and code allow it; of acme see its own licence" in words
    results, terms = (Parsed(row).words for row in re.findall("<tr>.*?</tr>", html, re.DOTALL) if ">acme<" in row)
    rate = summary(elsewhere, "acme")["candidates"]["epoch-04"]["confirmed"]["word_error_rate"]
    assert f"best {rate:.1%}" in results and "elsewhere" in results and "gate 12 s" in results
    assert [word for word in ("base", "last", "prep", "None") if word in results.split()] == []
    assert terms == "acme not known here not from here: see its own licence"
    assert "families/acme/audio/epoch-04/test-4-11.flac" in [one["src"] for one in Parsed(html).named("audio")]


def test_people_can_rate_it_and_its_stages_are_named(elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(elsewhere, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    assert {who for who, _, _ in audio_of("acme")} == {"recording", "epoch-02", "epoch-04"}
    Path("data/acme/gate/verdict.json").unlink()
    with pytest.raises(UserError, match="verdict.json: no such file; run `dvc repro gate-external@acme`$"):
        report.main(["--model", "acme"])
    shutil.rmtree("reports/families/acme")
    with pytest.raises(UserError, match="run `dvc repro report-external@acme`$"):
        report.main([])
