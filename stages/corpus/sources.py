"""The sources of a corpus. What stands in the folder decides which kind it is:

- manifest: one `*.jsonl` in the folder, or the `.jsonl` file itself. A row has `audio` (a path beside the manifest, or
  inside a .zip there) and `text`; optional are `id`, `speaker`, `language`, and `exclude`, a reason to leave the clip
  out. Other keys are yours.
- ljspeech: `metadata.csv` in the folder, with `id|text` or `id|text|normalised text` a line, of which the last that is
  filled counts. Audio is `wavs/<id>.wav`.
- folder: any other folder. Audio at any depth, each file with its text beside it: the same name, `.txt` or `.lab`.

The demo, `data/demo/`, is a manifest. Audio is WAV, FLAC, Ogg, Opus, MP3 or raw G.722 (`stages.common.audio`).
Nothing is read but texts; what is wrong is collected, so that one run names every problem.
"""

from __future__ import annotations

import re
import unicodedata
import zipfile
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from models.parts.errors import UserError
from stages.common.audio import SUFFIXES
from stages.common.files import read_jsonl

TEXTS = (".txt", ".lab")


@dataclass(frozen=True)
class Finding:
    """Something said about one clip: an error, a warning, or why it is left out. `source` names the file."""

    source: str
    what: str

    def __str__(self) -> str:
        return f"{self.source}: {self.what}"


@dataclass(frozen=True)
class Utterance:
    """One clip, not read yet. `source` is its name for people, relative to the corpus; `member` its name in a .zip."""

    id: str
    text: str
    speaker: str
    language: str
    source: str
    path: Path
    member: str | None = None

    def read(self) -> bytes:
        """The bytes of the audio file. UserError when they cannot be had."""
        try:
            return self.path.read_bytes() if self.member is None else _archive(self.path).read(self.member)
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self.source}: cannot be read ({reason}); copy it again") from None


@dataclass
class Source:
    """What a corpus is made of: `utterances` in the order of their ids, and what is wrong or left out already."""

    root: Path
    kind: str
    speaker: str
    language: str
    utterances: list[Utterance] = field(default_factory=list)
    errors: list[Finding] = field(default_factory=list)
    left_out: list[Finding] = field(default_factory=list)

    def add(self, audio: str, text: str, **given: str) -> None:
        """Take the clip `audio`, a path relative to the root; `given` may hold id, speaker and language."""
        path, member = _locate(self.root / audio)
        if not (path.is_file() if member is None else member in _members(path)):
            self.errors.append(Finding(audio, "no such file; add the recording, or take its text out of the corpus"))
            return
        name = given.get("id", str(Path(member or audio).with_suffix("")))
        speaker, language = given.get("speaker", self.speaker), given.get("language", self.language)
        self.utterances.append(Utterance(slug(name), tidy(text), speaker, language, audio, path, member))


def tidy(text: str) -> str:
    """Composed characters (NFC), and one space for every run of white space."""
    return re.sub(r"[ \t\r\n\u00a0\u2028\u2029]+", " ", unicodedata.normalize("NFC", text)).strip()


def slug(name: str) -> str:
    """A clip's id, safe as a file name: letters, digits, `_`, `-` and dots of `name`, the rest becomes `_`."""
    return re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name)).strip("._") or "_"


def read_source(root: Path, speaker: str, language: str) -> Source:
    """Every utterance of the corpus at `root`. UserError when it is no corpus at all."""
    if root.is_file() and root.suffix == ".jsonl":
        source = _manifest(root, Source(root.parent, "manifest", speaker, language))
    elif not root.is_dir():
        raise UserError(f"{root}: no such folder; set corpus.source in params.yaml to the folder of your recordings")
    else:
        manifests = sorted(root.glob("*.jsonl"))
        listings = [*manifests, *root.glob("metadata.csv")]
        if len(listings) > 1:
            names = ", ".join(path.name for path in listings)
            raise UserError(f"{root}: holds {names}, several corpora; keep one, or set corpus.source to a .jsonl")
        kind = "manifest" if manifests else "ljspeech" if listings else "folder"
        reader = {"manifest": _manifest, "ljspeech": _ljspeech, "folder": _folder}[kind]
        source = reader(listings[0] if listings else root, Source(root, kind, speaker, language))
    if not (source.utterances or source.errors):
        raise UserError(f"{root}: no recordings here; see stages/corpus/sources.py for the layouts that are read")
    source.utterances.sort(key=lambda utterance: utterance.id)
    for one, other in zip(source.utterances, source.utterances[1:], strict=False):
        if one.id == other.id:
            what = f"gets the id {one.id!r}, as {one.source} does; rename one of them"
            source.errors.append(Finding(other.source, what))
    return source


