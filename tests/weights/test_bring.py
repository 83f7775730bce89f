"""`make weights FROM=a folder`: what comes in is whole, safe and this family's, or nothing has changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from models.parts.errors import UserError
from models.parts.family import Family
from stages.common.weights import FOLDER, LOCK, check_bytes, read_lock
from stages.weights.bring import bring
from stages.weights.convert import convert
from tests.conftest import ROOT
from tests.small_release import AS_IT_IS, SHAPES, Small, small, write_release

SMALL = FOLDER / "small"
BEFORE: dict[str, Any] = yaml.safe_load((ROOT / LOCK).read_text())
Change = Callable[[Path], object]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty place with this repository's settings and lock."""
    for name in ("params.yaml", "weights.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def release(here: None, tmp_path: Path) -> Path:
    return write_release(tmp_path / "downloads")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_good_folder_becomes_safetensors_with_a_manifest(release: Path) -> None:
    before = everything(release)
    bring(small(), release)

    found = {name: {key: list(tensor.shape) for key, tensor in load_file(SMALL / name).items()} for name in SHAPES}
    assert found == SHAPES
    assert sorted(path.suffix for path in SMALL.rglob("*") if path.is_file() and path.name != ".gitignore") == [".json"] * 2 + [".onnx"] + [".safetensors"] * 3
    assert (SMALL / AS_IT_IS).read_bytes() == (release / AS_IT_IS).read_bytes()
    original, codec = torch.load(release / "codec.pt", weights_only=True), load_file(SMALL / "codec.safetensors")
    assert torch.equal(codec["encoder.tied"], original["encoder"]["tied"])
    assert torch.equal(codec["decoder.layers.1"], original["decoder"]["layers"][1])
    voice = load_file(SMALL / "voices/anna.safetensors")["tensor"]
    assert voice.dtype == torch.bfloat16 and torch.equal(voice, torch.load(release / "voices/anna.pt", weights_only=True))

    manifest = check_bytes(SMALL, "small")
    assert set(manifest["files"]) == {*SHAPES, AS_IT_IS, "config.json"}
    codec_facts = manifest["files"]["codec.safetensors"]
    assert codec_facts["converted_from"] == "codec.pt" and codec_facts["left_out"] == {"epoch": "3", "by": "['Anna', 2]"}
    assert (codec_facts["origin"], codec_facts["commit"]) == ("folder", None)
    assert "converted_from" not in manifest["files"]["model.safetensors"]
    assert everything(release) == before
    assert (SMALL / "model.safetensors").samefile(release / "model.safetensors")  # a link: no second copy
    assert not list(FOLDER.glob(".*"))


def test_the_lock_says_what_sha256sum_says(release: Path) -> None:
    bring(small(), release)
    entry = read_lock()["small"]
    names = sorted([*SHAPES, AS_IT_IS, "config.json"])
    listed = subprocess.run(["sha256sum", *names], cwd=SMALL, capture_output=True, check=True, text=True).stdout
    again = subprocess.run(["sha256sum"], input=listed, capture_output=True, check=True, text=True).stdout
    assert entry == {"commits": {}, "sha256": again.split()[0]}
    assert LOCK.read_text().startswith("# ") and yaml.safe_load(LOCK.read_text()) == BEFORE | {"small": entry}


def cut(name: str) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-8])


