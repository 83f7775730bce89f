"""Text as it is pronounced, which is what the tiny bases read: flite's phones, as the synthetic voices say them.

Three million weights that have heard a day of speech do not learn how English is spelt (models/small/BASES.md has the
figures). Released networks do, and read their own tokens.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from models.parts.errors import UserError
from models.small.plain import plain

PAUSE = "pau"
PHONES = (
    "aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z zh"
).split()
ADDRESS = re.compile(r"(?<=\w\w)\.(?=[a-z][\w-])")  # the dots of www.asterisk.org, which flite passes over
KEYS = {"*": " star ", "#": " pound ", "&": " and "}  # as a telephone says them
_known: dict[str, str] = {}


def phone_tokenizer(special: Sequence[str]) -> Tokenizer:
    """One token a phone, `special` before them. Phones are separated by spaces: `pronounced` writes such texts."""
    vocabulary = {token: index for index, token in enumerate([*special, PAUSE, *PHONES])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAUSE))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer


def pronounced(text: str) -> str:
    """The phones of a text, separated by spaces; empty where there is nothing to say. UserError without flite."""
    text = _plain(text)
    if text not in _known:
        _known[text] = _phones(_flite(text).split()) if any(c.isalnum() for c in text) else ""
    return _known[text]


def remember(text: str, phones: Iterable[str]) -> None:
    """This is how `text` was said: `pronounced` need not ask."""
    _known[_plain(text)] = _phones(phones)


def _flite(text: str) -> str:
    """kal16 is the voice that is quickest; how words are pronounced is the same for all of them."""
    try:
        return subprocess.run(["flite", "-voice", "kal16", "-ps", "-t", text, "-o", "none"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"flite: {error}; the tiny bases read phones, which it makes of text: `apt-get install flite`") from None


def _phones(phones: Iterable[str]) -> str:
    """Without the pauses at both ends."""
    return " ".join(phones).removeprefix(PAUSE).removesuffix(PAUSE).strip()


def _plain(text: str) -> str:
    """Written out in ASCII, keys as words; how a text begins and ends changes no phone."""
    text = plain(text)
    for key, word in KEYS.items():
        text = text.replace(key, word)
    text = ADDRESS.sub(" dot ", text)
    text = " ".join(text.split()).rstrip(" .,?!")
    return text[:1].upper() + text[1:]
