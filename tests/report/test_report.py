"""The listening pages and the verdict file, made by the real entry point from a small project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.parts.errors import UserError
from stages.report import __main__ as report
from stages.report import chart
from stages.report.page import environment
from stages.report.verdicts import Verdicts, read_verdicts
from tests.report import fixtures_report as fixtures

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
PAGE = Path("reports/families/cosyvoice3/index.html")


class Parsed(HTMLParser):
    """The tags with their attributes, and the text that a reader sees."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def words(self) -> str:
        """The text on one line, with a space wherever a tag stands."""
        return " ".join(" ".join(self.pieces).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with all of its pages. Shared: tests that change something take `project`."""
    return fixtures.build_pages(tmp_path_factory.mktemp("report") / "project", HOSTILE)


@pytest.fixture
def project(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the built project, as the current folder."""
    root = tmp_path / "project"
    shutil.copytree(built, root)
    monkeypatch.chdir(root)
    return root


def page(root: Path, family: str = "") -> Parsed:
    path = f"reports/families/{family}/index.html" if family else "reports/index.html"
    return Parsed((root / path).read_text())


def summary(root: Path, family: str) -> dict[str, Any]:
    return fixtures.read(root / f"reports/families/{family}/summary.json")


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    value = fixtures.read(path)
    edit(value)
    fixtures.write(path, value)


# --- one family -------------------------------------------------------------------------------------------------------


def test_command_prints_where_the_page_is_and_repeats_byte_for_byte(project: Path) -> None:
    first = {path: path.read_bytes() for path in PAGE.parent.rglob("*") if path.is_file()}
    command = [sys.executable, "-m", "stages.report", "--model", "cosyvoice3"]
    environment = {**os.environ, "PYTHONPATH": str(fixtures.REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, str(PAGE)), done.stderr
    assert {path: path.read_bytes() for path in PAGE.parent.rglob("*") if path.is_file()} == first


@pytest.mark.parametrize("family", ["", *fixtures.LOST])
def test_page_needs_nothing_but_the_audio_beside_it(built: Path, family: str) -> None:
    folder = built / "reports" / (f"families/{family}" if family else "")
    found = page(built, family)
    players = [unquote(str(one["src"])) for one in found.named("audio")]
    assert players
    assert all((folder / source).is_file() for source in players)
    assert [one for one in found.named("script") if "src" in one] == []
    assert [one["href"] for one in found.named("link")] == ["data:,"]


def test_page_says_what_the_gate_failed_and_which_words(built: Path) -> None:
    rejected = page(built, "fish_s2").words
    assert "Nothing is promoted" in rejected
    assert (
        "What epoch-04 fails 30 s: 0 of 1 takes pass test-9: dropped 8 words: followed by the pound key if" in rejected
    )
    assert "generation failed: no stop token and no audio" in rejected
    assert "epoch-04 is promoted" in page(built, "cosyvoice3").words


def test_prompts_stand_by_length_and_held_out_first(built: Path) -> None:
    text = page(built, "cosyvoice3").text
    places = [text.index(f"· {prompt}") for prompt in ("test-3", "general-1", "test-7", "test-9")]
    assert places == sorted(places)


def test_markup_in_a_transcript_stays_text(built: Path) -> None:
    found = page(built, "cosyvoice3")
    assert found.named("img") == []
    assert len(found.named("script")) == 1
    assert found.text.count(HOSTILE) >= 2  # in the transcript and in the reasons


def test_base_says_that_it_is_not_the_released_model(project: Path) -> None:
    assert "trained by this repository, not the released model" in page(project, "cosyvoice3").words
    (project / "models/cosyvoice3/tiny/config.json").write_text("{}")
    report.main(["--model", "cosyvoice3"])
    assert "not the released model" not in page(project, "cosyvoice3").words


def test_what_no_stage_measured_is_said_and_not_invented(project: Path) -> None:
    assert summary(project, "cosyvoice3")["seconds"] == pytest.approx({"prep": 47.1, "train": 312.4, "gate": 95.0})
    (project / "reports/metrics/tokenise-cosyvoice3.json").unlink()
    (project / "reports/metrics/train-cosyvoice3.json").unlink()
    report.main(["--model", "cosyvoice3"])
    assert summary(project, "cosyvoice3")["seconds"] == {"prep": None, "train": None, "gate": 95.0}
    assert "preparation not measured; training not measured;" in page(project, "cosyvoice3").words


def test_summary_names_base_best_and_last(built: Path) -> None:
    assert summary(built, "cosyvoice3")["chosen"] == {"base": "base", "best": "epoch-04", "last": "epoch-06"}
    assert summary(built, "fish_s2")["chosen"]["best"] == "epoch-04"  # none promoted: the one with the fewest errors
    assert summary(built, "cosyvoice2")["chosen"] == {"base": "base", "best": "base", "last": "base"}


def test_control_has_no_curves(built: Path) -> None:
    assert page(built, "cosyvoice2").named("figure") == []
    assert len(page(built, "cosyvoice3").named("figure")) == 4


# --- the comparison ---------------------------------------------------------------------------------------------------


def test_comparison_lets_one_hear_the_same_words_by_every_family(built: Path) -> None:
    found = page(built)
    players = [one["src"] for one in found.named("audio")]
    assert players[:4] == [
        f"families/{family}/audio/{checkpoint}/test-3{ending}.flac"
        for family, checkpoint, ending in (
            ("cosyvoice2", "recording", ""),
            ("cosyvoice2", "base", "-11"),
            ("cosyvoice3", "epoch-04", "-11"),
            ("fish_s2", "epoch-04", "-11"),
        )
    ]
    assert "epoch-04, best-scoring, not promoted" in found.words


@pytest.mark.parametrize("family", fixtures.LOST)
def test_comparison_has_every_fact_that_decides(built: Path, family: str) -> None:
    one = summary(built, family)
    html = (built / "reports/index.html").read_text()
    results, terms = (Parsed(row).words for row in re.findall("<tr>.*?</tr>", html, re.DOTALL) if f">{one['title']}<" in row)
    facts = [
        f"{one['paradigm']}: {one['paradigm_text']}", one["codec"], f"{one['token_rate']:.4g} Hz × {one['codebooks']}",
        f"{round(10 * one['token_rate'] * one['codebooks'])} tokens in 10 s",
    ]  # fmt: skip
    for licence in one["licence"].values():
        facts += [f"{licence['name']} {'✓ commercial use' if licence['commercial'] else '✗ no commercial use'}"]
    assert [fact for fact in facts if fact not in terms] == []
    measured = ["prep 47 s", "train 5 min 12 s", "peak 812 MiB"]
    if one["control"]:
        measured += ["zero-shot control", "nothing"]
    else:
        rates = {which: one["checkpoints"][name]["word_error_rate"] for which, name in one["chosen"].items()}
        measured += [f"{which} {rate:.1%}" for which, rate in rates.items()]
        measured += ["148 k of 3.71 M", f"✓ {one['promoted']}" if one["promoted"] else "✗ none promoted"]
    assert [fact for fact in measured if fact not in results] == []
    assert one["why"] in Parsed(html).words


def test_comparison_says_once_that_the_bases_are_not_the_released_models(built: Path) -> None:
    assert page(built).words.count("All of them: A small base trained by this repository, not the released model.") == 1


def test_comparison_says_who_does_not_speak(built: Path, project: Path) -> None:
    words = page(built).words
    assert "Chatterbox and IndexTTS2 do not speak: even their best checkpoint gets more than 30%" in words
    rate = summary(built, "chatterbox")["held_out_word_error_rate"]
    assert f"It does not speak: epoch-02 gets {rate:.1%} of the words of held-out texts wrong." in words
    assert words.count("It does not speak") == 2
    for family in ("chatterbox", "indextts2"):
        change(project / f"reports/families/{family}/summary.json", lambda one: one.update(held_out_word_error_rate=0.3))
    report.main([])
    assert "not speak" not in page(project).words


def test_advice_names_only_what_passed_the_gate(project: Path) -> None:
    words = page(project).words
    advice = words[words.index("Which one to use") : words.index("What happened")]
    assert "CosyVoice 3" in advice
    assert "Fish" not in advice
    change(project / "data/cosyvoice3/gate/verdict.json", lambda verdict: verdict.update(promoted=None))
    report.main(["--model", "cosyvoice3"])
    report.main([])
    assert "Which one to use" not in page(project).words
    assert "No checkpoint may be deployed: of 6 fine-tuned families none passes" in page(project).words


def test_advice_follows_the_results(project: Path) -> None:
    def fewest_errors(verdict: dict[str, Any]) -> None:
        verdict["promoted"] = "epoch-04"
        verdict["scores"]["epoch-04"] |= {"word_error_rate": 0.0, "ci": [0.0, 0.0], "similarity": 0.1}

    change(project / "data/fish_s2/gate/verdict.json", fewest_errors)
    report.main(["--model", "fish_s2"])
    report.main([])
    words = page(project).words
    assert "Every word as written Fish" in words
    assert "Closest to the voice CosyVoice 3" in words
    assert "Commercial use CosyVoice 3" in words


# --- what is missing or wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda gate: (gate / "verdict.json").unlink(), "verdict.json: no such file; run `dvc repro gate@cosyvoice3`"),
        (lambda gate: (gate / "rows.jsonl").write_text("{}\nno"), "rows.jsonl: line 2: not JSON"),
        (lambda gate: (gate / "rows.jsonl").write_text("{}\n"), "rows.jsonl: row 1: prompt: Field required"),
        (lambda gate: shutil.rmtree(gate / "audio/epoch-02"), "listed and not there; run `dvc repro gate@cosyvoice3`"),
        (lambda gate: (gate.parent / "checkpoints/train.json").unlink(), "run `dvc repro train@cosyvoice3`"),
    ],
)
def test_bad_input_is_one_line_and_leaves_the_old_page(project: Path, spoil: Callable[[Path], None], said: str) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in Path("reports").rglob("*"))
    spoil(project / "data/cosyvoice3/gate")
    with pytest.raises(UserError) as error:
        report.main(["--model", "cosyvoice3"])
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    after = sorted((path, path.stat().st_mtime_ns) for path in Path("reports").rglob("*"))
    assert [path for path, _ in after] == [path for path, _ in before]
    assert PAGE.is_file()


