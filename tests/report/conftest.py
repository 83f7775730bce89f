"""A small project with all of its pages, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.report import fixtures_report as fixtures

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with all of its pages. Shared: tests that change something take `project`."""
    return fixtures.build_pages(tmp_path_factory.mktemp("report") / "a project's", HOSTILE)


@pytest.fixture
def project(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the built project, as the current folder."""
    root = tmp_path / "project"
    shutil.copytree(built, root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def elsewhere(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built project with `acme`, a system from elsewhere, and its pages. Shared."""
    root = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.copytree(built, root)
    fixtures.add_system(root, "acme")
    return root
