"""Audio in shards: what goes in comes out, bit for bit, and damage is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.parts.errors import UserError
from stages.common.audio import HIGH_RATES
from stages.common.shards import PER_SHARD, Clip, Shards, decode_flac, encode_flac, pcm24, write_shards


def clips(count: int) -> list[Clip]:
    generator = np.random.default_rng(count)
    sizes = generator.integers(1, 60, count)
    return [
        Clip(f"clip {number}", 8000 + number, (generator.integers(-(2**23), 2**23, size) / 2**23).astype(np.float32))
        for number, size in enumerate(sizes)
    ]


RATES = st.one_of(st.integers(8000, 2**16 - 1), st.sampled_from(HIGH_RATES))
VALUES = arrays.arrays(np.int32, st.integers(1, 300), elements=st.integers(-(2**23), 2**23 - 1))


@settings(max_examples=50, deadline=None)
@given(VALUES, RATES)
def test_24_bit_audio_comes_back_exactly(values: np.ndarray, rate: int) -> None:
    audio = (values / 2**23).astype(np.float32)
    np.testing.assert_array_equal(decode_flac(encode_flac(audio, rate)), audio)


@settings(deadline=None)
@given(arrays.arrays(np.float32, st.integers(1, 100), elements=st.floats(-4, 4, width=32)))
def test_other_audio_is_rounded_and_clipped_never_wrapped(audio: np.ndarray) -> None:
    error = np.abs(pcm24(audio) / 2**23 - np.clip(audio, -1, 1))
    assert error.max() <= 2**-23


def test_many_clips_in_several_shards(tmp_path: Path) -> None:
    written = clips(PER_SHARD + 3)
    assert write_shards(tmp_path, iter(written)) == len(written)
    shards = Shards(tmp_path)
    assert [file.name for file in shards.files] == ["shard-00000.parquet", "shard-00001.parquet"]
    assert [clip.id for clip in written[:PER_SHARD]] == pq.read_table(shards.files[0]).column("id").to_pylist()
    assert shards.ids() == [clip.id for clip in written] and len(shards) == len(written)
    order = np.random.default_rng(0).permutation(len(written))[:80]
    for index in [*order, 0, len(written) - 1]:
        mine, read = written[index], shards[written[index].id]
        assert (read.id, read.sample_rate) == (mine.id, mine.sample_rate)
        np.testing.assert_array_equal(read.audio, mine.audio)


def test_the_same_clips_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_shards(tmp_path / name, clips(70))
    assert (tmp_path / "one/shard-00000.parquet").read_bytes() == (tmp_path / "two/shard-00000.parquet").read_bytes()


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no audio shards here; run `dvc repro`"):
        Shards(tmp_path)
    write_shards(tmp_path, clips(3))
    with pytest.raises(UserError, match="has no clip 'another'"):
        Shards(tmp_path)["another"]
    shard = tmp_path / "shard-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"shard-00000\.parquet: damaged") as raised:
        Shards(tmp_path)
    assert "\n" not in str(raised.value)
