"""Releases from the hub, by its own library: HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they always mean.

What the library's cache has is taken from there. The rest is fetched to a place of ours and goes on after a break where
it stopped, which huggingface_hub 2.4.0 itself no longer does (`_download_to_tmp_and_move` names its files at random).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import (
    HfApi,
    constants,
    errors,
    hf_hub_url,
    is_offline_mode,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from models.parts.errors import UserError
from stages.common.files import sha256
from stages.weights.release import Repository, Source, matching

SECONDS = 30  # for the hub to say what it has


def on_hub(release: list[Repository], revision: str | None, known: Mapping[str, str]) -> tuple[list[Source], dict[str, str]]:
    """The files of a release and the commits that they are of.

    `revision` is one of the first repository; else the commits of `known` are taken, and the newest where it has none.
    """
    sources, commits = [], {}
    for place, repository in enumerate(release):
        wanted = (revision if place == 0 else None) or known.get(repository.id)
        with _explained(repository.id, wanted):
            listed = (_cached if is_offline_mode() else _listed)(repository, wanted)
        for theirs, _ in repository.files:
            if not any(matching(theirs, "", (source.file for source in listed))):
                raise UserError(f"{repository.id}: has no {theirs} at {listed[0].commit if listed else wanted}; REVISION= takes another commit")
        sources += listed
        commits[repository.id] = str(listed[0].commit)
    return sources, commits


def _listed(repository: Repository, revision: str | None) -> list[Source]:
    info = HfApi().model_info(repository.id, revision=revision, files_metadata=True, timeout=SECONDS)
    commit, siblings = str(info.sha), {sibling.rfilename: sibling for sibling in info.siblings or []}
    sources = []
    for theirs, here in _chosen(repository, siblings):
        sibling = siblings[theirs]
        cached = try_to_load_from_cache(repository.id, theirs, revision=commit)
        sources.append(Source(
            here, sibling.size or 0, Path(cached).resolve() if isinstance(cached, str) else None, repository.id, commit,
            theirs, sibling.lfs.sha256 if sibling.lfs else sibling.blob_id,
        ))  # fmt: skip
    return sources


def _cached(repository: Repository, revision: str | None) -> list[Source]:
    """The same from the cache alone, where a file is called by what its bytes must give."""
    patterns = [theirs for theirs, _ in repository.files]
    folder = Path(snapshot_download(repository.id, revision=revision, allow_patterns=patterns, local_files_only=True))
    names = {path.relative_to(folder).as_posix(): path.resolve() for path in folder.rglob("*") if path.is_file()}
    return [
        Source(here, names[theirs].stat().st_size, names[theirs], repository.id, folder.name, theirs, _hex(names[theirs].name))
        for theirs, here in _chosen(repository, names)
    ]


def _chosen(repository: Repository, names: Mapping[str, object]) -> list[tuple[str, str]]:
    return [pair for theirs, here in repository.files for pair in matching(theirs, here, names)]


def _hex(name: str) -> str | None:
    return name if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) else None


def fetched(source: Source, folder: Path) -> Path:
    """The file of `source` in `folder`, which holds what an earlier, interrupted run left of it."""
    path = unfinished(source, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    have = path.stat().st_size if path.exists() else 0
    if have > source.size:
        path.unlink()
        have = 0
    url = hf_hub_url(str(source.repository), source.file, revision=source.commit)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}  # compressed text could not be gone on with
    with _explained(str(source.repository), source.commit), path.open("ab") as file:
        http_get(url, file, resume_size=have, headers=headers, expected_size=source.size, displayed_filename=source.name)
    return path


def unfinished(source: Source, folder: Path) -> Path:
    return folder / f"{source.repository}/{source.file}".replace("/", "--")


def check_digest(path: Path, source: Source) -> None:
    """UserError when a file is not what its repository says. It is deleted where it is no one's but ours."""
    if source.digest is None:
        return
    if len(source.digest) == 64:
        found = sha256(path)
    else:
        found = hashlib.sha1(b"blob %d\0" % path.stat().st_size + path.read_bytes()).hexdigest()
    if found == source.digest:
        return
    wrong = f"{source.repository}/{source.file}: other bytes than the repository says"
    if source.path:
        raise UserError(f"{wrong}, in the cache; delete {source.path} and run make weights again")
    path.unlink()
    raise UserError(f"{wrong}; run make weights again, it will be fetched anew")


@contextmanager
def _explained(id: str, revision: str | None) -> Iterator[None]:
    """What the library says in many lines, in one."""
    at = f"{id}, revision {revision}" if revision else id
    instead = "or name a folder that has the release: FROM=/path/to/it"
    try:
        yield
    except errors.LocalEntryNotFoundError:
        raise UserError(f"{at}: HF_HUB_OFFLINE is set, and the cache ({constants.HF_HUB_CACHE}) does not hold all of it; unset HF_HUB_OFFLINE, {instead}") from None
    except errors.GatedRepoError:
        raise UserError(f"{id}: gated; accept its terms on its page and set HF_TOKEN to a token of that account, {instead}") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{id}: has no revision {revision}; REVISION= takes a branch, a tag or a commit") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{id}: no such repository, or a private one; set HF_TOKEN to a token that may read it, {instead}") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        token = "HF_TOKEN is not valid or may not read it; set one that is" if status in (401, 403) else "try again later"
        raise UserError(f"{at}: {constants.ENDPOINT} answers {status}; {token}, {instead}") from None
    except httpx2.HTTPError as error:
        raise UserError(f"{at}: no answer from {constants.ENDPOINT} ({type(error).__name__}); check the network and HF_ENDPOINT and run it again, it goes on where it stopped, {instead}") from None
    except errors.HFValidationError:
        raise UserError(f"REVISION={revision}: not a branch, a tag or a commit") from None
    except ValueError:  # not JSON: a page to log in to the network, say
        raise UserError(f"{at}: {constants.ENDPOINT} answers with something else; check the network and HF_ENDPOINT, {instead}") from None
