"""The sources of a corpus. What stands in the folder decides which kind it is:

- manifest: one `*.jsonl` in the folder, or the `.jsonl` file itself. A row has `audio` (a path beside the manifest, or
  inside a .zip there) and `text`; optional are `id`, `speaker`, `language`, and `exclude`, a reason to leave the clip
  out. Other keys are yours.
- ljspeech: `metadata.csv` in the folder, with `id|text` or `id|text|normalised text` a line, of which the last that is
  filled counts (`stages.corpus.listing`). Audio is `wavs/<id>.wav`, or what the id names.
- folder: any other folder. Audio at any depth, each file with its text beside it: the same name, `.txt` or `.lab`.

Beside a manifest may be codes (`stages.common.codes`): its clips were said by a network.

The demo, `data/demo/`, is a manifest. Audio is what `stages.common.audio` reads. Nothing is read but texts; what is
wrong is collected, so that one run names every problem. What a person sees in a file manager or an editor is what is
read, or one line says why not; and DVC watches all of it, or it is refused.
"""

from __future__ import annotations

import re
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from models.parts.errors import UserError
from stages.common.audio import SUFFIXES
from stages.common.files import read_jsonl
from stages.common.languages import primary
from stages.corpus.listing import doubtful, judge_columns, read_lines
from stages.corpus.names import Names, below
from stages.corpus.texts import shared, structured

TEXTS = (".txt", ".lab")
OTHER_TEXTS = re.compile(r"text|transcri|sentence|utterance|caption|normali[sz]ed", re.I)  # keys that may hold what is said ...
NO_TEXTS = re.compile(r"ref|prompt|instruct|phone|id$|path|file|len|count|lang|type|speaker|context|^text$", re.I)  # ... and do not
OTHER_AUDIOS = ("audio_filepath", "audio_path", "audio_file", "path", "file", "file_name", "filename", "wav", "wav_path")


@dataclass(frozen=True)
class Finding:
    """Something said about one clip: an error, a warning, or why it is left out. `source` names the file.

    Warnings have a kind, a few words, and how bad they are among their kind.
    """

    source: str
    what: str
    kind: str = ""
    weight: float = 0.0

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
    """What a corpus is made of: `utterances` in the order of their ids, and what is wrong or left out already.

    `named`: the ids of clips whose source says who speaks.
    """

    root: Path
    kind: str
    speaker: str
    language: str
    utterances: list[Utterance] = field(default_factory=list)
    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    left_out: list[Finding] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    outside: list[str] = field(default_factory=list)

    @cached_property
    def names(self) -> Names:
        files, links = below(self.root)
        what = "a link to a folder, which DVC does not watch; put the folder itself here, or set corpus.source to where it is"
        self.errors += [Finding(link, what) for link in links if self.kind != "manifest"]
        return Names(files)

    def add(self, audio: str, text: str, **given: str) -> None:
        """Take the clip `audio`, a path relative to the root; `given` may hold id, speaker and language."""
        path, member = self._find(audio)
        if path is None:
            self.errors.append(Finding(audio, self._missing(audio)))
            return
        if self._is_outside(path):
            self.outside.append(audio)
        if structure := structured(text):
            self.errors.append(Finding(audio, f"its text holds {structure}; write what is said, as prose"))
        name = slug(given.get("id", str(Path(member or audio.replace("\\", "/")).with_suffix(""))))
        speaker, language = given.get("speaker", self.speaker), given.get("language", self.language)
        self.utterances.append(Utterance(name, tidy(text), speaker, language, audio, path, member))
        if "speaker" in given:
            self.named.add(name)

    def _find(self, audio: str) -> tuple[Path | None, str | None]:
        """The file of `audio` and its name in there, if it is an archive; None where there is none that looks like it."""
        path, member = _locate(self.root / audio)
        if member is not None:
            inside = _members(path).find(member)
            return (path, inside) if inside else (None, None)
        if path.is_file():
            return path, None
        seen = self.names.find(audio)
        return (self.root / seen if seen and (self.root / seen).is_file() else None), None

    def _missing(self, audio: str) -> str:
        path, member = _locate(self.root / audio)
        if member is None and path.is_symlink():
            return f"a link to {path.readlink()}, which is not there; copy the recording itself here"
        near = (_members(path) if member is not None else self.names).instead(member or audio)
        return "no such file" + (near or "; add the recording, or take its text out of the corpus")

    def _is_outside(self, path: Path) -> bool:
        """Whether DVC would not see this file change: it looks into the folder and at linked files, not into linked folders."""
        folder, root = _resolved(path.parent), _resolved(self.root)
        return folder != root and root not in folder.parents


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
        what = f"DVC watches {root.name} alone, and does not notice when a recording changes; set corpus.source to its folder"
        source.warnings.append(Finding("the corpus", what))
    elif not root.is_dir():
        raise UserError(f"{root}: no such folder; set corpus.source in params.yaml to the folder of your recordings")
    else:
        manifests = sorted(root.glob("*.jsonl"))
        listings = [*manifests, *(path for path in root.iterdir() if path.name.lower() == "metadata.csv")]
        if len(listings) > 1:
            names = ", ".join(path.name for path in listings)
            raise UserError(f"{root}: holds {names}, several corpora; keep one, or set corpus.source to a .jsonl")
        kind = "manifest" if manifests else "ljspeech" if listings else "folder"
        reader = {"manifest": _manifest, "ljspeech": _ljspeech, "folder": _folder}[kind]
        source = reader(listings[0] if listings else root, Source(root, kind, speaker, language))
    if not (source.utterances or source.errors):
        raise UserError(f"{root}: no recordings here; see stages/corpus/sources.py for the layouts that are read")
    if source.outside:
        others = f" and {len(source.outside) - 1} more lie" if len(source.outside) > 1 else " lies"
        what = f"{source.outside[0]}{others} outside of it, where DVC does not watch them; copy or `dvc import-url` them into the folder"
        source.errors.append(Finding(str(source.root), what))
    source.utterances.sort(key=lambda utterance: utterance.id)
    for one, other in zip(source.utterances, source.utterances[1:], strict=False):
        if one.id == other.id:
            what = f"gets the id {one.id!r}, as {one.source} does; rename one of them"
            source.errors.append(Finding(other.source, what))
    return source


