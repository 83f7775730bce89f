"""Voxtral's training format: exact round trips, the end frame, and damaged files named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.parts.errors import UserError
from models.parts.family import Example
from models.voxtral import dataset
from tests import toy_voxtral as toy

UNICODE = st.text(st.characters(codec="utf-8"), max_size=30)


@st.composite
def utterances(draw):
    codebooks = draw(st.integers(1, 37))
    codes = st.lists(st.lists(st.integers(0, 2**30), min_size=codebooks, max_size=codebooks), max_size=6)
    rows = draw(st.lists(st.tuples(UNICODE, UNICODE, UNICODE, codes), max_size=5))
    return [Example(i, text, who, np.array(c, np.int32).reshape(-1, codebooks)) for i, text, who, c in rows]


@settings(max_examples=40, deadline=None)
@given(utterances())
def test_what_is_written_is_read_back(tmp_path_factory, examples):
    folder = tmp_path_factory.mktemp("set")
    dataset.write(examples, folder)
    back = dataset.read(folder)
    for mine, theirs in zip(back, examples, strict=True):
        assert (mine.id, mine.text, mine.speaker) == (theirs.id, theirs.text, theirs.speaker)
        assert mine.codes.dtype == np.int32
        np.testing.assert_array_equal(mine.codes, theirs.codes)


def test_frames_are_stored_as_upstream_numbers_them_with_an_end_frame_after_each_utterance(tmp_path):
    first, second = toy.examples(2)
    dataset.write([first, second], tmp_path)
    codes = np.load(tmp_path / "codes.npy")
    assert codes.shape == (37, 3 + 1 + 5 + 1) and codes.dtype == np.int32
    np.testing.assert_array_equal(codes[:, :3], first.codes.T + 2)
    assert codes[:, 3].tolist() == codes[:, 9].tolist() == [1] + [0] * 36
    rows = [json.loads(line) for line in (tmp_path / "utterances.jsonl").read_text().splitlines()]
    assert rows[1] == {"id": "utt-1", "text": second.text, "speaker": "toy", "start": 4, "frames": 5}


def test_the_same_examples_give_the_same_bytes_and_leave_nothing_old(tmp_path):
    dataset.write(toy.examples(), tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    dataset.write(toy.examples(5), tmp_path)
    dataset.write(toy.examples(), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    dataset.write([], tmp_path)
    assert dataset.read(tmp_path) == []


def test_a_speaker_embedding_is_not_lost_silently(tmp_path):
    with pytest.raises(ValueError, match="no place for a speaker embedding"):
        dataset.write([replace(toy.examples(1)[0], speaker_embedding=np.ones(3, np.float32))], tmp_path)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["utterances.jsonl", "codes.npy"]))
@example(0, "utterances.jsonl")
def test_a_cut_file_is_named_wherever_it_is_cut(tmp_path_factory, cut, name):
    folder = tmp_path_factory.mktemp("cut")
    dataset.write(toy.examples(), folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: cut % len(whole)])
    with pytest.raises(UserError, match=r"(utterances\.jsonl|codes\.npy): .*tokenise stage"):
        dataset.read(folder)


@pytest.mark.parametrize("name", ["utterances.jsonl", "codes.npy"])
def test_a_missing_file_is_named(tmp_path, name):
    dataset.write(toy.examples(), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"{name}: not there; .*tokenise stage"):
        dataset.read(tmp_path)


def test_an_array_of_objects_is_never_unpickled(tmp_path):
    dataset.write(toy.examples(), tmp_path)
    np.save(tmp_path / "codes.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match="codes.npy: not a whole NumPy array"):
        dataset.read(tmp_path)


@pytest.mark.parametrize(
    ("array", "message"),
    [(np.zeros((37, 9), np.float32), r"float32 \(37, 9\), not int32"), (np.zeros(9, np.int32), r"int32 \(9,\), not int32")],
)
def test_an_array_of_another_shape_is_named(tmp_path, array, message):
    dataset.write(toy.examples(), tmp_path)
    np.save(tmp_path / "codes.npy", array)
    with pytest.raises(UserError, match=f"codes.npy: {message}"):
        dataset.read(tmp_path)


def change_row(folder: Path, number: int, **values) -> None:
    lines = (folder / "utterances.jsonl").read_text().splitlines()
    lines[number - 1] = json.dumps(json.loads(lines[number - 1]) | values)
    (folder / "utterances.jsonl").write_text("".join(line + "\n" for line in lines))


@pytest.mark.parametrize(
    ("number", "values", "message"),
    [
        (1, {"frames": 2}, "utterance utt-0 does not end where its row says"),
        (2, {"start": 5}, r"row 2 \(utt-1\) says frames 5 to 10, but codes.npy goes on at 4"),
        (3, {"frames": 8}, "row 3 .* has 18"),
        (2, {"frames": -1}, "row 2 does not hold id, text"),
        (2, {"frames": "5"}, "row 2 does not hold id, text"),
        (2, {"more": 1}, "row 2 does not hold id, text"),
    ],
)
def test_a_row_of_another_shape_is_named(tmp_path, number, values, message):
    dataset.write(toy.examples(), tmp_path)
    change_row(tmp_path, number, **values)
    with pytest.raises(UserError, match=message):
        dataset.read(tmp_path)


def test_frames_that_no_row_knows_are_named(tmp_path):
    dataset.write(toy.examples(), tmp_path)
    lines = (tmp_path / "utterances.jsonl").read_text().splitlines()
    (tmp_path / "utterances.jsonl").write_text("".join(line + "\n" for line in lines[:-1]))
    with pytest.raises(UserError, match="codes.npy: 18 frames, but the rows of utterances.jsonl end at 10"):
        dataset.read(tmp_path)
