"""English text in ASCII, which is all that flite reads, written out as a person reads it aloud.

Nothing is lost in silence: signs become words, dashes and bullets pauses, letters with strokes and ligatures the plain
ones. What nobody can read out (other scripts, emoji) is left out with a space in its place, and `unspoken` names it.
ASCII stays as it is.
"""

from __future__ import annotations

import re
import unicodedata

from anyascii import anyascii

FRACTIONS = "zero whole half third quarter fifth sixth seventh eighth ninth tenth".split()
MONEY = {  # one, many, a hundredth, hundredths
    "£": ("pound", "pounds", "penny", "pence"), "€": ("euro", "euros", "cent", "cents"), "$": ("dollar", "dollars", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"), "₹": ("rupee", "rupees", "paisa", "paise"), "₩": ("won", "won", "jeon", "jeon"),
    "₽": ("ruble", "rubles", "kopeck", "kopecks"), "₺": ("lira", "lira", "kurus", "kurus"), "₪": ("shekel", "shekels", "agora", "agorot"),
    "₿": ("bitcoin", "bitcoins", "cent", "cents"), "¢": ("cent", "cents", "", ""),
}  # fmt: skip
SCALES = {"k": "thousand", "m": "million", "mn": "million", "bn": "billion", "b": "billion", "tn": "trillion", "t": "trillion"}
UNITS = {"km": "kilometers", "m": "meters", "cm": "centimeters", "mm": "millimeters", "mi": "miles", "ft": "feet", "in": "inches", "yd": "yards"}
SIGNS = {
    "×": "times", "÷": "divided by", "±": "plus or minus", "≈": "approximately", "≠": "is not equal to", "≤": "less than or equal to",
    "≥": "greater than or equal to", "√": "the square root of", "∞": "infinity", "∑": "the sum of", "‰": "per mille", "¶": "paragraph", "©": "copyright",
    "℃": "degrees celsius", "℉": "degrees fahrenheit", "№": "number", "℅": "care of", "µ": "micro", "¬": "not", "¦": "|", "−": "minus",
    "⁺": "plus", "⁻": "minus", "♀": "female", "♂": "male",
}  # fmt: skip
MARKS = {
    "’": "'", "‘": "'", "ʼ": "'", "ʻ": "'", "‛": "'", "´": "'", "ˈ": "'", "′": "'", "‹": "'", "›": "'",
    "“": '"', "”": '"', "„": '"', "‟": '"', "«": '"', "»": '"', "″": '"', "…": "...", "‥": "..", "¿": " ", "¡": " ",
    "‐": "-", "‑": "-", "\u00ad": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": "", "⁄": "/", "∕": "/", "\ufe0f": "",
    "–": ", ", "—": ", ", "‒": ", ", "―": ", ", "⸺": ", ", "•": ", ", "·": ", ", "‣": ", ", "、": ", ", "。": ". ",
}  # fmt: skip
ALPHABETS = ("LATIN", "GREEK", "CYRILLIC")  # their letters are sounds, one by one
WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # what East Asian keyboards write
DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
NUMBER = r"\d(?:[\d,]*\d)?|(?=\.\d)"


def plain(text: str) -> str:
    """`text` in ASCII, as it is read aloud; without what `unspoken` names."""
    return text if text.isascii() else _spelt(_written_out(text), [])


def unspoken(text: str) -> list[str]:
    """The characters of `text` that `plain` leaves out though they are no punctuation, each once, in their order."""
    lost: list[str] = []
    if not text.isascii():
        _spelt(_written_out(text), lost)
    return list(dict.fromkeys(lost))


def _written_out(text: str) -> str:
    """Signs that mean something only together with what stands beside them."""
    text = unicodedata.normalize("NFC", text).translate(WIDE)
    text = re.sub(r"(?<=\w)\u200b(?=\w)", " ", text)
    text = re.sub(r"(\d{3})[–‒](\d{4})(?!\d)", r"\1-\2", text)  # a telephone number
    text = re.sub(r"(?<=\d)\s?[–‒]\s?(?=[\d£€¥$.])|(?<=[%¢€°CFcmkp])(?<=\d.)[–‒](?=\d)|(?<=\d[ap]m)[–‒](?=\d)|(?<=\b[A-Z])[–‒](?=[A-Z]\b)", " to ", text)
    text = re.sub(r"(?<!\S)[–‒−﹣－](?=[\d.£€$])", "minus ", text)
    text = re.sub("[" + "".join(map(re.escape, MONEY)) + rf"]\s?({NUMBER})(?:\.(\d+))?(?:\s?(k|mn?|bn?|tn?|[Tt]housand|[Mm]illion|[Bb]illion|[Tt]rillion)\b)?", _money, text)
    text = re.sub(rf"({NUMBER})(?:[.,](\d\d))?\s?([{''.join(set(MONEY) - {'$'})}])", _money_behind, text)
    text = re.sub(r"(\d?)\s?([½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒])", _fraction, text)
    text = re.sub(r"\b[Nn][º°]\s?(?=\d)", "number ", text)
    text = re.sub(r"(?<=\d)\s?º", "°", text)
    text = re.sub(r"(?:(?<![\d.,])(1))?\s?[°˚](?:\s?([CF])\b)?", _degrees, text)
    small, smaller = ("minutes", "seconds") if "degree" in text else ("feet", "inches")
    text = re.sub(r"(?<=\d)′", f" {small} ", re.sub(r"(?<=\d)″", f" {smaller} ", text))
    text = re.sub(r"\b(km|cm|mm|mi|ft|in|yd|m)([²³])", lambda m: f"{'square' if m[2] == '²' else 'cubic'} {UNITS[m[1]]}", text)
    text = re.sub(r"(?<=[\w)])²(?![⁰¹³-⁹])", " squared", re.sub(r"(?<=[\w)])³(?![⁰¹²⁴-⁹])", " cubed", text))
    text = re.sub(r"(?:(?<=[\d)])|(?<=\w)(?=[⁺⁻]))([⁺⁻]?)([⁰¹²³⁴-⁹]+)", lambda m: f" to the {'minus ' if m[1] == '⁻' else ''}{m[2].translate(DIGITS)}", text)
    text = re.sub(r"[⁰¹²³⁴-⁹]+", lambda m: f" {m[0].translate(DIGITS)} ", text)
    text = re.sub(r"§(§?)\s?", lambda m: f" section{'s' if m[1] else ''} ", text)
    return text


def _money(match: re.Match[str]) -> str:
    (one, many, cent, cents), whole, part, scale = MONEY[match[0][0]], match[1] or "0", match[2], match[3]
    if match[0][0] == "$":
        return match[0]  # flite knows how
    if scale:
        return f" {whole}{'.' + part if part else ''} {SCALES.get(scale, scale)} {many}"
    if not part or not cent:
        return f" {whole}{'.' + part if part else ''} {one if whole == '1' and not part else many}"
    if len(part) != 2:
        return f" {whole}.{part} {many}"
    small = f"{int(part)} {cent if int(part) == 1 else cents}"
    large = f"{whole} {one if whole == '1' else many}"
    return f" {small}" if whole == "0" else f" {large}" if part == "00" else f" {large} {int(part)}"


def _money_behind(match: re.Match[str]) -> str:
    one, many, _, _ = MONEY[match[3]]
    whole = match[1] + (f".{match[2]}" if match[2] else "")
    return f"{whole} {one if whole == '1' else many} "


def _degrees(match: re.Match[str]) -> str:
    scale = {"C": " celsius", "F": " fahrenheit", None: ""}[match[2]]
    return f"1 degree{scale} " if match[1] else f" degrees{scale} "


def _fraction(match: re.Match[str]) -> str:
    over, under = (int(part) for part in unicodedata.normalize("NFKD", match[2]).split("⁄"))
    said = f"{over} {FRACTIONS[under]}{'s' if over > 1 else ''}" if over > 1 or not match[1] else f"a {FRACTIONS[under]}"
    return f"{match[1]} and {said} " if match[1] else f" {said.replace('1 ', 'one ')} "


def _spelt(text: str, lost: list[str]) -> str:
    """`text` in ASCII, character by character; what cannot be spelt goes to `lost`."""
    spelt = ""
    for place, character in enumerate(text):
        before, after = text[max(place - 1, 0) : place], text[place + 1 : place + 2]
        if character.isascii() or character.isspace():
            part = character if character.isascii() else " "
        elif character in MARKS:
            part = MARKS[character]
        elif character in SIGNS:
            part = f" {SIGNS[character]} "
        else:
            part = _letter(character, before, after)
            if not part and character not in lost and unicodedata.category(character) not in ("Mn", "Me", "Cf"):
                lost.append(character)
            if not part and unicodedata.category(character) != "Mn":
                part = " "
        spelt += part
    return re.sub(r"\s+,", ",", " ".join(spelt.split()))


def _letter(character: str, before: str, after: str) -> str:
    """A letter, digit or punctuation mark in ASCII; empty where there is none."""
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if category == "Nd":
        return str(unicodedata.digit(character))
    if name.startswith("GREEK") and "LETTER" in name and not (before.isalpha() or after.isalpha()):
        return f" {name.split('LETTER ')[1].split()[0].lower()} "  # a sign of mathematics, by its name
    bare = "".join(one for one in unicodedata.normalize("NFKD", character) if unicodedata.category(one) != "Mn")
    if category in ("No", "Nl"):
        return bare if unicodedata.decomposition(character).startswith("<sub>") else f" {bare} " if bare.isascii() else ""
    if category == "Sc" and name:
        return f" {name.removesuffix(' SIGN').split()[-1].lower()} "
    if bare.isascii() and bare and category[0] in "LPZ":
        return bare
    if category[0] == "L" and name.startswith(ALPHABETS):
        letters = anyascii(bare)
        return letters.upper() if character.isupper() and not after.islower() else letters
    return ", " if category == "Pd" else " " if category[0] == "P" else ""