def test_comparison_names_the_family_page_to_make(project: Path) -> None:
    shutil.rmtree("reports/families/fish_s2")
    with pytest.raises(UserError, match="run `dvc repro report@fish_s2`"):
        report.main([])


# --- verdicts ---------------------------------------------------------------------------------------------------------


def heard(root: Path, **values: Any) -> dict[str, Any]:
    """A verdict on cosyvoice3's epoch-04, as the page saves it."""
    tag = next(one for one in page(root, "cosyvoice3").named("td") if one.get("data-checkpoint") == "epoch-04")
    take = {"checkpoint": "epoch-04", "prompt": tag["data-prompt"], "seed": 11, "sha256": tag["data-sha256"]}
    return {**take, "rating": "acceptable", "note": "a little <b>hoarse</b>", "blind": True, **values}


def save(root: Path, *verdicts: dict[str, Any], family: str = "cosyvoice3") -> Path:
    path = root / "reports/verdicts/cosyvoice3.json"
    fixtures.write(path, {"family": family, "shuffle": 7, "verdicts": list(verdicts)})
    return path


def test_verdict_is_shown_until_its_audio_changes(project: Path) -> None:
    save(project, heard(project))
    report.main(["--model", "cosyvoice3"])
    assert "Verdict on file: acceptable, blind: a little <b>hoarse</b>" in page(project, "cosyvoice3").words
    save(project, heard(project, sha256="0" * 64))
    report.main(["--model", "cosyvoice3"])
    assert "acceptable, blind" not in page(project, "cosyvoice3").words


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
    path = save(project, heard(project, **values))
    with pytest.raises(UserError, match=said):
        read_verdicts(path, "cosyvoice3")


