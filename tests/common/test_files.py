"""Files are whole or absent, and what was written reads back."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.parts.errors import UserError
from stages.common.files import read_json, read_jsonl, sha256, staged, write_json, write_jsonl
from stages.common.metrics import StageMetrics

TEXT = st.text(max_size=10)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
# One folder for all examples does no harm: each writes its file anew.
examples = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_staged_replaces_the_target_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "data" / "tokens"
    for content in ("first", "second"):
        with staged(target) as folder:
            assert list(folder.iterdir()) == []
            (folder / content).write_text(content)
            assert not (target / content).exists()
        assert tree(tmp_path) == {f"data/tokens/{content}": content}


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_staged_leaves_the_target_as_it_was_when_the_work_fails(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "tokens"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(failure), staged(target) as folder:
        (folder / "new").write_text("half")
        raise failure
    assert tree(tmp_path) == {"tokens/old": "old"}


def test_staged_starts_clean_after_a_killed_run(tmp_path: Path) -> None:
    (tmp_path / ".tokens.partial").mkdir()
    (tmp_path / ".tokens.partial" / "half").write_text("half")
    with staged(tmp_path / "tokens") as folder:
        (folder / "whole").write_text("whole")
    assert tree(tmp_path) == {"tokens/whole": "whole"}


def test_staged_finds_the_target_again_when_killed_between_its_renames(tmp_path: Path) -> None:
    (tmp_path / ".tokens.old").mkdir()
    (tmp_path / ".tokens.old" / "old").write_text("old")
    with pytest.raises(ValueError), staged(tmp_path / "tokens"):
        raise ValueError
    assert tree(tmp_path) == {"tokens/old": "old"}


def test_a_resumable_stage_finds_what_it_had_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    target = Path("data/fish_s2/tokens")
    with pytest.raises(ValueError), staged(target, keep=True) as folder:
        (folder / "first").write_text("1")
        raise ValueError
    assert not target.exists()
    with staged(target, keep=True) as folder:
        assert tree(folder) == {"first": "1"}
        (folder / "second").write_text("2")
    assert tree(target) == {"first": "1", "second": "2"} and not folder.exists()


@examples
@given(rows=st.lists(st.dictionaries(TEXT, VALUES, max_size=3), max_size=5))
def test_rows_read_back_as_they_were(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, rows)
    assert read_jsonl(path) == rows
    assert path.read_bytes().count(b"\n") == len(rows)


@examples
@given(value=VALUES)
def test_json_reads_back_and_does_not_depend_on_the_order_of_keys(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"b": value, "a": 1})
    first = path.read_bytes()
    write_json(path, {"a": 1, "b": value})
    assert read_json(path) == {"a": 1, "b": value} and path.read_bytes() == first


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_json_is_never_written(tmp_path: Path, value: float) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError):
        write_json(path, {"loss": value})
    assert tree(tmp_path) == {"value.json": '{\n "loss": 1.0\n}\n'}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n\n{"a": \n', "line 3: not JSON"),
        (b'{"a": 1}\n[1]\n', "line 2: not a JSON object"),
        (b'{"a": "\xff"}\n', "byte 7: not UTF-8"),
        (None, "no such file"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "my rows.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_jsonl(path)
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


def test_a_byte_order_mark_and_windows_lines_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]


@examples
@given(content=st.binary())
def test_sha256_is_the_hash_of_the_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert sha256(path) == hashlib.sha256(content).hexdigest()


def test_metrics_are_written_when_a_stage_succeeds_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with StageMetrics("train", "fish_s2") as metrics:
        metrics.set(lr=2e-06, rank=8)
    written = json.loads(Path("reports/metrics/train-fish_s2.json").read_text())
    assert written["lr"] == 2e-06 and written["seconds"] >= 0 and written["peak_mib"] > 10
    with pytest.raises(ValueError), StageMetrics("train", "cosyvoice3"):
        raise ValueError
    assert not Path("reports/metrics/train-cosyvoice3.json").exists()
