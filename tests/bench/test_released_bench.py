"""`make bench` on the parts of the released codecs."""

from __future__ import annotations

import pytest

from stages.bench import released


def test_every_part_is_measured_three_ways_and_together_gives_what_single_ones_give(capsys: pytest.CaptureFixture[str]) -> None:
    released.main(["--size", "small"])
    machine, head, *rows = capsys.readouterr().out.splitlines()
    assert "GFLOP/s" in machine and head.split()[-2:] == ["busy", "equal"]
    assert [row.split("  ")[0] for row in rows] == [
        "S3 tokeniser, version 2", "S3 tokeniser, version 3", "CAM++", "flow, version 2", "flow, version 3", "HiFT, version 2", "HiFT, version 3",
        "Fish's codec, encode", "Fish's codec, decode",
    ]  # fmt: skip
    for row in rows:
        alone, in_turn, together, gain, gain_in_turn, busy, equal = row[24:].split()
        assert equal == "yes" and float(busy.rstrip("%")) >= 0
        assert float(gain) == pytest.approx(float(together) / float(alone), rel=0.05) and float(gain_in_turn) == pytest.approx(float(together) / float(in_turn), rel=0.05)
