"""`make weights`: bring the released weights of a family into data/weights, as files that no stage need be afraid of.

    python -m stages.weights.bring --model NAME [--from FOLDER | --size SIZE --revision COMMIT]

Work is done in `data/weights/.NAME.partial`, which becomes `data/weights/NAME` when every file is whole, is turned into
safetensors, and fits the family's networks; until then an earlier folder stays as it is. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

import models
from models.parts.errors import UserError
from models.parts.family import Family
from stages.common import licences
from stages.common.cli import run
from stages.common.files import publish, read_json, recover, sha256, write_json, write_text
from stages.common.params import read_params
from stages.common.weights import (
    FOLDER,
    KEPT,
    KEPT_TEXT,
    MANIFEST,
    contents,
    digest,
    hashes,
    manifest_of,
    read_lock,
    write_lock,
)  # fmt: skip
from stages.weights import download, release
from stages.weights.convert import check_readable, convert, converted, note_of
from stages.weights.release import Source

# In a half-done folder: what it is made of, what is still being downloaded, and what is done.
MADE_OF, UNFINISHED, DONE = "made_of.json", "unfinished", "done"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.weights.bring", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--from", dest="folder", type=Path, help="a folder that has the release; it stays as it is")
    parser.add_argument("--size", help="where a family comes in several; the card lists them")
    parser.add_argument("--revision", help="branch, tag or commit; else the commit of weights.lock, or the newest")
    options = parser.parse_args(argv)
    if options.folder and (options.size or options.revision):
        raise UserError("FROM= names a folder, SIZE= and REVISION= what to download; take one or the other")
    if options.model not in models.names():
        raise UserError(f"MODEL={options.model}: no such family; there are {', '.join(models.names())}")
    try:
        bring(models.load(options.model), options.folder, options.size, options.revision)
    except KeyboardInterrupt:
        raise UserError(f"stopped; `make weights MODEL={options.model}` goes on where it was") from None
    except OSError as error:
        full = "; free some room and run it again, it goes on where it stopped" if error.errno == errno.ENOSPC else ""
        raise UserError(f"{error.filename or FOLDER / options.model}: {error.strerror or error}{full}") from None


def bring(family: Family, folder: Path | None, size: str | None = None, revision: str | None = None) -> None:
    """Bring in what `folder` has of the family's release, or else what the hub has. UserError, and nothing has changed."""
    name, target = family.name, FOLDER / family.name
    recover(target)
    partial, locked = target.with_name(f".{name}.partial"), read_lock().get(name, {})

    # 1. May these weights be used, and can they be?
    if type(family).check_release is Family.check_release:
        family.check_release(target)  # says that they can't
    tell_licence(family)

    # 2. What the release is made of, and where each file is to be had.
    repositories = release.repositories(name, family.card, size)
    commits: dict[str, str] = {}
    if folder:
        if folder.resolve().is_relative_to(partial.resolve()):
            raise UserError(f"FROM={folder}: where half-done work is; leave FROM= out to go on with it")
        release.check_kind(family.card, folder)
        sources = release.in_folder(repositories, folder, name)
    else:
        sources, commits = download.on_hub(repositories, revision, locked.get("commits", {}))
    release.check_names(sources)

    # 3. Every file that is not there yet: fetched, checked, turned into safetensors.
    start(partial, sources)
    done = partial / DONE
    reuse(target, done, commits)
    check_disk(partial, missing := [source for source in sources if not place(source, done).exists()])
    for source in tqdm(missing, f"{target}", unit="file", leave=False):
        take(source, partial)

    # 4. Together they must be this family's.
    try:
        family.check_release(done)
    except UserError as error:
        shutil.rmtree(partial)
        raise UserError(str(error).replace(str(done), str(folder or repositories[0].id))) from None

    # 5. Say what they are, and put them in place.
    files = {converted(source.name): facts(source, done) for source in sources}
    manifest: dict[str, Any] = {"family": name, "commits": commits, "files": files}
    sha = digest(hashes(manifest))
    if folder and locked.get("sha256") == sha:
        manifest["commits"] = locked["commits"]  # the same bytes, so of the same origin
    write_json(done / MANIFEST, manifest)
    write_text(done / KEPT, KEPT_TEXT)
    publish(done, target)
    shutil.rmtree(partial)
    write_lock(name, manifest["commits"], sha)
    total = sum(file["size"] for file in files.values())
    print(f"{target}: {len(files)} files, {total / 1e9:.2f} GB; weights.lock says which, commit it")