def _manifest(path: Path, source: Source) -> Source:
    rows = read_jsonl(path)
    for number, row in enumerate(rows, start=1):
        wrong = _row_problem(row)
        if wrong:
            source.errors.append(Finding(f"{path.name}, row {number}", wrong))
        elif "exclude" in row:
            source.left_out.append(Finding(row["audio"], row["exclude"]))
        else:
            given = {key: row[key] for key in ("id", "speaker", "language") if key in row}
            source.add(row["audio"], row["text"], **given)
    for key in sorted({key for row in rows for key in row if _may_be_text(key)}):
        _compare_texts(path.name, key, [(number, row) for number, row in enumerate(rows, 1) if isinstance(row.get(key), str) and not _row_problem(row)], source)
    return source


def _row_problem(row: dict[str, Any]) -> str | None:
    for key, others in (("audio", OTHER_AUDIOS), ("text", tuple(filter(_may_be_text, row)))):
        if key not in row:
            there = next((f'; it has "{other}": call that "{key}", if it is' for other in others if other in row), "")
            return f'has no "{key}"; each row needs "audio" (a path) and "text"{there}'
    for key in ("audio", "text", "id", "speaker", "language", "exclude"):
        if key in row and not isinstance(row[key], str):
            return f'"{key}" must be text, not {row[key]!r}'
        if key in row and key != "text" and not row[key].strip():
            return f'"{key}" is empty; fill it in, or take it out'
    return None


def _may_be_text(key: str) -> bool:
    return OTHER_TEXTS.search(key) is not None and NO_TEXTS.search(key) is None


def _compare_texts(name: str, key: str, rows: Sequence[tuple[int, dict[str, Any]]], source: Source) -> None:
    """Two keys that may be the text: an error where they are two texts, a warning where they are two spellings of one."""
    differ = [(number, row) for number, row in rows if tidy(row[key]) != tidy(row["text"])]
    if not differ:
        return
    counts = [shared(row["text"], row[key]) for _, row in differ]
    common, total = (sum(column) for column in zip(*counts, strict=True))
    number, row = next((pair for pair, (mine, all_of_it) in zip(differ, counts, strict=True) if 2 * mine < all_of_it), differ[0])
    both = f'"text" ({_short(row["text"])}) and "{key}" ({_short(row[key])})'
    if 2 * common < total:
        source.errors.append(Finding(f"{name}, row {number}", f'{both} hold other words; call what is said "text", and take the other key out'))
    else:
        source.warnings.append(Finding(f"{name}, row {number}", f'{both} differ, in {len(differ)} rows; "text" is read', "two texts"))


def _ljspeech(path: Path, source: Source) -> Source:
    lines = read_lines(_read_text(path), str(path))
    listed = set()
    for line in lines:
        name = line.columns[0].strip()
        if len(line.columns) not in (2, 3) or not name:
            what = "must be `id|text` or `id|text|normalised text`, and nothing else; mend the line"
            source.errors.append(Finding(f"{path.name}, line {line.number}", what))
            continue
        audio, several = _recording(name, source)
        listed.add(audio)
        if several:
            source.errors.append(Finding(f"{path.name}, line {line.number}", f"{name!r} may be {' or '.join(several)}; keep one of them, or write its whole name"))
            continue
        suffix = PurePosixPath(name.replace("\\", "/"))
        stem = suffix.with_suffix("") if suffix.suffix.lower() in SUFFIXES else suffix
        source.add(audio, line.text, id=str(stem).removeprefix("wavs/"))
    for judged, kept in ((judge_columns(lines, source.language), source.errors), (doubtful(lines), source.warnings)):
        kept += [Finding(f"{path.name}, line {number}", what, "columns that differ") for number, what in judged]
    source.left_out += [Finding(audio, f"not in {path.name}") for audio in _audio(source) if audio not in listed]
    return source


