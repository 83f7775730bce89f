"""What texts hold, as far as their letters tell: prose, or labels, numbers, phonemes, another language.

What a column or a file means is never guessed: where it does not look like what is said in the recording, the stage
says what it looks like, and stops or warns.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress

from models.small.plain import unspoken
from stages.common.languages import SCRIPTS

MOST = 0.5  # of a corpus: what so many of its texts are, it is
MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|&(?:[a-z]+|#\d+);")
TIMED = re.compile(r"(?:\S+\s+\d\s+)?\d+(?:\.\d+)?[\s,;]+\d+(?:\.\d+)?(?:[\s,;]+\S.*)?")  # a line of HTK, Festival, Audacity or CTM labels
CAPTIONS = re.compile(r"\d\d?:\d\d[:.,\d]*\s*-->|^WEBVTT\b|File type = \"ooTextFile|\[\d\d:\d\d[.:]\d\d\]")
ARPABET = re.compile(
    r"(?:aa|ae|ah|ao|aw|ax|axr|ay|b|ch|d|dh|dx|eh|el|em|en|er|ey|f|g|hh|ih|ix|iy|jh|k|l|m|n|ng|nx|ow|oy|p|pau|q|r|s|sh|sil|sp|t|th|uh|uw|ux|v|w|wh|y|z|zh)[0-2]?", re.I
)
ENGLISH_PHONES = {"ah", "er", "em", "en", "el", "pau", "sp", "q"}  # which are, or look like, words too
IPA = re.compile("[\u0250-\u02af\u02c8\u02cc\u02d0\u02d1\u0329\u0361θðŋœøχβ]")
IPA_LETTERS_IN_USE = ("az", "ha", "ln", "yo", "da", "fo", "fr", "is", "no", "nn", "el")  # of these signs, or of Greek
SAMPA = re.compile(r"[A-Za-z][@{}\\:\"%~&?]|[@{}\\][A-Za-z]|[A-Za-z]+[1-5]\b")  # X-SAMPA, and pinyin with its tones
SCRIPT_NAMES = {  # the first words of letters' names that are no scripts
    **dict.fromkeys(("FULLWIDTH", "FEMININE", "MASCULINE", "MICRO", "MODIFIER"), "LATIN"), "IDEOGRAPHIC": "CJK",
    **dict.fromkeys(("HALFWIDTH", "KATAKANA-HIRAGANA"), "KATAKANA"),
}  # fmt: skip
# The commonest little words, those apart that several of these languages have.
COMMONEST = {
    "en": "the of and to is you that it for with this are".split(), "de": "der und das ist nicht ich sie ein den mit auf eine zu".split(),
    "fr": "le les et est un une je pas vous que des dans".split(), "es": "el los y es un una que no por con las para".split(),
    "it": "il di che è un una non per sono con gli della".split(), "nl": "het een en van ik dat niet je zijn op voor met".split(),
    "pt": "o que não um uma os para com eu do da é".split(), "sv": "och att det som en är jag på för inte av med".split(),
}  # fmt: skip


def plain_words(text: str) -> list[str]:
    """The words of a text that are no numbers, without case and marks; where words are not written apart, letters."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", "")
    return [word for word in re.findall(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|[^\W\d_\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]+", folded)]


def shared(text: str, other: str) -> tuple[int, int]:
    """How many of the words of `text` stand in `other` too, and how many it has. Numbers do not count: they may be spelt."""
    mine, theirs = Counter(plain_words(text)), Counter(plain_words(other))
    return (mine & theirs).total(), mine.total()


def numbers_alone(text: str) -> bool:
    return any(map(str.isdigit, text)) and not any(map(str.isalpha, text))


def identifier(text: str) -> bool:
    """A file's name or an id: one piece, with a digit, an underscore, a slash or an extension in it."""
    return re.fullmatch(r"(?=\S*[A-Za-z])(?=\S*(?:\d|_|/|\\|\.\w))[\w./\\:-]+", text) is not None and not text.endswith(".")


def phonemes(text: str, language: str) -> bool:
    """IPA, ARPAbet, X-SAMPA or pinyin with numbers, rather than spelling."""
    tokens = text.split()
    if not tokens:
        return False
    bare = [token.strip(".,!?;|-").lower() for token in tokens]
    if len(tokens) > 2 and all(map(ARPABET.fullmatch, filter(None, bare))):
        return any(token not in ENGLISH_PHONES and len(token) > 1 for token in bare)
    odd = [token for token in tokens if IPA.search(token)] if language not in IPA_LETTERS_IN_USE else re.findall("[\u02c8\u02cc\u02d0]", text)
    return len(odd) > 0.3 * len(tokens) or len(tokens) > 2 and sum(map(bool, map(SAMPA.search, tokens))) > 0.5 * len(tokens)


def timed(raw: str) -> bool:
    """Labels with times or subtitles, as a file or a cell holds them: `0 12500 pau` in every line."""
    lines = [line.strip() for line in raw.splitlines() if line.strip() not in ("", "#", ".")]
    found = [line for line in lines if TIMED.fullmatch(line)]
    several = len(found) > 1 or any(re.match(r"\d+\.\d{2}|\d+\s+\d{5}", line) for line in found)
    return bool(CAPTIONS.search(raw)) or bool(found) and len(found) > 0.8 * len(lines) and several


def structured(raw: str) -> str | None:
    """What a file or a cell holds where it holds a format rather than prose."""
    if timed(raw):
        return "labels with times"
    with suppress(ValueError):
        if isinstance(json.loads(raw), dict | list):
            return "JSON"
    return None


def looks_like(texts: Sequence[str], language: str) -> str | None:
    """What a column of texts holds if it is nothing that a person says; None for prose."""
    given = [text.strip() for text in texts if text.strip()]
    if not given:
        return None
    common = Counter(given).most_common(1)[0]
    if len(given) > 2 and common[1] == len(given):
        return f"the same in every line, {_short(common[0])}"
    kinds = {"numbers alone": numbers_alone, "names of files or ids": identifier, "phonemes": lambda text: phonemes(text, language), "labels with times": timed}
    for kind, test in kinds.items():
        if sum(map(bool, map(test, given))) > MOST * len(given):
            return f"{kind}, like {_short(next(filter(test, given)))}"
    return None


def few_different(texts: Sequence[str]) -> str | None:
    """A handful of single words in many lines: labels, or a corpus of commands."""
    different = Counter(texts)
    if len(texts) < 20 or len(different) > len(texts) / 5 or any(len(text.split()) > 1 for text in different):
        return None
    return ", ".join(sorted(different)[:8]) + (", ..." if len(different) > 8 else "")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def text_errors(text: str) -> Iterator[str]:
    if not text:
        yield "its text is empty; write what is said, or take the clip out of the corpus"
    elif not any(character.isalnum() for character in text):
        yield f"its text {text!r} holds no word; write what is said, or take the clip out of the corpus"
    for character in sorted(set(text)):
        if unicodedata.category(character) in ("Cc", "Cs") or character == "\ufffd":
            name = "the sign for a lost character" if character == "\ufffd" else "a control character"
            yield f"its text holds {name}, U+{ord(character):04X}; write the text again"


def text_warnings(text: str, language: str) -> Iterator[tuple[str, str]]:
    """(kind, what to look at) for one text."""
    if found := MARKUP.search(text):
        yield "markup", f"its text holds markup, {found[0]}, which will be taken for words"
    odd = sorted({character for character in text if unicodedata.category(character) in ("Cf", "Co", "Cn")})
    if odd:
        yield "invisible characters", "its text holds invisible or unassigned characters: " + ", ".join(f"U+{ord(one):04X}" for one in odd)
    silent = unspoken(text) if language == "en" else []
    if silent:
        yield "not spoken", f"its text holds {_listed(silent)}, which will not be spoken: English as the tiny bases read it has no sound for it; write words"
    other = [one for one in dict.fromkeys(text) if one.isalpha() and script(one) not in ("LATIN", *SCRIPTS.get(language, ())) and one not in silent]
    if other:
        yield "another script", f"its text holds letters of another script, {_listed(other)} ({script(other[0]).lower()})"


def _listed(characters: Sequence[str]) -> str:
    shown = ", ".join(f"{one} (U+{ord(one):04X})" for one in characters[:3])
    return shown + (f" and {len(characters) - 3} more" if len(characters) > 3 else "")


def script(letter: str) -> str:
    """The first word of a letter's Unicode name, which is its script; "LATIN" also for full-width and letter-like ones."""
    name = unicodedata.name(letter, "UNKNOWN").split()[0]
    return SCRIPT_NAMES.get(name, name)


def language_errors(texts: Sequence[str], language: str) -> Iterator[str]:
    """Texts whose letters are not those of their language."""
    letters = Counter(script(one) for text in texts for one in text if one.isalpha())
    usual = SCRIPTS.get(language, ("LATIN",))
    if letters and sum(letters[one] for one in usual) < 0.5 * letters.total():
        yield f"its letters are {letters.most_common(1)[0][0].title()}, which {language!r} is not written in; set corpus.language to the language that is spoken"


def language_warnings(texts: Sequence[str], language: str) -> Iterator[str]:
    """Texts whose little words are another language's; and what this stage knows of English alone."""
    heard = Counter(word for text in texts for word in plain_words(text))
    shares = {code: sum(heard[word] for word in words) / max(heard.total(), 1) for code, words in COMMONEST.items()}
    likely = max(shares, key=lambda code: shares[code])
    if language in shares and heard.total() > 100 and shares[likely] > 0.05 and shares[likely] > 2 * shares[language]:
        yield f"its commonest words are those of {likely!r}, and corpus.language says {language!r}; set it to the language that is spoken"
    if language != "en":
        yield f"in {language!r}, signs that nobody can read out are not looked for, and the tiny bases (profile tiny) pronounce English alone"
