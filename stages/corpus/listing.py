"""metadata.csv of an LJSpeech folder: rows as an editor or a spreadsheet shows them, and which column is the text.

`id|text` or `id|text|normalised text`. What is no normalised form of the text is never taken for it: then the stage
says what column 3 looks like, and stops.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from models.parts.errors import UserError
from stages.corpus.texts import few_different, identifier, looks_like, numbers_alone, phonemes, plain_words, shared

# A quoted field holds doubled quotes, and either separators or line breaks: prose between two quotes holds neither.
FIELD = re.compile(r'"(?P<quoted>(?:[^"\n]|"")*|(?:[^"|]|"")*)"(?=[|\n]|\Z)|(?P<bare>[^|\n]*)')
HEADER_IDS = ("id", "file", "file_name", "filename", "file_id", "path", "audio", "audio_file", "wav", "wav_file", "clip", "name", "utt", "utt_id", "utterance_id")
HEADER_TEXTS = ("text", "transcript", "transcription", "sentence", "raw_text", "raw_transcription", "utterance", "label")
ALIKE = 0.5  # share of a text's words that its normalised form has too, over all lines
UNLIKE = 1 / 3  # of one line
WAY_OUT = "a third column must be the text in normalised form; take it out of the file, or write a manifest, whose other keys are yours"


@dataclass(frozen=True)
class Line:
    number: int
    columns: list[str]

    @property
    def text(self) -> str:
        """The last column that is filled."""
        return next((column for column in reversed(self.columns[1:]) if column.strip()), "")


def read_lines(content: str, name: str) -> list[Line]:
    """The lines of a metadata.csv that are not empty; its header is none. UserError where no line has two columns."""
    content = re.sub(r"\r\n?", "\n", content)
    lines = [Line(number, columns) for number, columns in _fields(content) if columns != [""]]
    if lines and not any(len(line.columns) > 1 for line in lines):
        separator = next((name for mark, name in (("\t", "tabs"), (";", "semicolons"), (",", "commas")) if mark in content), None)
        is_so = f"its columns are separated by {separator}" if separator else "no line has two columns"
        raise UserError(f"{name}: line {lines[0].number}: {is_so}, where LJSpeech has `id|text` or `id|text|normalised text`; write it so, or a manifest")
    if lines and len(head := [column.strip().lower() for column in lines[0].columns]) > 1 and head[0] in HEADER_IDS and head[1] in HEADER_TEXTS:
        del lines[0]
    return lines


def _fields(content: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and columns. Quotes are CSV's where a program that writes CSV has left its marks, else the text's own."""
    parsed = list(_parsed(content))
    quoted = [field for _, fields in parsed for field in fields if field.isquoted]
    literal = any('"' in field.text for _, fields in parsed for field in fields if not field.isquoted)
    marked = any('""' in field.text or "|" in field.text or "\n" in field.text for field in quoted)
    every = all(len(fields) < 2 or fields[1].isquoted for _, fields in parsed if fields[0].text or len(fields) > 1)
    if quoted and (every or marked and not literal):
        for number, fields in parsed:
            yield number, [field.text.replace('""', '"') if field.isquoted else field.text for field in fields]
        return
    for number, line in enumerate(content.split("\n"), start=1):
        yield number, [column[1:-1].replace('""', '"') if re.fullmatch(r'"(?:[^"]|"")*""(?:[^"]|"")*"', column) else column for column in line.split("|")]


@dataclass(frozen=True)
class _Field:
    text: str
    isquoted: bool


def _parsed(content: str) -> Iterator[tuple[int, list[_Field]]]:
    at, number, started, fields = 0, 1, 1, list[_Field]()
    while True:
        match = FIELD.match(content, at)
        assert match is not None  # a bare field may be empty
        quoted = match["quoted"] is not None
        fields.append(_Field(match["quoted"] if quoted else match["bare"], quoted))
        number += match[0].count("\n")
        at = match.end() + 1
        if match.end() == len(content) or content[match.end()] == "\n":
            yield started, fields
            number, fields = number + 1, []
            started = number
        if match.end() == len(content):
            return


def judge_columns(lines: Sequence[Line], language: str) -> Iterator[tuple[int, str]]:
    """(line, what is wrong): where the column that would be read is no text, or is another than column 2."""
    three = [line for line in lines if len(line.columns) == 3 and line.columns[2].strip()]
    if not three:
        return
    second, third = [line.columns[1] for line in three], [line.columns[2] for line in three]
    counts = [shared(text, other) for text, other in zip(second, third, strict=True)]
    common, total = map(sum, zip(*counts, strict=True))
    kind, first = looks_like(third, language), three[0].number
    if kind and not all(text.strip() == other.strip() for text, other in zip(second, third, strict=True)):
        yield first, f"column 3 looks like no text: {kind}; {WAY_OUT}"
    elif kind := looks_like(second, language) if any(plain_words(text) for text in third) else None:
        if kind.startswith("numbers") and total == 0 and len(set(second)) > len(second) / 2:
            return  # numbers, and how they are read
        yield first, f"column 2 looks like no text: {kind}; the columns are `id|text|normalised text`: give it that order, or write a manifest"
    elif common < ALIKE * total and (labels := few_different([text.strip() for text in second])):
        yield first, f"column 2 looks like labels ({labels}); the columns are `id|text|normalised text`: give it that order, or write a manifest"
    elif common < ALIKE * total and (labels := few_different([text.strip() for text in third])):
        yield first, f"column 3 looks like labels ({labels}); {WAY_OUT}"
    elif common < ALIKE * total:
        lost = next(line for line, (mine, all_of_it) in zip(three, counts, strict=True) if mine < ALIKE * all_of_it)
        yield lost.number, f"column 3 ({_short(lost.columns[2])}) has {100 * common / total:.0f} % of the words of column 2 ({_short(lost.columns[1])}); {WAY_OUT}"
    else:
        for line, (mine, all_of_it) in zip(three, counts, strict=True):
            text, other = line.columns[1], line.columns[2]
            no_text = numbers_alone(other) or identifier(other.strip()) or phonemes(other, language)
            if all_of_it > 2 and mine < UNLIKE * all_of_it or all_of_it and mine == 0 and no_text:
                yield line.number, f"column 3 ({_short(other)}) is no normalised form of column 2 ({_short(text)}); mend the line, or leave column 3 of it empty"


def doubtful(lines: Sequence[Line]) -> Iterator[tuple[int, str]]:
    """(line, what to look at): one or two words, of which column 3 has none."""
    for line in lines:
        if len(line.columns) == 3 and line.columns[2].strip():
            mine, all_of_it = shared(line.columns[1], line.columns[2])
            if 0 < all_of_it < 3 and mine == 0:
                yield line.number, f"column 3 ({_short(line.columns[2])}) is read, which has no word of column 2 ({_short(line.columns[1])})"


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
