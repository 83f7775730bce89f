"""Written text as spoken words, so that a text and a transcript can be compared by what is said.

A text becomes tokens, and each token its possible readings, the usual one first: "10" is "ten" but also "one zero",
"#" is "pound" but also "hash". Which reading was spoken is settled when text and transcript are aligned (words.py).
"""

from __future__ import annotations

import re
from functools import cache
from itertools import product

Reading = tuple[str, ...]

UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = ["", "thousand", "million", "billion"]
ODD_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
CONTRACTED = {
    "m": ("am",), "re": ("are",), "ve": ("have",), "ll": ("will",), "d": ("would", "had"), "s": ("is", "has", "us"),
}  # fmt: skip
CURRENCIES = {"$": ("dollar", "dollars"), "£": ("pound", "pounds"), "€": ("euro", "euros")}
SYMBOLS: dict[str, tuple[Reading, ...]] = {
    "#": (("pound",), ("hash",), ("number",)),
    "*": (("star",), ("asterisk",)),
    "&": (("and",), ("ampersand",)),
    "%": (("percent",),),
    "@": (("at",),),
    "+": (("plus",), ("and",)),
    "=": (("equals",), ("equal",)),
    "$": (("dollar",), ("dollar", "sign")),
    "/": (("slash",),),
}

# Words that a listener cannot tell apart, or that are spelled in two ways. Each line is one sound.
SAME_SOUND = """
to two too | for four fore | there their theyre | hear here | by buy bye | one won | no know | right write rite wright
| zed zee z | be bee b | see sea c | eye i aye | jay j | kay k | el l | em m | en n | oh o owe | pea pee p | queue cue q | are r
| es s | tea tee t | you u ewe | vee v | ex x | why y | dee d | gee g | eff f | aitch h | a eh
| ate eight | wait weight | way weigh | week weak | whole hole | new knew | not knot | our hour | your youre
| wood would | through threw thru | passed past | piece peace | sun son | some sum | meet meat | male mail
| sale sail | tale tail | plain plane | wear where ware | weather whether | which witch | break brake | blue blew
| red read | rode road rowed | night knight | made maid | pair pear pare | fair fare | flour flower | great grate
| hi high | him hymn | in inn | mist missed | morning mourning | none nun | or oar ore | role roll | sell cell
| sent cent scent | seen scene | stair stare | steal steel | than then | tied tide | vain vein vane | waste waist
| wore war | bored board | bare bear | base bass | been bin | bread bred | capital capitol | course coarse
| days daze | dear deer | die dye | do due dew | fined find | guest guessed | heard herd | idle idol | lead led
| lessen lesson | loan lone | main mane | minor miner | nose knows | principal principle | rain reign rein | raise rays
| ring wring | root route | seem seam | shore sure | sight site cite | so sew sow | soul sole
| sweet suite | team teem | tire tyre | toe tow | thrown throne | whine wine | yolk yoke
| ok okay | mister mr | missus mrs | doctor dr | allright alright | colour color | grey gray | neighbour neighbor
| neighbours neighbors | centre center | cancelled canceled | dialled dialed | favourite favorite | programme program
| cheque check | caret carrot carat | tilde tilda | parenthesis parentheses | yankee yankie
| licence license | theatre theater | metre meter | travelled traveled | fortieth fourtieth
"""
_SOUND = {word: line.split()[0] for line in SAME_SOUND.replace("\n", " ").split("|") for word in line.split()}

TOKEN = re.compile(
    r"""(?P<ordinal>\d[\d,]*(?:st|nd|rd|th)\b)
      | (?P<time>\d{1,2}:\d\d\b)
      | (?P<money>[$£€]\d[\d,]*(?:\.\d\d)?)
      | (?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)
      | (?P<initials>[^\W\d_](?:\.[^\W\d_])+\b\.?)
      | (?P<word>[^\W\d_]+(?:'[^\W\d_]+)*)
      | (?P<symbol>[#*&%@+=$/])""",
    re.VERBOSE,
)


def tokens(text: str) -> list[tuple[Reading, ...]]:
    """The readings of every token of `text`, the usual one first. Letters of any alphabet are words."""
    text = text.lower().replace("’", "'").replace("‘", "'")
    return [_readings(match.lastgroup or "", match.group()) for match in TOKEN.finditer(text)]


def spoken(text: str) -> list[str]:
    """The words of `text` in the usual reading: "Press 10, p.m." is press ten p m."""
    return [word for readings in tokens(text) for word in readings[0]]