def _manifest(path: Path, source: Source) -> Source:
    for number, row in enumerate(read_jsonl(path), start=1):
        wrong = _row_problem(row)
        if wrong:
            source.errors.append(Finding(f"{path.name}, row {number}", wrong))
        elif "exclude" in row:
            source.left_out.append(Finding(row["audio"], row["exclude"]))
        else:
            given = {key: row[key] for key in ("id", "speaker", "language") if key in row}
            source.add(row["audio"], row["text"], **given)
    return source


def _row_problem(row: dict[str, Any]) -> str | None:
    for key in ("audio", "text"):
        if key not in row:
            return f'has no "{key}"; each row needs "audio" (a path) and "text"'
    for key in ("audio", "text", "id", "speaker", "language", "exclude"):
        if key in row and not isinstance(row[key], str):
            return f'"{key}" must be text, not {row[key]!r}'
        if key in row and key != "text" and not row[key].strip():
            return f'"{key}" is empty; fill it in, or take it out'
    return None


def _ljspeech(path: Path, source: Source) -> Source:
    on_disk = _names(source.root, SUFFIXES)
    by_id = {Path(name).stem: name for name in reversed(on_disk) if name.startswith("wavs/")}
    listed = set()
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        columns = line.rstrip("\r").split("|")
        if columns == [""]:
            continue
        if len(columns) not in (2, 3) or not columns[0].strip():
            what = "must be `id|text` or `id|text|normalised text`, and nothing else; mend the line"
            source.errors.append(Finding(f"{path.name}, line {number}", what))
            continue
        name = columns[0].strip()
        audio = by_id.get(name, f"wavs/{name}.wav")
        text = next((column for column in reversed(columns[1:]) if column.strip()), "")
        listed.add(audio)
        source.add(audio, text, id=name)
    source.left_out += [Finding(audio, f"not in {path.name}") for audio in on_disk if audio not in listed]
    return source


def _folder(path: Path, source: Source) -> Source:
    audio, texts = _names(path, SUFFIXES), defaultdict(list)
    for name in _names(path, TEXTS):
        texts[Path(name).with_suffix("")].append(name)
    for name in audio:
        beside = texts.pop(Path(name).with_suffix(""), [])
        if len(beside) != 1:
            stem = Path(name).stem
            what = "has two texts, .txt and .lab; keep one" if beside else f"has no text; add {stem}.txt or {stem}.lab"
            source.errors.append(Finding(name, what))
            continue
        try:
            source.add(name, _read_text(path / beside[0]))
        except UserError as error:
            source.errors.append(Finding(name, str(error)))
    for name in sorted(name for names in texts.values() for name in names):
        what = "a text without its recording; add the recording, or move the text out of the corpus"
        source.errors.append(Finding(name, what))
    return source


def _names(root: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Files below `root` with these suffixes, relative. Hidden ones are none of the corpus: macOS leaves `._a.wav`."""
    found = (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start}: not UTF-8 text; save the file as UTF-8") from None


def _locate(path: Path) -> tuple[Path, str | None]:
    """The file that holds `path`, and what it is called in there: `prompts.zip/a/b.wav` is a member of an archive."""
    for parent in path.parents:
        if parent.suffix == ".zip" and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return path, None


@lru_cache
def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise UserError(f"{path}: not a zip archive; copy it again") from None


@lru_cache
def _members(path: Path) -> frozenset[str]:
    return frozenset(_archive(path).namelist())
