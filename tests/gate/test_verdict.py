"""Which takes pass, by their words, and what a checkpoint scores over its takes."""

from __future__ import annotations

from typing import Any

import pytest

from stages.common.params import GateParams
from stages.gate.verdict import Tolerance, judge, measured, score, tolerance

TEXT = "please hold the line while we look for the next free agent and press one for more"
GATE = GateParams(
    reading={}, listener="tiny.en", second_listener=None, seed=1, checkpoints="all", screen=1, finalists=1, batch=4, budget=8, pass_rate=0.5,
    false_pass=0.05, false_fail=0.05, extra_dropped=1, extra_inserted=1, extra_share=0.1,
    longest_run=2, rate_drift=0.35, trailing_silence=1.5, pause=1.0, unexplained=0.6, bandwidth=0.75,
)  # fmt: skip


def take(heard: str, text: str = TEXT, **changes: Any) -> dict[str, Any]:
    """A row as the gate measures it: three words a second unless `changes` say otherwise."""
    spoken = len(heard.split()) / 3
    audio = {
        "seconds": spoken, "speech": spoken, "transcript": heard, "trailing_silence": 0.1, "similarity": 0.9, "dnsmos": 3.0,
        "pause": 0.4, "pause_after": "line", "unexplained": 0.3, "unexplained_after": "please", "bandwidth": 7000,
    }  # fmt: skip
    return {"tier": "5s", "prompt": "test-5s-1", "finish": "stop", "error": None} | measured(text, audio) | changes


def allowed(*recordings: dict[str, Any], gate: GateParams = GATE) -> Tolerance:
    return tolerance(recordings, gate, 3.0)


def test_the_text_as_written_passes() -> None:
    assert judge(take(TEXT), allowed()) == []


def test_three_lost_words_fail_and_are_named() -> None:
    assert judge(take(TEXT.replace("while we look ", "")), allowed()) == ["dropped 3 words: while we look"]
    assert judge(take(TEXT.replace("hold ", "").replace("next ", "").replace("one ", "")), allowed()) == [
        "dropped 3 words: hold, next, one"
    ]


def test_one_lost_word_is_within_the_tolerance() -> None:
    assert judge(take(TEXT.replace("while ", "")), allowed()) == []


def test_three_lost_words_fail_in_a_long_text_whose_word_error_rate_hardly_moves() -> None:
    long = " ".join([TEXT] * 5)
    row = take(long.replace("while we look ", "", 1), long)
    assert row["word_error_rate"] < 0.04
    assert judge(row, allowed()) == ["dropped 3 words: while we look"]


def test_repeats_and_merges_fail_and_are_named() -> None:
    assert judge(take(TEXT.replace("the line", "the line the line")), allowed()) == ["repeated 2 words: the line"]
    merged = take(TEXT.replace("hold the", "holtha").replace("next free", "nexfree"))
    assert judge(merged, allowed()) == ["merged hold the into holtha, next free into nexfree"]


def test_words_that_sound_wrong_fail_beyond_their_share() -> None:
    row = take(TEXT.replace("please", "peas").replace("look", "cook").replace("agent", "engine"))
    assert judge(row, allowed()) == ["3 of 17 words sound wrong: peas for please, cook for look, engine for agent"]


STRICT = GATE.model_copy(update={"extra_dropped": 0, "extra_inserted": 0, "extra_share": 0.0})


def test_what_is_left_of_lost_words_is_told_with_them() -> None:
    row = take(TEXT.replace("while we look for", "whifor"))
    assert judge(row, allowed()) == ["dropped 3 words: while we look for (heard as whifor)"]


def test_phrases_that_change_places_are_out_of_order() -> None:
    row = take(TEXT.replace("while we look for the next", "for the next while we look"))
    assert any(reason.startswith("dropped") for reason in judge(row, allowed(gate=STRICT)))
    row = take(TEXT.replace("hold the line", "line the hold"))
    assert judge(row, allowed(gate=STRICT)) == ["2 of 17 words sound wrong: line for hold, hold for line", "out of order: hold, line"]


def test_a_slip_of_the_listener_is_no_error_and_a_phrase_said_twice_is_one() -> None:
    heard = TEXT.replace("for more", "all more")
    assert judge(take(heard), allowed(gate=STRICT)) == ["1 of 17 words sound wrong: all for for"]
    audio = {key: value for key, value in take(heard).items() if key not in ("words", "errors", "word_error_rate")}
    slip = audio | measured(TEXT, audio | {"doubts": [["for", "all", 2.0]]})
    assert (slip["word_error_rate"], judge(slip, allowed(gate=STRICT))) == (0.0, [])
    assert judge(take(TEXT, twice="hold the line"), allowed()) == ["repeated: hold the line, as it seems, though it is written once"]


