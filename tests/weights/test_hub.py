"""`make weights` from a hub: a small one over loopback, asked by huggingface_hub as it asks any other."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import disable_progress_bars

from models.parts.errors import UserError
from stages.common.weights import FOLDER, check_bytes, read_lock, write_lock
from stages.weights.bring import bring
from tests.conftest import ROOT
from tests.small_hub import COMMIT, OLDER, Hub
from tests.small_release import small, write_release

SMALL, BIG, VOICES = FOLDER / "small", "somebody/small-big", "else/voices"
MIB = 2**20
COMMITS = {BIG: COMMIT, VOICES: COMMIT}


def served(folder: Path) -> dict[str, dict[str, bytes]]:
    names = ["config.json", "model.safetensors", "codec.pt", "tokeniser.onnx"]
    files = {name: (folder / name).read_bytes() for name in names}
    return {BIG: files | {"README.md": b"hello"}, VOICES: {"first.pt": (folder / "voices/anna.pt").read_bytes()}}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The release on a hub, in an empty place with this repository's settings and an empty cache."""
    for name in ("params.yaml", "weights.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    disable_progress_bars()
    with Hub(served(write_release(tmp_path / "release"))) as hub:
        # The library reads its environment when it is imported; test_a_killed_download_goes_on sets it from outside.
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        yield hub


def refused(message: str, **options: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        bring(small(), None, **options)
    assert "\n" not in str(caught.value)
    assert not SMALL.exists()


def test_a_download_is_the_folder_pinned_to_its_commits(hub: Hub, tmp_path: Path) -> None:
    bring(small(), None)
    manifest = check_bytes(SMALL, "small")
    assert manifest["commits"] == COMMITS == read_lock()["small"]["commits"]  # type: ignore[index]
    voice = manifest["files"]["voices/anna.safetensors"]
    assert (voice["origin"], voice["commit"], voice["converted_from"]) == (VOICES, COMMIT, "voices/anna.pt")
    assert "README.md" not in [name for _, name, _ in hub.requests]  # the card does not name it
    assert not list(FOLDER.glob(".*"))

    locked = read_lock()
    bring(small(), tmp_path / "release")  # the same bytes from a folder are the same weights
    assert read_lock() == locked


def test_the_commit_of_the_lock_is_taken_until_another_is_asked_for(hub: Hub) -> None:
    write_lock("small", {BIG: OLDER}, "0" * 64)
    bring(small(), None)
    assert read_lock()["small"]["commits"] == {BIG: OLDER, VOICES: COMMIT}  # type: ignore[index]
    bring(small(), None, revision="main")
    assert read_lock()["small"]["commits"] == COMMITS  # type: ignore[index]


def test_what_is_there_is_not_fetched_again(hub: Hub) -> None:
    bring(small(), None)
    (SMALL / "model.safetensors").write_bytes(b"tampered with")
    hub.requests.clear()
    bring(small(), None)
    assert hub.requests == [("GET", "model.safetensors", None)] and check_bytes(SMALL, "small")


def test_sizes_are_repositories(hub: Hub) -> None:
    refused("somebody/small-tiny: no such repository", size="tiny")
    refused("SIZE=huge: small comes as big, tiny", size="huge")


def test_other_bytes_than_the_repository_says_are_named(hub: Hub) -> None:
    good = hub.files[BIG]["codec.pt"]
    described = dict(hub.files[BIG])
    hub.files[BIG] = Garbled(described)
    refused("somebody/small-big/codec.pt: other bytes than the repository says; run make weights again")
    assert described["codec.pt"] == good
    hub.files[BIG] = described
    bring(small(), None)
    assert check_bytes(SMALL, "small")


class Garbled(dict[str, bytes]):
    """What `items()` describes is right, what is sent is not."""

    def __getitem__(self, name: str) -> bytes:
        data = super().__getitem__(name)
        return bytes(255 - byte for byte in data) if name == "codec.pt" else data


def test_gated_without_and_with_a_wrong_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_right"
    refused("somebody/small-big: gated; accept its terms on its page and set HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused("somebody/small-big: gated; accept its terms on its page and set HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    bring(small(), None)
    assert check_bytes(SMALL, "small")


def test_a_repository_a_revision_or_a_file_that_is_not_there(hub: Hub) -> None:
    refused("somebody/small-big: has no revision nightly; REVISION= takes a branch, a tag or a commit", revision="nightly")
    del hub.files[BIG]["codec.pt"]
    refused("somebody/small-big: has no codec.pt at cccc")
    del hub.files[BIG]
    refused("somebody/small-big: no such repository, or a private one; set HF_TOKEN")


def test_a_page_where_a_hub_should_answer(hub: Hub) -> None:
    hub.page = True
    refused(f"somebody/small-big: {hub.url} answers with something else; check the network and HF_ENDPOINT, .* FROM=")


def test_no_network(hub: Hub) -> None:
    hub.server.shutdown()
    hub.server.server_close()
    refused(f"somebody/small-big: no answer from {hub.url} .ConnectError.; check the network and HF_ENDPOINT .* FROM=")


def test_offline_takes_what_the_cache_has(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("somebody/small-big: HF_HUB_OFFLINE is set, and the cache .* does not hold all of it; unset HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for repository in COMMITS:
        snapshot_download(repository)
    hub.requests.clear()

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    bring(small(), None)
    assert check_bytes(SMALL, "small")["commits"] == COMMITS and not hub.requests
    offline = read_lock()
    shutil.rmtree(SMALL)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # online, the cache is used as well
    bring(small(), None)
    assert read_lock() == offline and not hub.requests


def test_a_damaged_cache_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for repository in COMMITS:
        snapshot_download(repository)
    blob = next(Path(constants.HF_HUB_CACHE).rglob("codec.pt")).resolve()
    blob.write_bytes(b"damaged")
    refused(f"codec.pt: other bytes than the repository says, in the cache; delete {blob} and run make weights again")
    blob.unlink()
    bring(small(), None)
    assert check_bytes(SMALL, "small")


RUN = "from stages.weights.bring import bring; from tests.small_release import small; bring(small(), None)"


def test_a_killed_download_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    """kill -9 in the middle of the third file: the rerun asks for the rest of it and leaves the first two alone."""
    weight = torch.rand(6 * MIB)[:12].view(4, 3)  # with all of its memory, 24 MiB
    torch.save({"encoder": {"weight": weight, "tied": weight}, "decoder": {"layers": [torch.zeros(2)] * 2}}, tmp_path / "codec.pt")
    hub.files[BIG]["codec.pt"] = (tmp_path / "codec.pt").read_bytes()
    command = [sys.executable, "-c", RUN]
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    hub.pause = "codec.pt"
    written = constants.DOWNLOAD_CHUNK_SIZE  # of the half that is sent, 12 MiB, the library has passed on 10
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    unfinished = FOLDER / ".small.partial/unfinished/somebody--small-big--codec.pt"
    until(lambda: unfinished.exists() and unfinished.stat().st_size == written, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not SMALL.exists()
    assert {path.name for path in (FOLDER / ".small.partial/done").iterdir()} == {"config.json", "model.safetensors"}

    hub.pause, asked = None, len(hub.requests)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert hub.requests[asked:] == [("GET", "codec.pt", f"bytes={written}-"), ("GET", "tokeniser.onnx", None), ("GET", "first.pt", None)]
    assert check_bytes(SMALL, "small") and not list(FOLDER.glob(".*"))


def until(holds: object, process: subprocess.Popen[bytes]) -> None:
    for _ in range(6000):
        if holds():  # type: ignore[operator]
            return
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        time.sleep(0.01)
    raise AssertionError("it never came so far")
