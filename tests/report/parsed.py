"""Pages as a reader sees them."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.report import fixtures_report as fixtures


class Parsed(HTMLParser):
    """The tags with their attributes, and the text that a reader sees."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def words(self) -> str:
        """The text on one line, with a space wherever a tag stands."""
        return " ".join(" ".join(self.pieces).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(root: Path, family: str = "") -> Parsed:
    path = f"reports/families/{family}/index.html" if family else "reports/index.html"
    return Parsed((root / path).read_text())


def summary(root: Path, family: str) -> dict[str, Any]:
    return fixtures.read(root / f"reports/families/{family}/summary.json")


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    value = fixtures.read(path)
    edit(value)
    fixtures.write(path, value)
