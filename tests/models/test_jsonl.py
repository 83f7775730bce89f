"""Qwen3-TTS's training format: what is written reads back exactly, and what is damaged is named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file as save_arrays

from models.parts.errors import UserError
from models.parts.family import Example
from models.qwen3_tts import dataset
from tests import toy_qwen3_tts
from tests.toy_qwen3_tts import CODEBOOKS

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
frames = st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=3, max_size=3), min_size=1, max_size=9)
figures = st.lists(st.floats(width=32, allow_nan=False), min_size=5, max_size=5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(texts, texts, texts, frames, figures), max_size=5))
def test_jsonl_reads_back_exactly_and_is_the_same_bytes_again(tmp_path_factory, rows):
    place = tmp_path_factory.mktemp("set")
    written = [
        Example(name, text, who, np.array(codes, np.int32), np.array(vector, np.float32))
        for name, text, who, codes, vector in rows
    ]
    dataset.write(written, place)
    back = dataset.read(place)
    assert [(e.id, e.text, e.speaker) for e in back] == [(e.id, e.text, e.speaker) for e in written]
    for wanted, found in zip(written, back, strict=True):
        np.testing.assert_array_equal(found.codes, wanted.codes)
        np.testing.assert_array_equal(found.speaker_embedding, wanted.speaker_embedding)
        assert found.codes.dtype == np.int32 and found.speaker_embedding.dtype == np.float32
    first = {path.name: path.read_bytes() for path in place.iterdir()}
    dataset.write(back, place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == first


def test_rows_have_the_keys_that_upstream_reads(tmp_path):
    dataset.write(toy_qwen3_tts.examples(), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    assert all({"audio", "text", "ref_audio", "audio_codes"} <= row.keys() for row in rows)
    assert np.array(rows[1]["audio_codes"]).shape == (5, CODEBOOKS)


def rewrite(change: Any) -> Any:
    """A damage: the whole text of the rows, changed."""
    return lambda place: (place / "data.jsonl").write_text(change((place / "data.jsonl").read_text()))


def second(**values: Any) -> Any:
    """A damage: other values in the second row; None takes a key out."""

    def change(text: str) -> str:
        lines = text.splitlines()
        row = json.loads(lines[1]) | values
        lines[1] = json.dumps({key: value for key, value in row.items() if value is not None})
        return "".join(f"{line}\n" for line in lines)

    return rewrite(change)


def vectors(*shape: int) -> Any:
    """A damage: a matrix of another shape."""
    return lambda place: save_arrays({"vectors": np.zeros(shape, np.float32)}, place / "ref_audio.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda place: (place / "data.jsonl").unlink(), "data.jsonl: not there; run the tokenise stage"),
        (rewrite(lambda text: text[:-9]), "line 3 is cut"),
        (rewrite(lambda text: text[1:]), "line 1 is not JSON"),
        (rewrite(lambda text: "[]\n" * 3), "line 1 is not an object"),
        (lambda place: (place / "data.jsonl").write_bytes(b"\xff\n"), "not UTF-8"),
        (second(ref_audio=None), "line 2: ref_audio is missing"),
        (second(text=5), "line 2: text is missing or not a text"),
        (second(audio_codes=None), "line 2: audio_codes are not frames"),
        (second(audio_codes=[]), "line 2: audio_codes are not frames"),
        (second(audio_codes=[[1, 2, 3, 4], [1, 2]]), "line 2: audio_codes are not frames"),
        (second(audio_codes=[[1, 2, 3, 4.5]]), "line 2: audio_codes are not frames"),
        (second(audio_codes=[[1, 2, 3, -4]]), "line 2: audio_codes from -4 to 3"),
        (second(audio_codes=[[1, 2, 3, 2**31]]), "line 2: audio_codes from 1 to 2147483648"),
        (second(audio_codes=[[1, 2]]), "line 2: 2 codebooks, but the first line has 4"),
        (lambda place: (place / "ref_audio.safetensors").unlink(), "the speaker vectors are missing"),
        (lambda place: (place / "ref_audio.safetensors").write_bytes(b"cut"), "not a whole safetensors file"),
        (vectors(2, 192), "3 lines, but .* has 2"),
        (vectors(3), "no float32 matrix"),
    ],
)
def test_a_damaged_set_is_named(tmp_path, damage, message):
    dataset.write(toy_qwen3_tts.examples(), tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        dataset.read(tmp_path)


def test_an_utterance_without_frames_writes_nothing(tmp_path):
    rows = [*toy_qwen3_tts.examples(1), replace(toy_qwen3_tts.examples()[1], codes=np.zeros((0, CODEBOOKS), np.int32))]
    with pytest.raises(UserError, match="utterance utt-1: no frames"):
        dataset.write(rows, tmp_path / "set")
    assert not (tmp_path / "set").exists()
