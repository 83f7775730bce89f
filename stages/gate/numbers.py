"""Numbers in digits as they may be read, the usual way first."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import groupby, product

from stages.gate.english import CENTS, CURRENCIES, ODD_ORDINALS, SCALES, SHORT_SCALES, TENS, UNITS, Reading

DIGITS = {str(digit): UNITS[digit] for digit in range(10)}
ROMAN = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100, "d": 500, "m": 1000}
PARTS = {2: ("half", "halves"), 4: ("quarter", "quarters")}  # beside second and fourth
MOST_PARTS = 10**6  # beyond, nobody says "billionths"
LONGEST = 15  # digits that are read as one number


def unique(readings: list[Reading]) -> tuple[Reading, ...]:
    return tuple(dict.fromkeys(readings))


@cache
def number(digits: str) -> tuple[Reading, ...]:
    """ "1,234", "3.5", ".5"."""
    whole, point, fraction = re.sub("[ ,]", "", digits).partition(".")
    return _decimal(whole, fraction) if point else cardinals(whole)


@cache
def cardinals(digits: str) -> tuple[Reading, ...]:
    """How a string of digits may be read: as one number, digit by digit, in pairs, in hundreds."""
    readings: list[Reading] = []
    if len(digits) <= LONGEST and (digits == "0" or digits[0] != "0"):
        readings += _counts(int(digits))
    if len(digits) in (3, 4):
        head, tail = digits[:-2], digits[-2:]
        first = _words(int(head))
        if tail == "00":
            readings.append((*first, "hundred"))
        elif tail[0] == "0":
            readings += [(*first, zero, DIGITS[tail[1]]) for zero in ("oh", "zero")]
        else:
            readings.append((*first, *_words(int(tail))))
        if len(digits) == 4 and tail != "00" and head[0] != "0":
            readings += [(*first, "hundred", *_words(int(tail))), (*first, "hundred", "and", *_words(int(tail)))]
    if len(digits) == 4 and digits[0] == "0" and digits.endswith("00"):
        readings += [(zero, DIGITS[digits[1]], "hundred") for zero in ("oh", "zero")]
    if digits == "0":
        readings.append(("nought",))
    return unique([*readings, *spelled(digits)])


def spelled(digits: str) -> list[Reading]:
    """Digit by digit: 007 is zero zero seven, oh oh seven, double zero seven, double oh seven."""
    readings = []
    for zero in ("zero", "oh") if "0" in digits else ("zero",):
        words = [zero if digit == "0" else DIGITS[digit] for digit in digits]
        readings.append(tuple(words))
        runs = [list(run) for _, run in groupby(words)]
        if len(runs) < len(words):
            readings.append(tuple(word for run in runs for word in _run(run)))
    return readings


def _run(words: list[str]) -> list[str]:
    several = {2: "double", 3: "triple"}.get(len(words))
    return [several, words[0]] if several else words


def _counts(value: int) -> list[Reading]:
    """American, British, and with a for one: a hundred."""
    readings = [_words(value), _words(value, last=True), _words(value, last=True, every=True)]
    usual = readings[0]
    if len(usual) > 1 and usual[0] == "one":
        readings += [form for reading in readings for form in (("a", *reading[1:]), reading[1:])]
    return readings


@cache
def _words(value: int, last: bool = False, every: bool = False) -> Reading:
    """One count. `last`: "and" before what follows the last hundred or thousand; `every`: in every group."""
    if value < 20:
        return (UNITS[value],)
    groups = []
    rest = value
    while rest:
        rest, group = divmod(rest, 1000)
        groups.append(group)
    words: list[str] = []
    for scale, group in reversed(list(enumerate(groups))):
        hundreds, tens = divmod(group, 100)
        if hundreds:
            words += [UNITS[hundreds], "hundred"]
        if tens and words and (every or (last and scale == 0)) and (hundreds or scale == 0):
            words.append("and")
        if tens >= 20:
            words.append(TENS[tens // 10])
            tens %= 10
        if tens:
            words.append(UNITS[tens])
        if group and scale:
            words.append(SCALES[scale])
    return tuple(words)


def _decimal(whole: str, fraction: str) -> tuple[Reading, ...]:
    heads: list[Reading] = list(cardinals(whole)) if whole else []
    if whole in ("", "0"):
        heads = [("zero",), (), ("oh",), ("nought",)]
    tails = spelled(fraction)
    if len(fraction) == 2 and fraction[0] != "0":  # a version, or a careless 3.14
        tails.append(_words(int(fraction)))
    readings = [(*head, point, *tail) for head, point, tail in product(heads, ("point", "dot"), tails)]
    part = {"5": ("a", "half"), "25": ("a", "quarter"), "75": ("three", "quarters")}.get(fraction.rstrip("0"))
    if part:
        readings += [(*head, "and", *part) for head in heads[:2] if head not in ((), ("zero",))]
    return unique(readings)


def ordinals(digits: str) -> tuple[Reading, ...]:
    return unique([_last(reading, _ordinal) for reading in number(digits)])


def plurals(digits: str) -> tuple[Reading, ...]:
    """Decades, and several of a number: the nineteen nineties, two sixes."""
    return unique([_last(reading, _plural) for reading in number(digits)])


def _last(reading: Reading, change: Callable[[str], str]) -> Reading:
    return (*reading[:-1], change(reading[-1]))


def _ordinal(word: str) -> str:
    return ODD_ORDINALS.get(word) or (word[:-1] + "ieth" if word.endswith("y") else word + "th")


def _plural(word: str) -> str:
    return word[:-1] + "ies" if word.endswith("y") else word + ("es" if word.endswith("x") else "s")


def fraction(above: str, below: str) -> tuple[Reading, ...]:
    """ "1/2", "3/4", and what looks like it: "24/7", "9/11"."""
    readings = _parts(int(above), int(below))
    if (above, below) == ("1", "2"):
        readings += [("half",), ("half", "a"), ("half", "an")]
    for head, tail in product(cardinals(above), cardinals(below)):
        readings += [(*head, *between, *tail) for between in ((), ("over",), ("slash",), ("out", "of"))]
    return unique(readings)


def mixed(whole: str, above: str, below: str) -> tuple[Reading, ...]:
    """ "1 1/2"."""
    return unique([(*head, "and", *part) for head in cardinals(whole) for part in _parts(int(above), int(below))])


def _parts(count: int, parts: int) -> list[Reading]:
    """Three quarters, three fourths; one third, a third; in a three quarter inch one part is said."""
    if max(count, parts) > MOST_PARTS:
        return []
    names: list[Reading] = [(name,) for name in PARTS.get(parts, ())]
    if parts > 2:
        orders = unique([_last(reading, _ordinal) for reading in _counts(parts)])
        names += [name for order in orders for name in (order, _last(order, _plural))]
    if count == 1:
        names = [name for name in names if not name[-1].endswith("s")]
    heads = [_words(count)] + ([("a",)] if count == 1 else [])
    return [(*head, *name) for name in names for head in heads]


def clock(hour: str, minute: str) -> tuple[Reading, ...]:
    """10:30 is ten thirty, half past ten, thirty past ten; 9:45 is a quarter to ten as well."""
    this, minutes = _words(int(hour)), int(minute)
    following = _words(int(hour) % 12 + 1)
    if not minutes:
        return unique([(*this, "o'clock"), this, (*this, "hundred"), (*this, "hundred", "hours"), ("oh", *this, "hundred")])
    readings = [(*this, *tail) for tail in cardinals(minute)]
    past, to = _words(minutes), _words(60 - minutes)
    if minutes < 10:
        readings.insert(0, (*this, "oh", DIGITS[minute[1]]))
    for step, relation, base in ((past, ("past", "after"), this), (to, ("to", "till"), following)):
        spans = [step, (*step, "minutes" if step != ("one",) else "minute")]
        spans += [("quarter",), ("a", "quarter")] if step == ("fifteen",) else []
        spans += [("half",)] if step == ("thirty",) and base is this else []
        readings += [(*span, word, *base) for span in spans for word in relation]
    return unique(readings)


def money(sign: str, digits: str, scale: str = "") -> tuple[Reading, ...]:
    """An amount; its unit in both numbers, for a $5 bill is a five dollar bill."""
    one, many, cent, cents = CURRENCIES["$" if sign == CENTS else sign]
    units = (cents, cent) if sign == CENTS else (many, one)
    amounts: list[Reading] = [*number(digits)] + ([("a",)] if digits == "1" else [])
    heads = [(*reading, SHORT_SCALES[scale]) for reading in amounts] if scale else amounts
    whole, _, part = digits.replace(",", "").partition(".")
    if whole == "1":
        units = units[::-1]
    readings = [(*head, unit) for head in heads for unit in units]
    if len(part) == 2 and not scale and sign != CENTS:
        dollars: list[Reading] = [*cardinals(whole)] + ([("a",)] if whole == "1" else []) if whole not in ("", "0") else []
        wholes: list[Reading] = [(*head, unit) for head in dollars for unit in units]
        small = _words(int(part))
        coins: list[Reading] = [(*small, cents), (*small, cent)] if int(part) else [()]
        split = [(*head, *link, *coin) for head in wholes for coin in coins for link in (("and",), ())]
        if int(part):
            split += [(*head, *small) for head in (*wholes, *cardinals(whole))] if wholes else coins
        else:
            split = wholes
        readings = split + readings
    return unique(readings)


def roman(numeral: str) -> int | None:
    """The value of a Roman numeral in its usual form, or None."""
    if not re.fullmatch(r"m{0,3}(cm|cd|d?c{0,3})(xc|xl|l?x{0,3})(ix|iv|v?i{0,3})", numeral) or not numeral:
        return None
    values = [ROMAN[letter] for letter in numeral]
    return sum(value if value >= after else -value for value, after in zip(values, [*values[1:], 0], strict=True))