def tell_licence(family: Family) -> None:
    """Show what the weights may be used for; UserError when params.yaml intends what they forbid."""
    licence, intended = family.card["licence"]["weights"], read_params().intended_use
    print(f"{family.card['title']}: {licence['name']}. {licence['says']}")
    licences.check(intended, {family.name: licence})
    print(f"params.yaml: intended_use: {intended}: within the licence, under its terms")


def start(partial: Path, sources: list[Source]) -> None:
    """Go on with a half-done folder if it is made of these very files, else begin a new one."""
    made_of = [source.identity() for source in sources]
    if not (partial / MADE_OF).is_file() or read_json(partial / MADE_OF) != made_of:
        shutil.rmtree(partial, ignore_errors=True)
        write_json(partial / MADE_OF, made_of)


def reuse(target: Path, done: Path, commits: dict[str, str]) -> None:
    """What was brought in from the same commits and still is as it was need not be fetched again."""
    try:
        manifest = manifest_of(target)
    except UserError:
        return
    if not commits or manifest.get("commits") != commits:
        return
    for name in tqdm(contents(target), f"{target}: as it was?", unit="file", leave=False):
        known = manifest["files"].get(name)
        if known and not (done / name).exists() and sha256(target / name) == known["sha256"]:
            link(target / name, done / name)


def check_disk(partial: Path, missing: list[Source]) -> None:
    """UserError unless there is room for what is missing. A pickle and what becomes of it are there together for a while."""
    stays, passing = 0, 0
    for source in missing:
        if source.path is None:
            unfinished = download.unfinished(source, partial / UNFINISHED)
            stays += source.size - (unfinished.stat().st_size if unfinished.exists() else 0)
            passing = max(passing, source.size if is_converted(source) else 0)
        elif is_converted(source) or source.path.stat().st_dev != partial.stat().st_dev:
            stays += source.size
    free = shutil.disk_usage(partial).free
    if stays + passing > free:
        raise UserError(f"{partial.parent}: {(stays + passing) / 1e9:.3f} GB are needed and {free / 1e9:.3f} GB are free; free some room, or make the folder a link to a larger disk")


def is_converted(source: Source) -> bool:
    return converted(source.name) != source.name


def place(source: Source, done: Path) -> Path:
    """Where a file of the release ends up."""
    return done / converted(source.name)


def take(source: Source, partial: Path) -> None:
    """One file of the release, by rename."""
    final = place(source, partial / DONE)
    whole = final.with_name(f".{final.name}.part")
    final.parent.mkdir(parents=True, exist_ok=True)
    path = source.path or download.fetched(source, partial / UNFINISHED)
    download.check_digest(path, source)
    try:
        if is_converted(source):
            convert(path, source.name, whole)
        else:
            link(path, whole)
        check_readable(whole, final.suffix)
    except UserError as error:
        shown = str(source.path or f"{source.repository}/{source.file}")
        whole.unlink(missing_ok=True)
        raise UserError(str(error).replace(str(whole), shown).replace(str(path), shown)) from None
    os.replace(whole, final)
    if source.path is None:
        path.unlink()


def link(path: Path, target: Path) -> None:
    """A hard link, or where that can't be, a copy: `path` is only read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copyfile(path, target)


def facts(source: Source, done: Path) -> dict[str, Any]:
    """What the manifest says of one file."""
    path = place(source, done)
    found: dict[str, Any] = {"sha256": sha256(path), "size": path.stat().st_size, "origin": source.repository or "folder", "commit": source.commit}
    if path.suffix == ".safetensors":
        found |= note_of(path)
    return found


if __name__ == "__main__":
    run(main)
