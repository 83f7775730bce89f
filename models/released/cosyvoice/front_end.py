"""What CosyVoice makes of a text before it speaks it (FunAudioLLM/CosyVoice, cosyvoice/cli/frontend.py, `text_normalize`).

It was trained on texts as they are; this is for generation alone. Where `wetext` is installed, it normalises first, as upstream's does.
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import inflect

LONGEST, ENOUGH, SHORT = 80, 60, 20  # tokens (characters in Chinese): of a piece; held before another is begun; of a last piece
STOPS = {"en": ".?!;:", "zh": "。？！；：、.?!;"}
Length = Callable[[str], int]


def pieces(text: str, length: Length) -> list[str]:
    """The pieces in which upstream speaks a text, each with a mark at its end. `length`: tokens of a text."""
    if "<|" in text and "|>" in text:  # written for the model as it is
        return [text]
    text = normalise(text)
    language = "zh" if is_chinese(text) else "en"
    found = merged(sentences(text, STOPS[language], "。" if language == "zh" else "."), len if language == "zh" else length) if text else []
    return [piece for piece in found if any(unicodedata.category(letter)[0] not in "PS" for letter in piece)]


def normalise(text: str) -> str:
    """One text, not cut. In English, digits are spelled; in Chinese, marks are Chinese ones and brackets go."""
    if "<|" in text and "|>" in text:
        return text
    text = text.strip()
    if not is_chinese(text):
        return re.sub(r"\d+", lambda digits: str(_speller().number_to_words(digits[0])), _wetext("en", text))
    text = _unspaced(_wetext("zh", text).replace("\n", ""))
    for written, said in (("²", "平方"), ("³", "立方"), (".", "。"), (" - ", "，")):
        text = text.replace(written, said)
    text = re.sub("[（）【】`]", "", text).replace("——", " ")
    return re.sub("[，,、]+$", "。", text)


def is_chinese(text: str) -> bool:
    return re.search("[\u4e00-\u9fff]", text) is not None


def sentences(text: str, stops: str, last: str) -> list[str]:
    """Cut behind every stop, and behind the quote that closes it. A stop with nothing before it is dropped."""
    text = text if text[-1] in stops else text + last
    found: list[str] = []
    start = 0
    for place, letter in enumerate(text):
        if letter not in stops or place < start:
            continue
        sentence, quote = text[start : place + 1] if place > start else "", text[place + 1 : place + 2]
        if quote and quote in '"”':
            sentence = (sentence or found.pop()) + quote
            place += 1
        found += [sentence] if sentence else []
        start = place + 1
    return found


def merged(parts: list[str], length: Length) -> list[str]:
    """Sentences put together to pieces that are neither long nor short."""
    found: list[str] = []
    held = ""
    for part in parts:
        if length(held + part) > LONGEST and length(held) > ENOUGH:
            found.append(held)
            held = ""
        held += part
    if held and found and length(held) < SHORT:
        found[-1] += held
    elif held:
        found.append(held)
    return found


def _unspaced(text: str) -> str:
    """Without the spaces that do not part two words of ASCII."""
    kept = [
        letter for place, letter in enumerate(text)
        if letter != " " or (0 < place < len(text) - 1 and all(side.isascii() and side != " " for side in (text[place - 1], text[place + 1])))
    ]  # fmt: skip
    return "".join(kept)


@lru_cache(maxsize=1)
def _speller() -> inflect.engine:
    return inflect.engine()


def _wetext(language: str, text: str) -> str:
    normaliser = _normaliser(language)
    return normaliser.normalize(text) if normaliser else text


@lru_cache(maxsize=2)
def _normaliser(language: str) -> Any:
    """Upstream's optional one, with its settings; None where it isn't installed."""
    if importlib.util.find_spec("wetext") is None:
        return None
    made = importlib.import_module("wetext").Normalizer
    return made(remove_erhua=False) if language == "zh" else made()