def _recording(name: str, source: Source) -> tuple[str, list[str]]:
    """What the first column names: a file in `wavs/` or here, with or without its extension; and all if it may be several."""
    for place in (f"wavs/{name}", name):
        whole = source.names.find(place) if PurePosixPath(place).suffix.lower() in SUFFIXES else None
        found = [whole] if whole else [other for other in source.names.beside(place) if other.lower().endswith(SUFFIXES)]
        if found:
            return found[0], found if len(found) > 1 else []
    deeper = [audio for audio in _audio(source) if PurePosixPath(audio).stem == name and audio.startswith("wavs/")]
    return (deeper[0], []) if len(deeper) == 1 else (name if PurePosixPath(name).suffix.lower() in SUFFIXES else f"wavs/{name}.wav", deeper)


def _folder(path: Path, source: Source) -> Source:
    files = source.names
    texts = {name for name in files.all if name.lower().endswith(TEXTS)}
    for name in _audio(source):
        beside = [text for text in files.beside(str(PurePosixPath(name).with_suffix(""))) if text in texts]
        if len(beside) != 1:
            stem = PurePosixPath(name).stem
            near = [text for text in sorted(texts) if PurePosixPath(text).name.lower().startswith(f"{stem.lower()}.")]
            there = f" ({', '.join(near[:3])}: not the same name)" if near else ""
            what = "has two texts, .txt and .lab; keep one" if beside else f"has no text; add {stem}.txt or {stem}.lab{there}"
            source.errors.append(Finding(name, what))
            texts -= set(beside)
            continue
        texts -= set(beside)
        try:
            source.add(name, _read_text(path / beside[0]), **_speaker_of(name, source))
        except UserError as error:
            source.errors.append(Finding(name, str(error)))
    for name in sorted(texts):
        near = [other for other in files.beside(str(PurePosixPath(name).with_suffix(""))) if other not in (name, *texts)]
        there = f"; {near[0]} is there, of a kind that is not read: export it as WAV or FLAC" if near else ""
        what = "a text without its recording; add the recording, or move the text out of the corpus" + there
        source.errors.append(Finding(name, what))
    folders = sorted({utterance.source.split("/")[0] for utterance in source.utterances if "/" in utterance.source})
    if len(folders) > 1 and not source.named:
        shown = ", ".join(folders[:6]) + (", ..." if len(folders) > 6 else "")
        what = f"lies in {len(folders)} folders ({shown}), all taken for recordings of {source.speaker!r}; if they are people, set corpus.speaker to the name of one"
        source.warnings.append(Finding("the corpus", what))
    return source


def _speaker_of(name: str, source: Source) -> dict[str, str]:
    """Folders name the speakers when one of them is called like corpus.speaker."""
    folder = name.split("/")[0] if "/" in name else ""
    return {"speaker": folder} if folder and (source.root / source.speaker).is_dir() else {}


def _audio(source: Source) -> list[str]:
    return [name for name in source.names.all if name.lower().endswith(SUFFIXES)]


def select(source: Source, speaker: str, language: str) -> dict[str, list[str]]:
    """Keep the clips of this speaker and language. Returns the sources of the others, by "speaker x" or "language y".

    Where the source says of none who speaks, all are taken for `speaker`.
    """
    others: dict[str, list[str]] = {}
    for kind, wanted, value in (("speaker", speaker, lambda u: u.speaker), ("language", language, lambda u: primary(u.language))):
        kept = [one for one in source.utterances if value(one) == wanted]
        if source.utterances and not kept:
            there = Counter(value(one) for one in source.utterances).most_common(8)
            names = ", ".join(f"{name} ({count} clips)" for name, count in there)
            source.errors.append(Finding("the corpus", f"has no clip of {kind} {wanted!r}; it has {names}: set corpus.{kind} to one of them"))
            continue
        for one in source.utterances:
            if value(one) != wanted:
                others.setdefault(f"{kind} {value(one)}", []).append(one.source)
        source.utterances = kept
    unnamed = [one for one in source.utterances if one.id not in source.named]
    if source.named and unnamed:
        what = f"has {len(unnamed)} clips of which it does not say who speaks, like {unnamed[0].source}; they are taken for {speaker!r}"
        source.warnings.append(Finding("the corpus", what))
    return others


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
def _resolved(folder: Path) -> Path:
    return folder.resolve()


@lru_cache
def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise UserError(f"{path}: not a zip archive; copy it again") from None


@lru_cache
def _members(path: Path) -> Names:
    return Names(_archive(path).namelist())


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
