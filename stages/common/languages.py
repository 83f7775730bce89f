"""Languages by their codes: those that listeners of the Whisper family hear."""

from __future__ import annotations

CODES = (
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is it ja jw ka kk km kn ko la lb ln lo "
    "lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh"
).split()
UNSPACED = ("ja", "km", "lo", "my", "th", "yue", "zh", "bo")  # written without spaces between words
SCRIPTS = {  # what most letters are, by their Unicode names; Latin where nothing is said
    **dict.fromkeys(("ru", "uk", "be", "bg", "mk", "kk", "mn", "tg", "tt", "ba"), ("CYRILLIC",)), "sr": ("CYRILLIC", "LATIN"),
    **dict.fromkeys(("ar", "fa", "ur", "ps", "sd"), ("ARABIC",)), "he": ("HEBREW",), "yi": ("HEBREW",), "el": ("GREEK",), "hy": ("ARMENIAN",),
    **dict.fromkeys(("hi", "mr", "ne", "sa"), ("DEVANAGARI",)), "bn": ("BENGALI",), "as": ("BENGALI",), "gu": ("GUJARATI",), "pa": ("GURMUKHI", "ARABIC"),
    "ta": ("TAMIL",), "te": ("TELUGU",), "kn": ("KANNADA",), "ml": ("MALAYALAM",), "si": ("SINHALA",), "ka": ("GEORGIAN",), "am": ("ETHIOPIC",),
    "th": ("THAI",), "lo": ("LAO",), "my": ("MYANMAR",), "km": ("KHMER",), "bo": ("TIBETAN",), "ko": ("HANGUL", "CJK"), "zh": ("CJK",), "yue": ("CJK",),
    "ja": ("CJK", "HIRAGANA", "KATAKANA"), **dict.fromkeys(("az", "uz", "bs", "ms", "ha"), ("LATIN", "CYRILLIC", "ARABIC")),
}  # fmt: skip


def primary(tag: str) -> str:
    """The code of a tag like `en-US` or `pt_BR`."""
    return tag.replace("_", "-").split("-")[0].strip().lower()


def words(text: str, language: str) -> int:
    """How many words a text has; where none are written apart, how many letters."""
    return sum(character.isalnum() for character in text) if language in UNSPACED else len(text.split())