class Evil:
    """Its pickle creates a file when it is opened in the usual way."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


WRONG: list[tuple[str, Change, str]] = [
    ("no model.safetensors", lambda folder: (folder / "model.safetensors").unlink(), "downloads/model.safetensors: not there"),
    ("no voice", lambda folder: (folder / "voices/anna.pt").unlink(), "downloads/voices/anna.pt: not there"),
    ("model.safetensors cut", cut("model.safetensors"), "downloads/model.safetensors: not a whole safetensors file"),
    ("config.json cut", cut("config.json"), "downloads/config.json: .*not JSON"),
    ("codec.pt cut", cut("codec.pt"), "downloads/codec.pt: can't be read as weights"),
    ("codec.pt empty", lambda folder: (folder / "codec.pt").write_bytes(b""), "downloads/codec.pt: can't be read"),
    ("tokeniser.onnx is text", lambda folder: (folder / "tokeniser.onnx").write_text("hello"), "downloads/tokeniser.onnx: can't be read"),
    ("tokeniser.onnx empty", lambda folder: (folder / "tokeniser.onnx").write_bytes(b""), "downloads/tokeniser.onnx: holds no tensors"),
    ("codec.pt runs code", lambda folder: torch.save({"a": Evil()}, folder / "codec.pt"), "codec.pt: a pickle that holds more than tensors .*system"),
    ("codec.pt holds a type", lambda folder: torch.save({"w": torch.zeros(1), "d": torch.float32}, folder / "codec.pt"), "codec.pt: d is neither a tensor"),
    ("a key twice", lambda folder: torch.save({"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1)}, folder / "codec.pt"), "codec.pt: a.b is there twice"),
    ("another model", lambda folder: save_file({"embed.weight": torch.zeros(9, 4)}, folder / "model.safetensors"), "downloads/model.safetensors: holds other tensors"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG])
@pytest.mark.parametrize("earlier", [True, False], ids=["with an earlier one", "fresh"])
def test_a_wrong_release_is_one_line_and_changes_nothing(release: Path, change: Change, message: str, earlier: bool) -> None:
    if earlier:
        bring(small(), release)
    before = everything(FOLDER), LOCK.read_bytes()
    shutil.copytree(release, copy := release.with_name("copy"))  # the links of what is there stay as they are
    shutil.rmtree(release)
    copy.rename(release)
    change(release)
    with pytest.raises(UserError, match=message) as caught:
        bring(small(), release)
    assert "\n" not in str(caught.value) and ".partial" not in str(caught.value)
    now = everything(FOLDER)
    assert ({name: data for name, data in now.items() if ".partial" not in name}, LOCK.read_bytes()) == before
    assert not Path("ran").exists()


def test_the_pickle_that_is_refused_does_run_in_the_usual_way(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert Path("ran").exists()


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300), kind=st.sampled_from([".pt", ".bin"]))
def test_any_bytes_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{kind}"
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"any{kind}: ") as caught:
        convert(path, path.name, path.with_suffix(".safetensors"))
    assert "\n" not in str(caught.value)


def test_after_mending_the_folder_the_rerun_ends_well(release: Path) -> None:
    good = (release / "model.safetensors").read_bytes()
    cut("model.safetensors")(release)
    with pytest.raises(UserError):
        bring(small(), release)
    (release / "model.safetensors").write_bytes(good)
    bring(small(), release)
    assert check_bytes(SMALL, "small") and not list(FOLDER.glob(".*"))


def test_the_folder_of_another_clone_gives_the_same_weights(release: Path, tmp_path: Path) -> None:
    bring(small(), release)
    entry = read_lock()["small"]
    shutil.move(SMALL, tmp_path / "theirs")
    bring(small(), tmp_path / "theirs")
    assert read_lock()["small"] == entry
    assert check_bytes(SMALL, "small")["files"]["codec.safetensors"]["converted_from"] == "codec.pt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: (SMALL / "config.json").write_text("{}"), "small/config.json: other bytes than manifest.json says; run `make weights MODEL=small` again"),
        (lambda: (SMALL / "config.json").unlink(), "small/config.json: not there"),
        (lambda: (SMALL / "adapter.safetensors").write_bytes(b""), "adapter.safetensors: not in manifest.json"),
        (lambda: (SMALL / "manifest.json").write_text("[]"), "not a manifest"),
        (lambda: LOCK.write_text("{}\n"), "not the weights that weights.lock means, which knows of none"),
        (lambda: LOCK.write_text(f"small: {{commits: {{some/body: {'d' * 40}}}, sha256: '0'}}\n"), "which means others .some/body at dddddddddddd"),
        (lambda: LOCK.write_text("<<<<<<< ours\n{}\n"), "weights.lock: .*git"),
    ],
)  # fmt: skip
def test_what_changes_afterwards_is_noticed(release: Path, change: Callable[[], object], message: str) -> None:
    bring(small(), release)
    change()
    with pytest.raises(UserError, match=message) as caught:
        check_bytes(SMALL, "small")
    assert "\n" not in str(caught.value)


def test_a_family_that_cannot_take_its_release_says_so_before_any_work(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Small, "check_release")
    with pytest.raises(UserError, match="small: released weights can't be brought in yet"):
        bring(small(), release)
    assert Small.check_release is Family.check_release and not FOLDER.exists()


def test_the_licence_is_shown_and_kept(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = small()
    bring(family, release)
    assert "Small: MIT. Free." in (told := capsys.readouterr().out) and "intended_use: research" in told
    shutil.rmtree(SMALL)
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("intended_use: research", "intended_use: commercial"))
    family.card["licence"]["weights"] = {"name": "CC BY-NC 4.0", "commercial": False, "says": "No."}
    with pytest.raises(UserError, match=r"forbids commercial use: small \(CC BY-NC 4.0\)"):
        bring(family, release)
    assert not SMALL.exists()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """data/weights on a disk of 1 MiB."""
    FOLDER.mkdir(parents=True)
    mounted = os.getuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", FOLDER], capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("only root can mount a small disk")
    yield FOLDER
    subprocess.run(["umount", FOLDER], check=True)


def test_a_full_disk_is_told_before_anything_is_written(release: Path, small_disk: Path) -> None:
    save_file({"embed.weight": torch.zeros(8, 4), "head.weight": torch.zeros(2**18)}, release / "model.safetensors")
    with pytest.raises(UserError, match="data/weights: 0.001 GB are needed and 0.001 GB are free"):
        bring(small(), release)
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["made_of.json"]


def test_git_sees_the_lock_and_what_keeps_the_folder_of_a_new_family(release: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    (tmp_path / ".git/info").mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for command in (["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "t"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    bring(small(), release)
    for name in (".small.partial/half", "mine/model.safetensors", "download.zip"):
        (FOLDER / name).parent.mkdir(exist_ok=True)
        (FOLDER / name).write_text("")
    seen = subprocess.run(["git", "status", "--porcelain", "-uall"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert seen == " M weights.lock\n?? data/weights/small/.gitignore\n"


def test_manifests_are_json_that_anybody_can_read(release: Path) -> None:
    bring(small(), release)
    manifest = json.loads((SMALL / "manifest.json").read_text())
    assert manifest["family"] == "small" and all(file["size"] == (SMALL / name).stat().st_size for name, file in manifest["files"].items())


def test_the_same_file_gives_the_same_bytes(release: Path) -> None:
    made = set()
    for number in range(4):
        convert(release / "codec.pt", "codec.pt", Path(f"{number}.safetensors"))
        made.add(Path(f"{number}.safetensors").read_bytes())
    assert len(made) == 1
