"""Which sentences are trained on, and which are held out.

A sentence's hash gives it a place between 0 and 1, and the shares of params.yaml divide that line, so a sentence stays
in its split whatever else the corpus gains or loses. Chance deals badly with few sentences: there, a split takes at
least `LEAST` sentences and at most half as many again as its share says, the next ones on the line.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection

from stages.common.languages import words
from stages.common.params import CorpusParams

SPLITS = ("train", "validation", "test")
LEAST = {"test": 2, "validation": 1}  # sentences, where the share is not 0
PHRASE = 3  # words: the gate takes no shorter recordings for its noise floor


def sentence(text: str) -> str:
    """What makes two texts the same sentence: their words, without case, punctuation and spacing."""
    return " ".join(re.sub(r"[^\w\s]|_", "", text.casefold()).split())


def place(text: str) -> float:
    """Where a sentence stands on the line from 0 to 1."""
    return int.from_bytes(hashlib.sha256(sentence(text).encode()).digest()[:8], "big") / 2**64


def split_of(text: str, params: CorpusParams) -> str:
    """The split of a sentence by its place alone."""
    if place(text) < params.test:
        return "test"
    return "validation" if place(text) < params.test + params.validation else "train"


def splits_of(texts: Collection[str], params: CorpusParams) -> dict[str, str]:
    """The split of every sentence of a corpus, by `sentence(text)`."""
    line = sorted({sentence(text) for text in texts}, key=lambda text: (place(text), text))
    found = {text: split_of(text, params) for text in line}
    for split, share in (("test", params.test), ("validation", params.validation)):
        if not share:
            continue
        inside = [text for text in line if found[text] == split]
        most = max(LEAST[split], int(1.5 * share * len(line)))
        useful = [text for text in line if split == "validation" or words(text, params.language) >= PHRASE]
        fit = [text for text in useful if found[text] == split]
        free = [text for text in useful if found[text] == "train" or split == "test" and found[text] == "validation"]
        wanted = dict.fromkeys([*fit, *free[: max(LEAST[split] - len(fit), 0)], *inside])
        found |= dict.fromkeys(inside, "train") | dict.fromkeys([*wanted][:most], split)
    return found
