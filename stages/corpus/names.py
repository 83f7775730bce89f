"""Files as a person finds them: by what a file manager shows, which is not always how the disk spells it."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath


class Names:
    """Names below a folder (or in an archive), relative, with `/`, sorted."""

    def __init__(self, names: Iterable[str]):
        self.all = sorted(names)
        self._exact = frozenset(self.all)

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        return _by(self.all, _seen)

    @cached_property
    def _near(self) -> dict[str, list[str]]:
        return _by(self.all, lambda name: _folded(PurePosixPath(name).stem))

    def find(self, asked: str) -> str | None:
        """The file that looks like `asked`: é composed or not, the extension in capitals, `\\` for `/`. None unless it is one."""
        for name in (asked, asked.replace("\\", "/")):
            if name in self._exact:
                return name
            if len(found := self._alike.get(_seen(name), [])) == 1:
                return found[0]
        return None

    def beside(self, stem: str) -> list[str]:
        """Files that `stem` with any extension names, as a person sees them."""
        return [name for name in self._near.get(_folded(PurePosixPath(stem).name), []) if _seen(str(PurePosixPath(name).with_suffix(""))) == _seen(stem)]

    def instead(self, asked: str) -> str:
        """What a person may have meant, as the end of a sentence; empty where nothing is like it."""
        path = PurePosixPath(asked.replace("\\", "/"))
        near = [name for stem in {path.stem, path.name} for name in self._near.get(_folded(stem), [])] or [
            name for name in self.all if PurePosixPath(name).name.startswith(f"{path.stem}.")
        ]
        if not near:
            return ""
        return f"; {' and '.join(near[:3])} {'is' if len(near) == 1 else 'are'} there: name the file exactly as it is"


def _by(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[key(name)].append(name)
    return found


def _seen(name: str) -> str:
    path = PurePosixPath(os.path.normpath(unicodedata.normalize("NFC", name)))
    return str(path.with_suffix(path.suffix.lower())) if path.name else str(path)


def _folded(stem: str) -> str:
    return unicodedata.normalize("NFKC", stem).casefold().replace(" ", "_")


def below(root: Path) -> tuple[list[str], list[str]]:
    """Files below `root`, and folders that are links, which neither this nor DVC follows. Hidden ones are none of a
    corpus: macOS leaves `._a.wav`.
    """
    files, links = [], []
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        here = Path(folder).relative_to(root)
        links += [(here / name).as_posix() for name in inner if (Path(folder) / name).is_symlink()]
        files += [(here / name).as_posix() for name in names if not name.startswith(".")]
    return files, links
