"""What a release is made of: the files that card.yaml names, and where each of them is to be had."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from models.parts.errors import UserError
from stages.weights.convert import PICKLES, converted


@dataclass(frozen=True)
class Repository:
    """`files`: a name or a pattern there, and the name here (a pattern keeps the names that it finds)."""

    id: str
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Source:
    """One file of a release, `name` here. It is at `path` already, or still in its repository.

    `digest`: what its bytes must give, hex: a SHA-256 (64 digits) or a git blob's id (40); None: nobody says.
    """

    name: str
    size: int
    path: Path | None
    repository: str | None = None
    commit: str | None = None
    file: str = ""  # its name in the repository
    digest: str | None = None

    def identity(self) -> list[Any]:
        """What a half-done folder must have been made of to be gone on with."""
        if self.repository:
            return [self.name, self.repository, self.commit, self.file]
        assert self.path
        return [self.name, str(self.path.absolute()), self.size, self.path.stat().st_mtime_ns]


def repositories(family: str, card: dict[str, Any], size: str | None) -> list[Repository]:
    """The `release:` of a card, in the size that is asked for; None: the first that it lists."""
    found = []
    sizes = [repository["id"] for repository in card["release"]["repositories"] if isinstance(repository["id"], dict)]
    if size and not (sizes and size in sizes[0]):
        there = f"comes as {', '.join(sizes[0])}" if sizes else "comes in one size; leave SIZE= out"
        raise UserError(f"SIZE={size}: {family} {there}")
    for repository in card["release"]["repositories"]:
        id = repository["id"]
        if isinstance(id, dict):
            id = id[size or next(iter(id))]
        files = [[*file.items()][0] if isinstance(file, dict) else (file, file) for file in repository["files"]]
        found.append(Repository(id, tuple(files)))
    return found


def check_kind(card: dict[str, Any], folder: Path) -> None:
    """UserError for a folder that has a file by which it is known to be something else."""
    for file, what in card["release"].get("others", {}).items():
        if (folder / file).exists():
            raise UserError(f"{folder / file}: {what}")


def matching(pattern: str, here: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """Which of `names` a card's entry means, and what they are called here."""
    return [(name, name if here == pattern else here) for name in sorted(names) if fnmatchcase(name, pattern)]


def in_folder(release: list[Repository], folder: Path, family: str) -> list[Source]:
    """The release in a folder of the user's, by the names that the files have here.

    A part that was turned into safetensors already, as in the `data/weights` of another machine, does as well.
    """
    if not folder.is_dir():
        raise UserError(f"FROM={folder}: no such folder")
    sources = []
    for pattern in (here for repository in release for _, here in repository.files):
        paths = sorted(folder.glob(pattern))
        if not paths and Path(pattern).suffix in PICKLES:
            paths = sorted(folder.glob(converted(pattern)))
        paths = [path for path in paths if path.is_file()]
        if not paths:
            raise UserError(f"{folder / pattern}: not there, but a release of {family} has it; download the whole release, or leave FROM= out")
        sources += [Source(path.relative_to(folder).as_posix(), path.stat().st_size, path) for path in paths]
    return sources


def check_names(sources: list[Source]) -> None:
    """UserError when two files of a release would be one here."""
    names: dict[str, Source] = {}
    for source in sources:
        twin = names.setdefault(converted(source.name), source)
        if twin is not source:
            raise UserError(f"{source.name} and {twin.name} would both be {converted(source.name)} here; the release: block of card.yaml must name one of them")