def test_verdicts_of_another_family_or_twice_on_a_take_are_refused(project: Path) -> None:
    with pytest.raises(UserError, match="'fish_s2', not on 'cosyvoice3'"):
        read_verdicts(save(project, heard(project), family="fish_s2"), "cosyvoice3")
    with pytest.raises(UserError, match="two verdicts on the same take"):
        read_verdicts(save(project, heard(project), heard(project, rating="bad")), "cosyvoice3")


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
        assert isinstance(read_verdicts(path, "cosyvoice3"), Verdicts)
    except UserError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)


# --- parts ------------------------------------------------------------------------------------------------------------

WORDS = st.lists(
    st.tuples(st.sampled_from(["ok", "substituted", "dropped", "inserted", "merged", "repeated"]), st.text(), st.text())
)


@settings(max_examples=80, deadline=None)
@given(words=WORDS)
def test_marked_transcript_keeps_every_word_and_no_markup_of_its_own(words: list[tuple[str, str, str]]) -> None:
    found = Parsed(str(environment().get_template("macros.html").module.marked(words)))  # type: ignore[attr-defined]
    assert {tag for tag, _ in found.tags} <= {"del", "ins", "mark", "sup", "span"}
    for operation, wanted, heard_word in words:
        said = wanted if operation == "dropped" else heard_word
        assert "".join(said.split()) in "".join(found.text.split())


@given(low=st.floats(-1e6, 1e6), span=st.floats(0, 1e6))
def test_ticks_cover_what_they_measure(low: float, span: float) -> None:
    found = chart.ticks(low, low + span)
    slack = 1e-6 * max(1.0, abs(low), span)
    assert found[0] <= low + slack
    assert found[-1] >= low + span - slack
    assert 2 <= len(found) <= 8
    assert found == sorted(set(found))


@given(losses=st.lists(st.floats(0, 20), min_size=1, max_size=500), base=st.floats(0, 20))
@settings(max_examples=40, deadline=None)
def test_any_curve_makes_a_well_formed_chart_inside_its_frame(losses: list[float], base: float) -> None:
    points = [(float(index), loss) for index, loss in enumerate(losses)]
    drawn = ET.fromstring(chart.loss_chart([point[0] for point in points], points, points[:9], base, None))
    for dot in drawn.iter("circle"):
        assert 0 <= float(dot.attrib["cx"]) <= chart.WIDTH
        assert 0 <= float(dot.attrib["cy"]) <= chart.HEIGHT
    assert len(next(drawn.iter("polyline")).attrib["points"].split()) <= chart.MAX_POINTS
