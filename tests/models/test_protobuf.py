"""Fish's protobuf shards: exact round trips, upstream's bytes, and damaged files named."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.fish_s2 import dataset
from models.parts.errors import UserError
from models.parts.family import Example
from tests.golden_fixtures import GOLDEN

UNICODE = st.text(st.characters(codec="utf-8"), max_size=30)


@st.composite
def utterances(draw):
    codebooks = draw(st.integers(1, 10))
    codes = st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=codebooks, max_size=codebooks), max_size=12)
    rows = draw(st.lists(st.tuples(UNICODE, UNICODE, UNICODE, codes), max_size=5))
    return [Example(i, text, who, np.array(c, np.int32).reshape(-1, codebooks)) for i, text, who, c in rows]


def example(frames: int = 5, codebooks: int = 4) -> Example:
    codes = np.arange(frames * codebooks, dtype=np.int32).reshape(frames, codebooks)
    return Example("clip 'one'", "“Grüß Gott” — <b>ça va?</b>", "zoë", codes)


@settings(max_examples=60, deadline=None)
@given(utterances())
def test_what_is_written_is_read_back(tmp_path_factory, examples):
    folder = tmp_path_factory.mktemp("shards")
    dataset.write(examples, folder)
    back = dataset.read(folder)
    for mine, theirs in zip(back, examples, strict=True):
        assert (mine.id, mine.text, mine.speaker) == (theirs.id, theirs.text, theirs.speaker)
        assert mine.codes.dtype == np.int32
        np.testing.assert_array_equal(mine.codes, theirs.codes)


def test_the_bytes_are_those_of_upstreams_schema(tmp_path):
    """A record spelt out by hand from text-data.proto: every field by its number and wire type."""
    dataset.write([Example("a", "Hi", "me", np.array([[1, 300], [2, 4]], np.int32))], tmp_path)
    semantics = [b"\x0a\x02\x01\x02", b"\x0a\x03\xac\x02\x04"]  # field 1, packed: a row for each codebook
    sentence = b"\x0a\x02Hi" + b"".join(b"\x1a" + bytes([len(row)]) + row for row in semantics)  # fields 1 and 3
    record = b"\x0a\x01a" + b"\x12\x02me" + b"\x22" + bytes([len(sentence)]) + sentence  # fields 1, 2 and 4
    assert (tmp_path / "00000000.protos").read_bytes() == struct.pack("<I", len(record)) + record


def test_the_same_examples_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        dataset.write([example(), example(7)], tmp_path / name)
    assert (tmp_path / "one/00000000.protos").read_bytes() == (tmp_path / "two/00000000.protos").read_bytes()


def upstreams(number: int, frames: int) -> np.ndarray:
    """Codes of the fixtures' utterances, (T, 10)."""
    source = np.random.default_rng(21)
    for n in (1, 7, 23, 4, 400)[: number + 1]:
        codes = np.concatenate([source.integers(0, 4096, (1, n)), source.integers(0, 1024, (9, n))])
    assert codes.shape[1] == frames
    return codes.T


def test_a_record_of_all_that_a_speaker_says_is_read_sentence_by_sentence(tmp_path):
    """As upstream's build_dataset.py writes it; and ours are upstream's bytes."""
    golden = {name: (GOLDEN / f"fish_s2/{name}.protos").read_bytes() for name in ("one_speaker_a_record", "one_utterance_a_record")}
    (tmp_path / "00000000.protos").write_bytes(golden["one_speaker_a_record"])
    together = dataset.read(tmp_path)
    assert [example.id for example in together] == [f"folder/{number}" for number in range(5)]
    for number, example in enumerate(together):
        assert example.speaker == "anna"
        np.testing.assert_array_equal(example.codes, upstreams(number, len(example.codes)))
    dataset.write([replace(example, id=f"utt{number}") for number, example in enumerate(together)], tmp_path)
    assert (tmp_path / "00000000.protos").read_bytes() == golden["one_utterance_a_record"]