def sound(word: str) -> str:
    """The same for words that sound alike."""
    return _SOUND.get(word, word)


@cache
def _readings(kind: str, token: str) -> tuple[Reading, ...]:
    digits = token.replace(",", "").strip("$£€")
    if kind == "ordinal":
        return tuple(_ordinal(reading) for reading in _cardinals(digits[:-2]))
    if kind == "time":
        hour, minute = digits.split(":")
        return _unique([(*_cardinal(int(hour)), *tail) for tail in _minutes(minute)])
    if kind == "money":
        return _money(token[0], digits)
    if kind == "number":
        whole, _, fraction = digits.partition(".")
        if not fraction:
            return _cardinals(whole)
        return tuple((*head, "point", *(UNITS[int(digit)] for digit in fraction)) for head in _cardinals(whole))
    if kind == "initials":
        return (tuple(token.replace(".", "")),)
    if kind == "symbol":
        return SYMBOLS[token]
    return _unique([(token.replace("'", ""),), *_in_full(token)])


def _in_full(word: str) -> list[Reading]:
    """A contraction as two words, since listeners write "I'm" and "I am" for the same sound."""
    stem, _, ending = word.rpartition("'")
    if ending == "t" and stem.endswith("n"):
        return [({"wo": "will", "ca": "can", "sha": "shall"}.get(stem[:-1], stem[:-1]), "not")]
    return [(stem.replace("'", ""), full) for full in CONTRACTED.get(ending, ()) if stem]


def _unique(readings: list[Reading]) -> tuple[Reading, ...]:
    return tuple(dict.fromkeys(readings))


def _cardinal(value: int) -> Reading:
    if value < 20:
        return (UNITS[value],)
    words: list[str] = []
    groups = []
    while value:
        value, rest = divmod(value, 1000)
        groups.append(rest)
    for scale in reversed(range(len(groups))):
        hundreds, rest = divmod(groups[scale], 100)
        if hundreds:
            words += [UNITS[hundreds], "hundred"]
        if rest >= 20:
            words.append(TENS[rest // 10])
            rest %= 10
        if rest:
            words.append(UNITS[rest])
        if groups[scale] and scale:
            words.append(SCALES[scale])
    return tuple(words)


def _cardinals(digits: str) -> tuple[Reading, ...]:
    """How a string of digits may be read: as one number, digit by digit, in pairs, in hundreds."""
    spelled = tuple(UNITS[int(digit)] for digit in digits)
    readings: list[Reading] = []
    if len(digits) <= 12 and (digits == "0" or digits[0] != "0"):
        usual = _cardinal(int(digits))
        readings.append(usual)
        if len(usual) > 1 and usual[0] == "one":
            readings += [("a", *usual[1:]), usual[1:]]
        if "hundred" in usual[:-1]:
            after = usual.index("hundred") + 1
            readings.append((*usual[:after], "and", *usual[after:]))
    if len(digits) == 4 and digits.endswith("00"):
        readings.append((*_cardinal(int(digits[:2])), "hundred"))
    if len(digits) in (3, 4):
        head, tail = _cardinal(int(digits[:-2])), digits[-2:]
        readings.append((*head, "oh", UNITS[int(tail[1])]) if tail[0] == "0" else (*head, *_cardinal(int(tail))))
    readings.append(spelled)
    if len(digits) > 1 and "zero" in spelled:
        readings.append(tuple("oh" if word == "zero" else word for word in spelled))
    return _unique(readings)


def _ordinal(reading: Reading) -> Reading:
    *head, last = reading
    if last in ODD_ORDINALS:
        last = ODD_ORDINALS[last]
    elif last.endswith("y"):
        last = last[:-1] + "ieth"
    else:
        last += "th"
    return (*head, last)


def _minutes(minute: str) -> list[Reading]:
    if minute == "00":
        return [("oclock",), (), ("hundred",)]
    return [("oh", UNITS[int(minute[1])])] if minute[0] == "0" else [_cardinal(int(minute))]


def _money(sign: str, digits: str) -> tuple[Reading, ...]:
    whole, _, cents = digits.partition(".")
    one, many = CURRENCIES[sign]
    unit = one if int(whole) == 1 else many
    readings = [(*head, unit) for head in _cardinals(whole)]
    if cents and int(cents):
        tails: list[Reading] = [_cardinal(int(cents)), ("and", *_cardinal(int(cents)), "cents")]
        readings = [(*head, *tail) for head, tail in product(readings, tails)]
        readings.append((*_cardinal(int(whole)), *_cardinal(int(cents))))
    return _unique(readings)
