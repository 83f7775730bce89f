"""The listening pages, made by the real entry point from a small project."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
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
from tests.report import fixtures_report as fixtures
from tests.report.conftest import HOSTILE
from tests.report.parsed import Parsed, change, page, summary

PAGE = Path("reports/families/cosyvoice3/index.html")


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
        "What keeps epoch-04 back 30 s fails: 0 of 1 takes pass test-10: dropped 8 words: number and try your call again" in rejected
    )
    assert "generation failed: no stop token and no audio" in rejected
    assert "epoch-04 is promoted" in page(built, "cosyvoice3").words


def test_the_reference_is_heard_on_the_page_of_a_family_that_has_one(built: Path) -> None:
    found = page(built, "cosyvoice3")
    (player,) = (one for one in found.named("audio") if one["aria-label"] == "the reference")
    assert (built / "reports/families/cosyvoice3" / str(player["src"])).read_bytes() == (built / "data/cosyvoice3/tokens/reference.wav").read_bytes()
    assert "The reference The training clip clip-7, which the decoder hears" in found.words and f"in every take. {fixtures.PROMPTS['test-3'][2]}" in found.words
    assert "The reference" not in page(built, "fish_s2").words


def test_a_decoder_that_was_trained_too_has_its_own_line(built: Path) -> None:
    text = page(built, "cosyvoice3").words
    assert "LoRA by PEFT, rank 16, of llm and flow;" in text
    assert "through the decoder of epoch-04 25.0%" in text and "through the codec 0.0%" in text
    assert "through the decoder of" not in page(built, "fish_s2").words


def test_page_says_of_a_voice_of_the_releases_own_that_it_is_no_new_one(project: Path) -> None:
    assert "new voice" not in page(project, "voxtral").words
    change(Path("reports/metrics/tokenise-voxtral.json"), lambda cost: cost.update(own_voice="casual_female"))
    report.main(["--model", "voxtral"])
    text = page(project, "voxtral").words
    assert "No recording is behind this: casual_female, a voice of the released model's own, said the corpus; the codec's encoder was never released" in text
    assert "It can't give a new voice." in text


def test_page_lists_the_spellings_that_cost_nothing(project: Path) -> None:
    assert "aliases" not in page(project, "cosyvoice3").words
    change(Path("data/cosyvoice3/gate/floor.json"), lambda floor: floor.update(aliases=[["paiseh", "pie say"], ["lah", "la"]]))
    report.main(["--model", "cosyvoice3"])
    text = page(project, "cosyvoice3").words
    assert "Counted as the same word, as agreed in reports/aliases.txt : “paiseh” and “pie say”; “lah” and “la”." in text


def test_prompts_stand_by_phase_and_length_and_held_out_first(built: Path) -> None:
    text = page(built, "cosyvoice3").text
    confirming, screening = ("test-4", "numbers-2-5s", "mix-15s-2", "test-10"), ("test-3", "general-1", "test-7", "test-9")
    places = [text.index(f"· {prompt}") for prompt in (*confirming, *screening)]
    assert places == sorted(places)


def test_a_listening_table_has_the_columns_of_those_who_read_its_texts(built: Path) -> None:
    html = (built / PAGE).read_text()
    columns = {name: Parsed(table).words.split() for name, table in re.findall(r'id="([a-z]+-[0-9]+s)".*?<thead[^>]*>(.*?)</thead>', html, re.DOTALL)}
    assert [*columns] == ["confirm-5s", "confirm-15s", "confirm-30s", "screen-5s", "screen-15s", "screen-30s"]
    assert columns["confirm-15s"] == ["recording", "codec", "base", "epoch-04", "epoch-04@0.5"]
    assert columns["screen-15s"] == ["recording", "codec", "base", "epoch-02", "epoch-04", "epoch-04@0.5", "epoch-06"]


def table(html: str, heading: str) -> str:
    """The words of the table under a heading."""
    return Parsed(re.search(f"<h2>{heading}.*?<table.*?</table>", html, re.DOTALL)[0].partition("<tbody>")[2]).words  # type: ignore[index]


def test_confirmed_and_screened_figures_stand_in_tables_of_their_own(built: Path) -> None:
    confirmed, screened = (table((built / PAGE).read_text(), name) for name in ("Confirmed", "Screened"))
    for name, one in summary(built, "cosyvoice3")["candidates"].items():
        assert f"{one['screened']['word_error_rate']:.1%}" in screened
        assert (f" {name} " in f" {confirmed} ") == bool(one["confirmed"])
        if one["confirmed"]:
            low, high = one["confirmed"]["ci"]
            rate = f"{one['confirmed']['word_error_rate']:.1%} {low:.1%} – {high:.1%}"
            assert rate in confirmed
            assert rate not in screened


def test_claims_are_of_confirming_takes_and_curves_of_screening_takes(project: Path) -> None:
    def worse(verdict: dict[str, Any]) -> None:
        verdict["candidates"]["epoch-04"]["confirmed"] |= {"word_error_rate": 0.1234, "ci": [0.1, 0.15]}

    before = page(project, "cosyvoice3")
    change(project / "data/cosyvoice3/gate/verdict.json", worse)
    report.main(["--model", "cosyvoice3"])
    report.main([])
    after = page(project, "cosyvoice3")
    assert "37.4% → 12.3% " in after.words
    assert "from 37.4% to 12.3% (epoch-04)" in page(project).words
    assert [one["aria-label"] for one in after.named("svg")] == [one["aria-label"] for one in before.named("svg")]


def test_undecided_is_neither_passed_nor_failed_and_says_what_might_decide(built: Path) -> None:
    html = (built / "reports/families/qwen3_tts/index.html").read_text()
    assert "5 s is undecided: 1 of 2 takes pass; about 24 takes might decide test-4: dropped 4 words" in Parsed(html).words
    confirmed = re.search(r"<h2>Confirmed.*?</table>", html, re.DOTALL)[0]  # type: ignore[index]
    cells = [(one["class"], name) for name, one in Parsed(confirmed).tags if "tier" in str(one.get("class"))]
    assert [kind for kind, _ in cells[3:6]] == ["tier maybe", "tier yes", "tier yes"]
    assert 'class="verdict reveal maybe"' in html
    assert "none promoted, undecided" in page(built).words


def test_page_says_what_the_test_asks_and_how_texts_are_read(project: Path) -> None:
    words = page(project, "cosyvoice3").words
    assert "at least 50% of all takes would pass" in words
    assert "a wrong pass has a chance of at most 5%, a wrong fail of at most 5%, and at most 16 takes a length are heard, 4 at a time; after the first of every length," in words
    assert "Texts are read in segments of at most 12 words; so for every family." in words
    settings = Path("params.yaml").read_text()
    Path("params.yaml").write_text(settings.replace("long_whole: false\n      segment_words: 12", "long_whole: true\n      segment_words: 20"))
    report.main(["--model", "cosyvoice3"])
    assert "of at most 20 words, those of 30 s also in one go, as a length of their own;" in page(project, "cosyvoice3").words


def test_texts_read_in_one_go_are_a_length_of_their_own_beside_the_same_recording(project: Path) -> None:
    gate = project / "data/cosyvoice3/gate"
    rows = [json.loads(line) for line in (gate / "rows.jsonl").read_text().splitlines()]
    whole = [row | {"tier": "15s-whole", "prompt": f"{row['prompt']}-whole"} for row in rows if row["tier"] == "15s"]
    (gate / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *whole]))

    def longer(verdict: dict[str, Any]) -> None:
        verdict["tiers"].append("15s-whole")
        for one in verdict["candidates"].values():
            for found in filter(None, (one["screened"], one["confirmed"])):
                found["tiers"]["15s-whole"] = found["tiers"]["15s"]

    change(gate / "verdict.json", longer)
    report.main(["--model", "cosyvoice3"])
    found = page(project, "cosyvoice3")
    assert "15 s in one go: verdict, takes passed" in found.words
    cells = [one for one in found.named("td") if one.get("data-prompt") == "test-7-whole"]
    assert [one["data-checkpoint"] for one in cells][:3] == ["recording", "codec", "base"]


# --- charts of results ------------------------------------------------------------------------------------------------


def drawings(root: Path, family: str) -> dict[str, str]:
    """What each chart says to who does not see it, by its title."""
    return {str(one["aria-label"]).partition(".")[0]: str(one["aria-label"]) for one in page(root, family).named("svg")}


def test_charts_show_words_and_loss_by_step_and_mark_where_they_part(built: Path) -> None:
    html = (built / PAGE).read_text()
    assert "Words and loss part at step 100 (epoch-04): until step 150 validation loss still falls, from 2.03 to 1.92" in html
    assert "rises from 0.4% to 9.8%; more than chance explains." in html
    for title in ("Loss", "Word error rate · screening"):
        figure = re.search(f"<figcaption>{title}</figcaption>.*?</figure>", html, re.DOTALL)[0]  # type: ignore[index]
        x = re.search('class="parting" x1="([0-9.]+)"', figure)[1]  # type: ignore[index]
        assert f'x="{x}" y="210" text-anchor="middle">100<' in figure
    for family in ("fish_s2", "qwen3_tts"):  # the fewest errors come last
        assert "parting" not in (built / f"reports/families/{family}/index.html").read_text().partition("<body>")[2]


def test_scales_are_drawn_where_several_were_tried(built: Path) -> None:
    swept = drawings(built, "cosyvoice3")
    assert "epoch-04: 0: 42.6%, 0.5: 1.6%, 1: 0.4%. Promoted: epoch-04 at 1." in swept["Word error rate by scale · screening"]
    assert "Similarity by scale · screening" in swept
    assert [title for title in drawings(built, "fish_s2") if "scale" in title] == []


def test_speaking_rate_is_drawn_against_the_recordings(built: Path) -> None:
    rates = drawings(built, "cosyvoice3")["Speaking rate · screening"]
    assert "epoch 0: +0.0%, epoch 2: +10.0%, epoch 4: +20.0%, epoch 6: +30.0%" in rates


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
    assert len(page(built, "cosyvoice3").named("figure")) == 7


# --- the comparison ---------------------------------------------------------------------------------------------------


def test_comparison_lets_one_hear_the_same_words_by_every_family(built: Path) -> None:
    found = page(built)
    players = [one["src"] for one in found.named("audio")]
    assert players[:4] == [
        f"families/{family}/audio/{checkpoint}/test-4{ending}.flac"
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
        candidates = {which: one["candidates"][name] for which, name in one["chosen"].items()}
        measured += [f"{which} {candidates[which]['confirmed']['word_error_rate']:.1%}" for which in ("base", "best")]
        measured += [f"{which} {found['screened']['word_error_rate']:.1%}" for which, found in candidates.items()]
        measured += ["148 k of 3.71 M", f"✓ {one['promoted']}" if one["promoted"] else "none promoted"]
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
    assert "No checkpoint may be deployed: of 6 fine-tuned families none is proven to pass" in page(project).words


def test_advice_follows_the_results(project: Path) -> None:
    def fewest_errors(verdict: dict[str, Any]) -> None:
        verdict["promoted"] = "epoch-04"
        verdict["candidates"]["epoch-04"]["confirmed"] |= {"word_error_rate": 0.0, "ci": [0.0, 0.0], "similarity": 0.1}

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
        (lambda gate: change(gate / "verdict.json", lambda one: one["candidates"].pop("epoch-02")), "verdict.json: order and candidates do not name"),
        (lambda gate: change(gate / "verdict.json", lambda one: one.update(promoted="epoch-02")), "promoted: epoch-02 was not confirmed"),
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
    axis = chart.checkpoint_axis({index: 7 * index for index in range(len(losses))}, None)
    drawn = ET.fromstring(chart.loss_chart(axis, points, points[:9], base, None))
    for dot in drawn.iter("circle"):
        assert 0 <= float(dot.attrib["cx"]) <= chart.WIDTH
        assert 0 <= float(dot.attrib["cy"]) <= chart.HEIGHT
    assert len(next(drawn.iter("polyline")).attrib["points"].split()) <= chart.MAX_POINTS
