"""What IndexTTS2 makes of a text before its network reads it: words for numbers, a few marks, capitals, pieces
(index-tts/index-tts, indextts/utils/front.py).

Training and generation both read it. The grammars are WeTextProcessing's, as upstream runs them on Linux; kaldifst runs them
here, since their own runtime takes 700 MB.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import kaldifst
from sentencepiece import SentencePieceProcessor
from tn.token_parser import TokenParser

from models.parts.errors import UserError

# The first that fits at a place is taken, as upstream's expression is written.
MARKS = {
    **dict.fromkeys("：；;，", ","), "。": ".", "！": "!", "？": "?", "\n": " ", "·": "-", "、": ",", "...": "…", ",,,": "…", "……": "…",
    **dict.fromkeys("“”\"‘’（）()《》【】[]「」", "'"), **dict.fromkeys("—～~", "-"), ":": ",",
}  # fmt: skip
MARK = re.compile("|".join(map(re.escape, MARKS)))
IS = re.compile(r"(what|where|who|which|how|t?here|it|s?he|that|this)'s", re.IGNORECASE)
CHINESE = re.compile("[\u4e00-\u9fff]")
EMAIL = re.compile(r"[a-zA-Z0-9]+@[a-zA-Z0-9]+\.[a-zA-Z]+")
HYPHENED = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)+")
HYPHEN = re.compile(r"\s*<H>\s*")
NAME = re.compile("[\u4e00-\u9fff]+(?:[-·—][\u4e00-\u9fff]+){1,2}")  # a foreign one, written in Chinese
PINYIN = re.compile(
    r"(?<![a-z])(?:(?:[bpmfdtnlgkhjqxzcsryw]|[zcs]h)?(?:[aeiouüv]|[ae]i|u[aio]|ao|ou|i[aue]|[uüv]e|[uvü]ang?|uai|[aeiuv]n|[aeio]ng|ia[no]|i[ao]ng)|ng|er)[1-5]",
    re.IGNORECASE,
)
# The packaged grammar drops interjections and the ending -er, upstream's doesn't: they pass it by under other names.
KEPT = {"呃": "<E>", "啊": "<A>", "儿": "<R>"}
APART = re.compile("([\u1100-\u11ff\u2e80-\ua4cf\ua840-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff65-\uffdc\U00020000-\U0002ffff])")
MOST_UNKNOWN = 0.3  # of a text's pieces: between two that are not known there is a known space


class Pieces:
    """The pieces of `bpe.model`. UserError for a file that is none."""

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise UserError(f"{path}: not there; copy or download the whole release")
        try:
            self.model = SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{path}: not a SentencePiece model ({type(error).__name__}); take the file as it was released") from None

    @property
    def count(self) -> int:
        return int(self.model.get_piece_size())

    def ids(self, text: str) -> list[int]:
        """Ids without start and stop. UserError for a text that is empty, or that is not in English or Chinese."""
        ids: list[int] = self.model.encode(capitals(normalise(text))) if text.strip() else []
        if not ids:
            raise UserError(f"text {text!r}: nothing to say; leave it out, or write it in words")
        unknown = ids.count(self.model.unk_id())
        if unknown > MOST_UNKNOWN * len(ids):
            raise UserError(f"text {text[:40]!r}: {unknown} of its {len(ids)} pieces are not in {self.path}, which has English and Chinese; take another family for this language")
        return ids


def capitals(text: str) -> str:
    """`bpe.model` has no small letters, and Chinese characters stand alone."""
    return " ".join(part.strip().upper() for part in APART.split(text.strip()) if part.strip())


@lru_cache(maxsize=65536)  # training reads the texts of a set again in every epoch
def normalise(text: str) -> str:
    """Numbers, dates and money in words, marks as the network knows them. Letters stay as they are."""
    chinese = is_chinese(text)
    text = IS.sub(r"\1 is", text)
    text = HYPHENED.sub(lambda found: found[0].replace("-", "<H>"), text.rstrip() if chinese else text)
    if not chinese:
        return MARK.sub(lambda found: MARKS[found[0]], HYPHEN.sub("-", in_words("en", text)))
    held: list[str] = []

    def hold(kept: str) -> str:
        held.append(kept)
        return f"<K{_letters(len(held) - 1)}>"

    text = PINYIN.sub(lambda found: hold(_pinyin(found[0])), text)
    text = NAME.sub(lambda found: hold(found[0]), text)
    for written, other in KEPT.items():
        text = text.replace(written, other)
    text = in_words("zh", text)
    for written, other in KEPT.items():
        text = text.replace(other, written)
    for place, kept in enumerate(held):
        text = text.replace(f"<K{_letters(place)}>", kept)
    return MARK.sub(lambda found: MARKS[found[0]], HYPHEN.sub("-", text).replace("$", "."))


def is_chinese(text: str) -> bool:
    """Upstream reads a text without a letter, an address of e-mail and pinyin in Chinese too."""
    letters = re.search("[a-zA-Z]", text)
    return bool(CHINESE.search(text) or not letters or EMAIL.fullmatch(text) or PINYIN.search(text))


def in_words(language: str, text: str) -> str:
    """A text that a grammar can't read stays as it is."""
    tag, say, order = _grammar(language)
    tagged = _best(text, tag)
    return (_best(TokenParser(order).reorder(tagged), say) if tagged else None) or text


@lru_cache(maxsize=2)
def _grammar(language: str) -> tuple[Any, Any, str]:
    """Two graphs: what the parts of a text are, and how parts are said; and the name of the order in which parts are put."""
    graphs = [kaldifst.StdVectorFst.read(str(files("tn").joinpath(f"{language}_tn_{kind}.fst"))) for kind in ("tagger", "verbalizer")]
    for graph in graphs:
        kaldifst.arcsort(graph, "ilabel")
    return graphs[0], graphs[1], "en_tn" if language == "en" else "tn"


def _best(text: str, graph: Any) -> str | None:
    """What the cheapest path through `graph` writes; None where there is none."""
    letters = text.encode()
    lines = [f"{place} {place + 1} {letter}" for place, letter in enumerate(letters)]
    read = kaldifst.compile("\n".join([*lines, str(len(letters))]), acceptor=True)
    found, _, written, _ = kaldifst.get_linear_symbol_sequence(kaldifst.shortest_path(kaldifst.compose(read, graph), 1))
    return bytes(written).decode() if found and written else None


def _pinyin(syllable: str) -> str:
    """As `bpe.model` has it: JU1 is JV1."""
    return re.sub(r"^([JQX])[UÜ](N|E|AN)*(\d)", r"\1V\2\3", syllable.upper())


def _letters(number: int) -> str:
    """a, b, …, z, aa, …: digits would be read out."""
    return (_letters(number // 26 - 1) if number > 25 else "") + chr(ord("a") + number % 26)
