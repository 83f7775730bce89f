"""The stores that a team shares: what goes where, and that it comes back."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from stages.common import licences
from tests.conftest import Workspace

ALLOWED, FORBIDDEN = "qwen3_tts", "fish_s2"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an S3 on this machine, with the buckets `private` and `public`."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    for bucket in ("private", "public"):
        client.create_bucket(Bucket=bucket)
    yield client
    server.stop()


def made(workspace: Workspace, family: str) -> dict[str, bytes]:
    """Something in the place of what the stages of `family` make up to its checkpoints. Returns all but what git keeps."""
    data = Path("data") / family
    names = [data / name for name in ("weights.json", "resampled/0.npy", "tokens/0.npy", "checkpoints/epoch-01/adapter.safetensors")]
    files = {str(name): str(name).encode() for name in [*names, Path("reports/curves") / family / "plots/loss.tsv"]}
    for name, content in files.items():
        (workspace.root / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace.root / name).write_bytes(content)
    succeeds(workspace, "dvc", "commit", "--force", *(f"{stage}@{family}" for stage in ("resample", "tokenise", "train")))
    return files


def succeeds(workspace: Workspace, *command: str) -> str:
    done = workspace.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stored(s3: Any, bucket: str) -> set[str]:
    """The hashes of the objects in a bucket; a folder's own, a list of what is in it, ends in .dir."""
    listed = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {"".join(entry["Key"].split("/")[-2:]) for entry in listed}


def hashes(files: dict[str, bytes]) -> set[str]:
    return {hashlib.md5(content).hexdigest() for content in files.values()}


def test_what_a_licence_forbids_never_reaches_the_public_bucket(workspace: Workspace, s3: Any) -> None:
    (workspace.root / "dvc.lock").unlink()  # it names what this copy does not have
    (workspace.root / "data/corpus").mkdir()
    allowed, forbidden = made(workspace, ALLOWED), made(workspace, FORBIDDEN)
    for remote in ("private", "public"):
        succeeds(workspace, "dvc", "remote", "modify", remote, "url", f"s3://{remote}/voice")
        succeeds(workspace, "dvc", "remote", "modify", remote, "endpointurl", s3.meta.endpoint_url)

    succeeds(workspace, "dvc", "push")
    assert hashes(allowed) <= stored(s3, "public") and hashes(forbidden) <= stored(s3, "private")
    assert not hashes(forbidden) & stored(s3, "public")
    before = stored(s3, "public")
    succeeds(workspace, "dvc", "push", "--remote", "public")  # even where somebody asks for it
    assert stored(s3, "public") == before

    for folder in (".dvc/cache", "data/qwen3_tts", "data/fish_s2", "reports/curves"):
        shutil.rmtree(workspace.root / folder)
    succeeds(workspace, "dvc", "pull", "--allow-missing")  # nobody made the other outputs
    for name, content in (allowed | forbidden).items():
        assert (workspace.root / name).read_bytes() == content


def test_every_family_goes_where_its_card_says(workspace: Workspace) -> None:
    """All that its stages leave to DVC. A family without a line in .dvc/config, or with the wrong one, is named."""
    families = licences.families()
    workspace.edit("params.yaml", lambda text: text.replace("models: [", f"models: [{', '.join(families)}] # [", 1))
    found = workspace.run("python", "-c", WHERE)
    assert found.returncode == 0, found.stderr
    lines = [line.split() for line in found.stdout.splitlines()]
    assert {family for family, *_ in lines} == {*families}
    for family, output, remote in lines:
        licence = licences.card(family)["licence"]["weights"]
        meant = "public" if licence["commercial"] and "disputed" not in licence else "private"
        assert remote == meant, f"{output}: goes to the remote {remote}; models/{family}/card.yaml says {meant}: .dvc/config wants [remote {family}]"


# Of every output of a stage of a family: the family, the output, and which of the two stores it goes to.
WHERE = """
from dvc.repo import Repo
with Repo() as repo:
    for stage in repo.index.stages:
        family = stage.cmd.partition("--model ")[2].split(" ")[0]
        for out in stage.outs if family else []:
            remote = repo.config["remote"].get(out.remote or repo.config["core"]["remote"], {})
            if out.use_cache:
                print(family, out.def_path, remote.get("url", "remote://nowhere").removeprefix("remote://"))
"""
