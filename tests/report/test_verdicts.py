"""What raters say: their files, what the repository takes of them, and what the page makes of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.parts.errors import UserError
from stages.report import __main__ as report
from stages.report.verdicts import Verdicts, read_file
from tests.report import fixtures_report as fixtures
from tests.report.parsed import change, page

FOLDER = Path("reports/verdicts/cosyvoice3")


def heard(root: Path, which: int = 0, **values: Any) -> dict[str, Any]:
    """A verdict on a take of cosyvoice3's epoch-04, as the page saves it."""
    tag = [one for one in page(root, "cosyvoice3").named("td") if one.get("data-checkpoint") == "epoch-04"][which]
    take = {"checkpoint": "epoch-04", "prompt": tag["data-prompt"], "seed": 11, "sha256": tag["data-sha256"]}
    return {**take, "rating": "acceptable", "note": "a little <b>hoarse</b>", "blind": True, **values}


def decision(root: Path, verdict: str, name: str = "epoch-04", **values: Any) -> dict[str, Any]:
    tag = next(one for one in page(root, "cosyvoice3").named("tr") if one.get("data-checkpoint") == name)
    return {"checkpoint": name, "sha256": tag["data-sha256"], "verdict": verdict, "note": "", **values}


def saved(*verdicts: dict[str, Any], rater: str = "Anna B.", decisions: tuple[dict[str, Any], ...] = (), **values: Any) -> Path:
    """The file that the page would save."""
    path = Path("downloads/verdicts.json")
    whole = {"family": "cosyvoice3", "rater": rater, "shuffle": 7, "verdicts": list(verdicts), "checkpoints": list(decisions)}
    fixtures.write(path, whole | values)
    return path


def bring(path: Path) -> None:
    report.main(["--verdict", str(path)])


def words() -> str:
    report.main(["--model", "cosyvoice3"])
    return page(Path(), "cosyvoice3").words


# --- one rater --------------------------------------------------------------------------------------------------------


def test_make_verdict_takes_a_file_in_and_the_page_shows_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(heard(project), decisions=(decision(project, "ship", note="with pleasure"),))
    shutil.copy(fixtures.REPOSITORY / "Makefile", "Makefile")
    (project / ".venv").symlink_to(fixtures.REPOSITORY / ".venv")
    shutil.rmtree("models")
    for name in ("stages", "models"):
        (project / name).symlink_to(fixtures.REPOSITORY / name)
    Path("requirements.lock").write_text("")
    made = subprocess.run(
        ["make", "-o", "setup", "verdict", f"FILE={file}"], env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(fixtures.REPOSITORY)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (made.returncode, made.stdout) == (0, "reports/verdicts/cosyvoice3/anna-b.json: 2 verdicts by Anna B.; `make report` shows them\n"), made.stderr
    said = words()
    assert "Anna B.: acceptable, blind: a little <b>hoarse</b>" in said
    assert "Anna B. on epoch-04: ship, as the gate: with pleasure" in said


def test_a_verdict_is_shown_until_its_audio_changes(project: Path) -> None:
    bring(saved(heard(project), decisions=(decision(project, "ship"),)))
    assert "acceptable, blind" in words()
    changed = project / "data/cosyvoice3/gate" / "audio/epoch-04/test-4-11.flac"
    shutil.copyfile(project / "data/cosyvoice3/gate/audio/base/test-4-11.flac", changed)
    said = words()
    assert "acceptable, blind" not in said
    assert "Anna B. on epoch-04" not in said


def test_a_raters_later_file_replaces_the_earlier_one(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bring(saved(heard(project)))
    bring(saved(heard(project, rating="bad"), heard(project, 1, sha256="0" * 64)))
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.endswith("2 verdicts by Anna B., 1 of them on audio that has changed since; replaces the earlier ones; `make report` shows them")
    assert [path.name for path in FOLDER.iterdir()] == ["anna-b.json"]
    assert "Anna B.: bad, blind" in words()


def refused(path: Path) -> str:
    """The one line, when nothing was put in place."""
    before = sorted(Path("reports/verdicts").rglob("*"))
    with pytest.raises(UserError) as error:
        bring(path)
    assert sorted(Path("reports/verdicts").rglob("*")) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_does_not_fit_is_refused_in_one_line(project: Path) -> None:
    bring(saved(heard(project)))
    take = heard(project)
    assert "on 'voxcpm', which is not among the models of params.yaml" in refused(saved(take, family="voxcpm"))
    assert "on '../../x', which is not among" in refused(saved(take, family="../../x"))
    assert "none of its verdicts is on audio that data/cosyvoice3/gate has" in refused(saved(heard(project, sha256="0" * 64)))
    assert "no verdict in it; rate takes on reports/families/cosyvoice3/index.html" in refused(saved())
    assert "reports/verdicts/cosyvoice3/anna-b.json is there, by 'Anna B.'; let 'anna b' take another name" in refused(saved(take, rater="anna b"))
    assert "rater: a name has a letter or a number" in refused(saved(take, rater="../.."))
    assert "two verdicts on the same take" in refused(saved(take, heard(project, rating="bad")))
    assert "two verdicts on the same checkpoint" in refused(saved(decisions=(decision(project, "ship"),) * 2))
    assert "downloads/none.json: no such file; save it from a listening page" in refused(Path("downloads/none.json"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rating": "excellent"}, "verdicts.0.rating"),
        ({"sha256": "abc"}, "verdicts.0.sha256"),
        ({"seed": "eleven"}, "verdicts.0.seed"),
        ({"mood": "cheerful"}, "verdicts.0.mood"),
    ],
)
def test_malformed_verdict_names_its_field(project: Path, values: dict[str, Any], said: str) -> None:
    assert said in refused(saved(heard(project, **values)))


def test_a_file_that_was_put_in_the_wrong_place_by_hand_is_named(project: Path) -> None:
    bring(saved(heard(project)))
    (FOLDER / "anna-b.json").rename(FOLDER / "bob.json")
    with pytest.raises(UserError, match="cosyvoice3/bob.json: these are the verdicts of 'Anna B.' on 'cosyvoice3'"):
        words()
    (FOLDER / "bob.json").rename("reports/verdicts/cosyvoice3.json")
    with pytest.raises(UserError, match="reports/verdicts/cosyvoice3.json: verdicts stand in a folder of the family"):
        words()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*Verdicts.model_fields, "rating"]), inner),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(value=JSON)
