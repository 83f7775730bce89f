"""Audio as the gate keeps it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile as sf

from stages.gate.audio import write_flac


def test_a_take_of_nothing_can_be_read_back_and_is_silent(tmp_path: Path) -> None:
    """A network may stop at once; a FLAC file without samples ends every later reading in an error."""
    write_flac(tmp_path / "take.flac", np.zeros(0, np.float32), 24000)
    audio, rate = sf.read(tmp_path / "take.flac")
    assert rate == 24000 and not np.any(audio)
    write_flac(tmp_path / "take.flac", np.array([0.5, -0.5], np.float32), 24000)
    assert sf.read(tmp_path / "take.flac")[0].tolist() == [0.5, -0.5]
