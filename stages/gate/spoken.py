"""Written text as spoken words, so that a text and a transcript can be compared by what is said.

A text becomes tokens, and each token its possible readings: "10" is "ten" but also "one zero", "#" is "pound" but also
"hash". Rules add readings of several tokens at once: "May 21", "$2 billion". Which of them was spoken is settled when
text and transcript are aligned (words.py).
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from anyascii import anyascii

from stages.gate import english, numbers
from stages.gate.english import Reading
from stages.gate.numbers import unique
from stages.gate.sound import DICTIONARY

Alternative = tuple[int, Reading]  # the token after the last that is read, and the words
Aliases = tuple[tuple[Reading, Reading], ...]  # pairs of phrases that are one (aliases.py)

MARKS = str.maketrans({
    **dict.fromkeys("’‘ʼ′＇`ʹ", "'"), **dict.fromkeys("“”″", '"'), **dict.fromkeys("‑−﹣－", "-"), **dict.fromkeys("—‒―", "–"),
    **dict.fromkeys("×✕", "x"), **dict.fromkeys("\u00a0\u202f\u2009\u2007", " "), "\u00ad": None, "\u200b": None,
})  # fmt: skip

SIGNS = re.escape("".join(english.CURRENCIES))
NUMBER = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])\.\d+)"
APOSTROPHES = "|".join(sorted((word[1:] for word in english.SHORT_FORMS if word[0] == "'"), key=len, reverse=True))
TOKEN = re.compile(
    rf"""(?P<initials>(?<![^\W\d_])[^\W\d_](?:\.[^\W\d_])+\b\.?)
      | (?P<number>{NUMBER})
      | (?P<word>(?<!\w)'(?:{APOSTROPHES})\b|[^\W\d_]+(?:'[^\W\d_]+)*)
      | (?P<minus>(?<![\w)%])[-–](?=[{SIGNS}]?\.?\d))
      | (?P<in_place>(?<=[\w%{SIGNS}])[-–](?=[{SIGNS}]?\d)|(?<=\d)[-–](?=\w)|(?<=\d[ ])[-–](?=[ ]\d)|(?<=\w)–(?=\w)|(?<=\w)-(?=[\w-]+\.[a-z])
          |(?<=\d):(?=\d)|(?<=\w):(?=//)|(?<=\w)/(?=\w)|(?<=[^\W_])[._](?=[^\W_])
          |[<>~≈](?=[ ]?[{SIGNS}]?\d))
      | (?P<symbol>[{re.escape("".join(english.SYMBOLS))}])""",
    re.VERBOSE,
)


@lru_cache(maxsize=4096)
def readings(text: str, aliases: Aliases = ()) -> tuple[tuple[Alternative, ...], ...]:
    """For every token of `text` the ways to go on from it, the usual one first. Letters of any alphabet are words."""
    text = plain(text)
    found = [match for match in TOKEN.finditer(text.lower()) if not _ends_a_sentence(match, text)]
    starts = [match.start() for match in found]
    usual: list[list[Alternative]] = [[] for _ in found]
    others: list[list[Alternative]] = [[] for _ in found]
    for index, match in enumerate(found):
        others[index] += [(index + 1, reading) for reading in _token(match)]
    for pattern, rule, is_usual in RULES:
        for match in pattern.finditer(text):
            start, end = bisect_left(starts, match.start()), bisect_left(starts, match.end())
            if start < end and starts[start] == match.start() and found[end - 1].end() <= match.end():
                (usual if is_usual else others)[start].extend((end, reading) for reading in rule(match))
    words = [match.group() for match in found]
    for phrase, other in (pair for both in aliases for pair in (both, both[::-1])):
        for end in range(len(phrase), len(words) + 1):
            said = " ".join(words[end - len(phrase) : end])
            for ending in ("", "'s"):  # whose
                if said == " ".join(phrase) + ending:
                    others[end - len(phrase)].append((end, (*other[:-1], other[-1] + ending)))
    return tuple(tuple(dict.fromkeys(ways)) for ways in map(list.__add__, usual, others))


def spoken(text: str) -> list[str]:
    """The words of `text` in the usual reading: "Press 10, p.m." is press ten p m."""
    ways, index = readings(text), 0
    words: list[str] = []
    while index < len(ways):
        index, reading = ways[index][0]
        words += reading
    return words


def plain(text: str) -> str:
    """Letters without accents and ligatures, and one sign for all that look alike."""
    text = re.sub("(?<=\\d)[²³]", lambda power: {"²": " squared", "³": " cubed"}[power.group()], text)
    text = "".join(f" {sign}" if unicodedata.decomposition(sign).startswith("<fraction>") else sign for sign in text)
    text = unicodedata.normalize("NFKC", text.translate(MARKS)).replace("\N{FRACTION SLASH}", "/").translate(MARKS)
    text = "".join(
        anyascii(sign) if ord(sign) > 127 and unicodedata.name(sign, "").startswith("LATIN ") else sign for sign in text
    )
    text = "".join(str(unicodedata.digit(sign)) if sign.isdecimal() else sign for sign in text)
    return re.sub("(?<=[A-Za-z])[\u0300-\u036f]+", "", text)


# --- one token --------------------------------------------------------------------------------------------------------


def _ends_a_sentence(match: re.Match[str], text: str) -> bool:
    """ "Stop.Go": the writer forgot a space; nobody says dot."""
    return match.group() == "." and text[match.end()].isupper()


def _token(match: re.Match[str]) -> Sequence[Reading]:
    token = match.group()
    match match.lastgroup:
        case "initials":
            return [tuple(token.replace(".", ""))]
        case "number":
            return numbers.number(token)
        case "minus":
            return [("minus",), ("negative",)]
        case "in_place":
            return english.IN_PLACE[token]
        case "symbol":
            return english.SYMBOLS[token]
        case _:
            return unique([(token,), *_in_full(token, match.string[match.end() :])])


def _in_full(word: str, after: str) -> list[Reading]:
    """A contraction as its words, since listeners write "I'm" and "I am" for the same sound."""
    if word in english.SHORT_FORMS:
        return list(english.SHORT_FORMS[word])
    stem, _, ending = word.rpartition("'")
    if ending == "t" and stem.endswith("n"):
        return [(stem[:-1], "not")]
    endings = _verbs(stem, after) if ending == "s" else english.CONTRACTED.get(ending, ())
    return [(*front, full) for full in endings if stem for front in [(stem,), *_in_full(stem, "")]]


def _verbs(stem: str, after: str) -> Sequence[str]:
    """What "'s" may stand for. After a noun it is a verb only where what follows shows it: Mario's castle is his."""
    if stem == "let":
        return ("us",)
    if stem in english.SUBJECTS:
        return ("is", "has")
    following = re.match(r"\s+([a-z']+)", after)
    if not following:
        return ()
    verbs = ["is"] if following[1] in english.AFTER_IS or (following[1].endswith("ing") and following[1] not in english.THINGS) else []
    return verbs + (["has"] if following[1] in english.AFTER_HAS else [])


# --- several tokens ---------------------------------------------------------------------------------------------------


def _money(match: re.Match[str]) -> Sequence[Reading]:
    return numbers.money(match["sign"], match["number"], (match["scale"] or "").lower())


def _money_range(match: re.Match[str]) -> Sequence[Reading]:
    return [(*least, "to", *most) for least in numbers.number(match["least"])[:3] for most in _money(match)[:6]]


def _fraction(match: re.Match[str]) -> Sequence[Reading]:
    """ "1/2"; after a number it is what goes beyond it, and then not half alone."""
    beyond = re.search(r"\d[ -]+$", match.string[: match.start()])
    return [form for form in numbers.fraction(match[1], match[2]) if not (beyond and form[0] == "half")]


def _day(match: re.Match[str]) -> Sequence[Reading]:
    month = english.MONTHS[match["month"].lower()]
    days = numbers.ordinals(match["day"])[:1]
    if match.start("month") < match.start("day"):
        return [form for day in days for form in ((month, *day), (month, "the", *day))] + [(month, *numbers.number(match["day"])[0])]
    return [form for day in days for form in (("the", *day, "of", month), (*day, "of", month), (*day, month))]


def _roman(match: re.Match[str]) -> Sequence[Reading]:
    """A numeral after a name or after what is counted: Henry VIII, World War II."""
    value = numbers.roman(match["numeral"].lower())
    before = re.search(r"(\w+)\W*$", match.string[: match.start()])
    if value is None or before is None:
        return []
    counted = before[1].lower() in english.COUNTED
    if not counted and not (before[1][0].isupper() and (value > 1 or before[1].lower() not in DICTIONARY)):  # "Charles I", but "Then I"
        return []
    digits = str(value)
    count, order = numbers.number(digits)[0], numbers.ordinals(digits)[0]
    ending = match["ending"] or ""
    forms = [count] if counted else [("the", *order), order, count]
    return [(*form[:-1], form[-1] + ending) for form in forms]


def _measure(match: re.Match[str]) -> Sequence[Reading]:
    before = re.search(r"([\d°²]|[a-z]+)[\s-]*$", match.string[: match.start()].lower())
    measured = before is not None and (not before[1].isalpha() or before[1] in english.NUMERALS)
    return english.MEASURES.get(re.sub(r"[. ]", "", match["unit"].lower()), []) if measured else []


def _height(match: re.Match[str]) -> Sequence[Reading]:
    feet, inches = numbers.number(match["feet"])[0], numbers.number(match["inches"] or "0")[0]
    if not match["inches"]:
        return [(*feet, foot) for foot in ("feet", "foot")]
    return [(*feet, foot, *inches, *inch) for foot in ("foot", "feet") for inch in ((), ("inches",), ("inch",))]


def _digit_twice(match: re.Match[str]) -> Sequence[Reading]:
    digit = numbers.DIGITS.get(match["digit"], match["digit"]).lower()
    return [(digit,) * (2 if match["times"].lower() == "double" else 3)]


def _table(table: dict[str, tuple[Reading, ...]]) -> Callable[[re.Match[str]], Sequence[Reading]]:
    return lambda match: table[match["name"].lower()]


def _any(names: Iterable[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


SCALE = rf"(?:[ -]?(?P<scale>{_any(english.SHORT_SCALES)})\b)?"
MONTH = rf"(?P<month>{_any(english.MONTHS)})"
CLEAR = {unit for unit in english.MEASURES if len(unit) > 1 and unit != "in"}  # "in" and "m" are more than units

# Where a rule matches from the start of a token to the end of one, it adds readings: the usual ones, or others.
RULES: list[tuple[re.Pattern[str], Callable[[re.Match[str]], Sequence[Reading]], bool]] = [
    (re.compile(pattern, 0 if rule is _roman else re.IGNORECASE), rule, usual)
    for pattern, rule, usual in (
        (r"(\d[\d,]*)(?:st|nd|rd|th)\b", lambda match: numbers.ordinals(match[1]), True),
        (r"(\d+)'?s\b", lambda match: numbers.plurals(match[1]), True),
        (rf"(?P<sign>[{SIGNS}]) ?(?P<least>{NUMBER}) ?[-–] ?[{SIGNS}]?(?P<number>{NUMBER}){SCALE}", _money_range, True),
        (rf"(?P<sign>[{SIGNS}]) ?(?P<number>{NUMBER}){SCALE}", _money, True),
        (rf"(?P<number>{NUMBER})(?P<scale>) ?(?P<sign>[{SIGNS}{english.CENTS}])", _money, True),
        (r"(?<![\d.:])([01]?\d|2[0-4]):([0-5]\d)(?!\d)", lambda match: numbers.clock(match[1], match[2]), True),
        (r"(?<![\d.:])([01]?\d|2[0-4])\.([0-5]\d)(?![\d]|\.\d)", lambda match: numbers.clock(match[1], match[2]), False),
        (r"(?<![\d/.,])(\d+)/(\d+)(?![\d/])", _fraction, True),
        (r"(?<![\d/.,])(\d+)[ -]+(\d+)/(\d+)(?![\d/])", lambda match: numbers.mixed(*match.groups()), True),
        (rf"(?<![\d/.,])1(?=[ -]?(?:{_any(CLEAR | english.SHORT_SCALES.keys())})\b)", lambda match: [("a",), ("an",)], False),
        (rf"\b{MONTH}\.? (?P<day>[0-3]?\d)(?:st|nd|rd|th)?\b(?![:.]\d)", _day, True),
        (rf"(?<![\d:.,])(?P<day>[0-3]?\d)(?:st|nd|rd|th)? (?:of )?{MONTH}\b", _day, True),
        (r"(?<![\d.,])(?<!\d )\d{1,3}(?: \d{3})+(?! ?\d)", lambda match: numbers.number(match[0]), False),
        (rf"(?<=\d) ?({_any(english.SHORT_SCALES)})\b", lambda match: [(english.SHORT_SCALES[match[1].lower()],)], False),
        (rf"(?P<unit>(?:sq|cu)\.? ?\w+|{_any(CLEAR)})\b", _measure, True),
        (rf"(?P<unit>{_any(english.MEASURES.keys() - CLEAR)})\b", _measure, False),
        (r"\b(?:US|CA|C|AU|A|NZ|HK|S)(?=\$)|%(?=[-–]\d)", lambda match: [()], False),  # not said: US$5, 10%-20%
        (r"\b(\w+in)'(?!\w)", lambda match: [(match[1].lower() + "g",)], False),
        (r"(?P<feet>\d+)'(?: ?(?P<inches>\d+)\"?)?(?!\w)", _height, False),
        (r"(?<=\d)x(?=\d|\b)|(?<=\d )x(?= \d)|\bx(?=\d)", lambda match: [("times",), ("by",)], False),
        (r"\b(?P<times>double|triple|treble) (?P<digit>oh?|\d|" + _any(numbers.UNITS[:10]) + r")\b", _digit_twice, False),
        (rf"(?<![^\W\d_])(?P<name>{_any(english.ABBREVIATIONS)})(?!\w)", _table(english.ABBREVIATIONS), True),
        (rf"(?<![\w.])(?P<name>{_any(english.DOTTED)})\.(?!\w)", _table(english.DOTTED), False),
        (rf"\b(?P<name>{_any(english.NUMBERED)})\.? ?(?=\d)", _table(english.NUMBERED), False),
        (r"\b(?P<numeral>[IVXLCDM]+)(?P<ending>'s)?\b", _roman, True),
        (r"\b(?-i:[A-Z]{2,6})\b", lambda match: [tuple(match[0].lower())], False),
    )
]