def test_shards_hold_at_most_ten_megabytes_and_keep_the_order(tmp_path):
    large = Example("", "x", "y", np.full((200_000, 4), 2**31 - 1, np.int32))  # 4 MB each
    examples = [replace(large, id=f"utt-{number}") for number in range(5)]
    dataset.write(examples, tmp_path)
    sizes = [file.stat().st_size for file in sorted(tmp_path.iterdir())]
    assert len(sizes) == 3 and max(sizes) <= 10 * 2**20
    assert [e.id for e in dataset.read(tmp_path)] == [e.id for e in examples]


def test_writing_again_leaves_no_old_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "SHARD_BYTES", 100)
    dataset.write([example()] * 4, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    dataset.write([example()], tmp_path)
    assert len(dataset.read(tmp_path)) == 1


def test_a_speaker_embedding_is_not_lost_silently(tmp_path):
    with pytest.raises(ValueError, match="no place for a speaker embedding"):
        dataset.write([replace(example(), speaker_embedding=np.ones(3, np.float32))], tmp_path)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 10_000))
def test_a_cut_shard_is_named_wherever_it_is_cut(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("cut")
    dataset.write([example(), example()], folder)
    file = folder / "00000000.protos"
    whole = file.read_bytes()
    cut %= len(whole)
    file.write_bytes(whole[:cut])
    if cut in (0, len(whole) // 2):  # between two records nothing is damaged
        assert len(dataset.read(folder)) == cut * 2 // len(whole)
        return
    with pytest.raises(UserError, match=f"00000000.protos: record {int(cut > len(whole) // 2)} is cut"):
        dataset.read(folder)


def test_a_wrong_length_is_named(tmp_path):
    dataset.write([example(), example()], tmp_path)
    file = tmp_path / "00000000.protos"
    data = bytearray(file.read_bytes())
    data[0] -= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="00000000.protos: record 0"):
        dataset.read(tmp_path)


def record(texts: list[str], *rows: list[int]) -> bytes:
    sentence = {"texts": texts, "semantics": [{"values": row} for row in rows]}
    body = dataset.TextData(source="utt-7", sentences=[sentence]).SerializeToString()
    return struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (record(["a"], [1, 2], [1]), r"utt-7\): 2 codebooks of \[2, 1\]"),
        (record(["a"]), r"utt-7\): 0 codebooks"),
        (record(["a"], [2**31]), r"utt-7\): code 2147483648 is out of range"),
        (record(["a", "b"], [1]), r"utt-7\): 2 texts, not one"),
        (record([], [1]), r"utt-7\): 0 texts, not one"),
        (struct.pack("<I", 0), "holds no sentence"),
        (struct.pack("<I", 3) + b"\xff\xff\xff", "not a text_data record"),
    ],
)
def test_a_record_of_another_shape_is_named(tmp_path, damaged, message):
    dataset.write([example(codebooks=1)], tmp_path)
    with (tmp_path / "00000000.protos").open("ab") as file:
        file.write(damaged)
    with pytest.raises(UserError, match=f"00000000.protos: record 1.*{message}"):
        dataset.read(tmp_path)


def test_codebooks_that_change_within_a_set_are_named(tmp_path):
    dataset.write([example(codebooks=4), example(codebooks=3)], tmp_path)
    with pytest.raises(UserError, match="record 1: 3 codebooks, but the first record has 4"):
        dataset.read(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path, monkeypatch):
    with pytest.raises(UserError, match="no .protos shards here"):
        dataset.read(tmp_path)
    monkeypatch.setattr(dataset, "SHARD_BYTES", 100)
    dataset.write([example()] * 3, tmp_path)
    (tmp_path / "00000001.protos").unlink()
    with pytest.raises(UserError, match="a shard before 00000002.protos is missing"):
        dataset.read(tmp_path)