def test_babble_fails_however_short_it_is() -> None:
    assert judge(take("banana", "hang up"), allowed(gate=GATE.model_copy(update={"extra_share": 1.0}))) == [
        "none of its 2 words was heard"
    ]


@pytest.mark.parametrize("transcript", ["", None])
def test_no_transcript_is_never_a_pass(transcript: str | None) -> None:
    lenient = GATE.model_copy(update={"extra_dropped": 99, "longest_run": 99})
    row = take("") | {"transcript": transcript}
    assert judge(row, allowed(gate=lenient)) == ["unheard: the listener made out no words"]


def test_a_failed_generation_fails_with_its_error() -> None:
    row = take("", error="RuntimeError: no memory", finish="failed", transcript=None, seconds=None, trailing_silence=None)
    assert judge(row, allowed()) == ["failed: RuntimeError: no memory"]


def test_never_stopping_a_stub_silence_and_drift_fail() -> None:
    assert judge(take(TEXT, finish="length", seconds=20.0), allowed()) == ["never stopped: cut off after 20.0 s"]
    assert judge(take(TEXT, trailing_silence=2.0), allowed()) == ["2.0 s of silence at the end"]
    assert judge(take(TEXT, seconds=1.0, rate=17.0), allowed()) == ["ended as a stub: 1.0 s where about 5.7 s were due"]
    assert judge(take(TEXT, rate=4.5), allowed()) == ["speaks 50% faster than the recordings"]
    assert judge(take(TEXT, rate=1.5), allowed()) == ["speaks 50% slower than the recordings"]


def test_what_sounds_and_is_no_word_fails_and_is_placed() -> None:
    real = take(TEXT, pause=0.7, unexplained=0.5)
    assert judge(take(TEXT, pause=1.6, unexplained=1.0, bandwidth=5300), allowed(real)) == []
    assert judge(take(TEXT, pause=3.0), allowed(real)) == ['a pause of 3.0 s after "line"']
    assert judge(take(TEXT, unexplained=1.2), allowed(real)) == ['unexplained 1.2 s after "please": longer than the words that are heard']
    assert judge(take(TEXT, bandwidth=4500), allowed(real)) == ["dull: nothing above 4.5 kHz, as from a wrong sample rate"]
    assert judge(take(TEXT, bandwidth=0), allowed()) == []  # nobody knows how the speaker sounds


def test_what_the_listener_makes_of_recordings_widens_the_tolerance() -> None:
    lossy = take(TEXT.replace("hold ", "").replace("next ", ""))
    assert judge(lossy, allowed()) != []
    assert judge(lossy, allowed(lossy, lossy, lossy)) == []


def test_one_bad_hearing_of_a_recording_is_no_licence() -> None:
    good, bad = [take(TEXT)] * 9, take("please")
    assert judge(take(TEXT.replace("while we look ", "")), allowed(*good, bad)) != []


def test_every_recording_of_a_fast_speaker_passes_for_its_rate() -> None:
    recordings = [take(TEXT, rate=rate) for rate in (2.0, 3.0, 3.1, 6.0)]
    assert [judge(row, allowed(*recordings)) for row in recordings] == [[]] * 4


def test_a_text_of_short_words_is_not_read_in_haste() -> None:
    long, short = "passengers travelling northwards should remember luggage", "can I get to it by ten or do I go at six"
    slow = take(long, long, rate=2.0)
    quick = take(short, short, rate=2.0 * 8.0 / 2.2)  # twice as many letters a second would be a drift, and these are no more
    assert judge(quick, allowed(slow)) == []
    assert "faster" in judge(quick | {"rate": 2.0 * quick["rate"]}, allowed(slow))[0]


def test_the_score_counts_words_not_takes_and_its_interval_holds_it() -> None:
    rows = [take(TEXT), take(" ".join([TEXT] * 4).replace("hold ", ""), " ".join([TEXT] * 4)), take("")]
    found = score(rows, [take(TEXT, similarity=0.95)])
    assert found["word_error_rate"] == pytest.approx((0 + 4 + 17) / (17 + 68 + 17), abs=1e-4)
    assert found["ci"][0] <= found["word_error_rate"] <= found["ci"][1]
    assert found == score(rows, [take(TEXT, similarity=0.95)])
    assert found["similarity_margin"] == pytest.approx(-0.05)
    assert found["similarity_ci"] == [0.9, 0.9]


def test_takes_without_a_voice_do_not_count_for_similarity() -> None:
    rows = [take(TEXT, similarity=near) for near in (0.6, 0.8, None, None)]
    found = score(rows, [])
    low, high = found["similarity_ci"]
    assert 0.6 <= low < found["similarity"] == 0.7 < high <= 0.8
    assert score([take("", similarity=None)], [])["similarity_ci"] is None