def test_any_json_is_verdicts_or_one_line(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "verdicts.json"
    fixtures.write(path, value)
    try:
        assert isinstance(read_file(path, "save it again"), Verdicts)
    except UserError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)


# --- several raters ---------------------------------------------------------------------------------------------------


def test_page_says_how_far_raters_agree_with_each_other_and_with_the_gate(project: Path) -> None:
    ratings = {"Anna": ("good", "good", "bad"), "Ben": ("good", "acceptable", "bad")}
    for rater, said_of in ratings.items():
        takes = [heard(project, which, rating=rating, note="") for which, rating in enumerate(said_of)]
        bring(saved(*takes, rater=rater, decisions=(decision(project, "ship" if rater == "Anna" else "do not ship"), decision(project, "unsure", "epoch-02"))))
    said = words()
    # They are a third of a step apart; by chance, with as many of each rating, they would be one.
    assert "Anna and Ben rate 2 of 3 takes alike (weighted kappa 0.67: 1 is full agreement, 0 is chance), and say the same of 1 of 2 checkpoints." in said
    assert "Anna and the gate agree on 2 of 3 takes; 1 that it passed are bad to them." in said
    assert "Ben on epoch-04: do not ship, which the gate promoted" in said


def test_raters_who_heard_nothing_in_common_are_not_compared(project: Path) -> None:
    bring(saved(heard(project, 0, rating="good"), rater="Anna"))
    bring(saved(heard(project, 1, rating="good"), rater="Ben"))
    said = words()
    assert "Anna: 1 take rated; Ben: 1 take rated" in said
    assert "Anna and Ben" not in said


def test_a_take_that_the_gate_failed_and_a_rater_likes_is_counted(project: Path) -> None:
    def failed(verdict: dict[str, Any]) -> None:
        verdict["promoted"] = None

    change(project / "data/cosyvoice3/gate/verdict.json", failed)
    tag = next(one for one in page(project, "cosyvoice3").named("td") if one.get("data-checkpoint") == "base")
    take = {"checkpoint": "base", "prompt": tag["data-prompt"], "seed": 11, "sha256": tag["data-sha256"]}
    bring(saved({**take, "rating": "good", "note": "", "blind": False}))
    assert "Anna B. and the gate agree on 0 of 1 take; 1 that it failed are not bad to them." in words()
