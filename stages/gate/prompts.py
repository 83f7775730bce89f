"""The bank of texts that checkpoints have to speak, and the recordings that they are judged against.

Half of a length's texts are sentences of the test split, which nobody trained on, joined until the length is reached;
the other half are general (texts/<language>.txt) and the same for every corpus. A seed shuffles each half, so that
another one asks for other texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice, pairwise, zip_longest
from pathlib import Path
from typing import Any

from models.parts.errors import UserError
from stages.common.params import GateParams
from stages.gate.spoken import spoken

TIERS = {"5s": 5.0, "15s": 15.0, "30s": 30.0}  # seconds of speech that a text of the tier should last
WHOLE = "30s-whole"  # the texts of the longest tier, read in one go
TEXTS = Path(__file__).parent / "texts"
FEWEST_WORDS = 3  # a clip of one letter or one number says nothing about reading a text
HELD_OUT = 12     # texts of a tier that are made of the test split, where it is large enough
Clip = dict[str, Any]  # a row of the corpus' manifest


@dataclass(frozen=True)
class Prompt:
    """One text of a tier. `clips` are the corpus clips that say it, for the held-out ones."""

    id: str
    tier: str
    kind: str  # held-out | general
    text: str
    clips: tuple[str, ...] = ()


Reading = tuple[Prompt, int]  # a text, and the seed to speak it with
Round = dict[str, list[Reading]]  # by tier: what a candidate is asked to read at a time


def bank(manifest: Sequence[Clip], words_per_second: float, language: str, seed: int, whole: bool) -> dict[str, list[Prompt]]:
    """The texts of each tier in the order in which they are asked for: held-out and general ones in turn.

    With `whole`, those of 30 s come again as a tier of their own, to be read in one go.
    """

    def shuffled(prompts: list[Prompt]) -> list[Prompt]:
        return sorted(prompts, key=lambda prompt: hashlib.sha256(f"{seed}/{prompt.id}".encode()).digest())

    found = {}
    for tier in TIERS:
        pairs = zip_longest(shuffled(held_out(manifest, tier)), shuffled(general(language, tier, words_per_second)))
        found[tier] = [prompt for prompt in chain.from_iterable(pairs) if prompt]
        if not found[tier]:
            raise UserError(
                f"data/corpus: no text for the gate: no general ones in {language!r} ({TEXTS}), and the test split makes none of {tier}; "
                "raise corpus.test, or add such a file"
            )
    if whole:
        found[WHOLE] = [replace(prompt, id=f"{prompt.id}-whole", tier=WHOLE) for prompt in found["30s"]]
    return found


def rounds(texts: dict[str, list[Prompt]], gate: GateParams) -> list[Round]:
    """What a candidate may be asked to read: the first `gate.screen` of each tier for screening, and the others for confirming,
    `gate.batch` a round, up to the budget. Texts that are used up come again with another seed."""
    edges = [0, *range(gate.screen, gate.screen + gate.budget + 1, gate.batch)]
    readings = {tier: list(islice(endless(prompts, gate.seed), edges[-1])) for tier, prompts in texts.items()}
    return [{tier: some[start:end] for tier, some in readings.items()} for start, end in pairwise(edges)]


def endless(prompts: Sequence[Prompt], seed: int) -> Iterator[Reading]:
    """`prompts` with the seed to speak them with, again and again, each time with another seed."""
    return ((prompt, seed + lap) for lap in count() for prompt in prompts)


# --- held-out texts ---------------------------------------------------------------------------------------------------


def held_out(manifest: Sequence[Clip], tier: str) -> list[Prompt]:
    """At most `HELD_OUT` texts: first the recordings of the tier, then the same clips in other company."""
    found = recordings(manifest, tier)[:HELD_OUT]
    texts = {frozenset(prompt.clips) for prompt in found}
    for shuffle in range(1, 4 * HELD_OUT):
        if len(found) == HELD_OUT:
            break
        for prompt in _joined(_phrases(manifest, f"{shuffle}/"), tier)[:1]:
            if frozenset(prompt.clips) not in texts:
                texts.add(frozenset(prompt.clips))
                found.append(replace(prompt, id=f"mix-{tier}-{len(texts)}"))
    return found


def recordings(manifest: Sequence[Clip], tier: str) -> list[Prompt]:
    """The test split as takes of one tier: clips joined, in an order that follows from their ids, until long enough.

    No clip stands in two takes. Clips of less than a phrase are left out, and takes that would be much too long or short.
    """
    return _joined(_phrases(manifest), tier)


def clips(manifest: Sequence[Clip]) -> list[Prompt]:
    """Every clip of the test split that is a phrase or more, as a take of its own."""
    return [
        Prompt(f"clip-{number}", tier_of(row["seconds"]), "held-out", row["text"], (row["id"],))
        for number, row in enumerate((row for row in manifest if _phrase(row)), 1)
    ]


def _phrase(row: Clip) -> bool:
    return row["split"] == "test" and len(spoken(row["text"])) >= FEWEST_WORDS


def _phrases(manifest: Sequence[Clip], shuffle: str = "") -> list[Clip]:
    return sorted(filter(_phrase, manifest), key=lambda row: hashlib.sha256(f"{shuffle}{row['id']}".encode()).hexdigest())


def _joined(phrases: list[Clip], tier: str) -> list[Prompt]:
    """Each clip goes into the first take that has room for it."""
    length = TIERS[tier]
    groups: list[list[Clip]] = []
    for row in phrases:
        room = (group for group in groups if _seconds(group) < 0.9 * length and _seconds([*group, row]) <= 1.5 * length)
        group = next(room, None)
        if group is not None:
            group.append(row)
        elif row["seconds"] <= 1.5 * length:
            groups.append([row])
    groups = [group for group in groups if _seconds(group) >= 0.9 * length]
    return [
        Prompt(
            f"test-{tier}-{number}", tier, "held-out",
            " ".join(_ended(row["text"]) for row in group), tuple(row["id"] for row in group),
        )
        for number, group in enumerate(groups, 1)
    ]  # fmt: skip


def _seconds(rows: list[Clip]) -> float:
    return float(sum(row["seconds"] for row in rows))


def _ended(text: str) -> str:
    """A clip's text as a sentence: "... for ..." is a piece of a longer one, and joined texts need an end."""
    text = text.strip(" .…")
    return text if text.endswith(("!", "?")) else text + "."


def tier_of(seconds: float) -> str:
    """The tier whose length is nearest, as a ratio."""
    return min(TIERS, key=lambda tier: max(seconds / TIERS[tier], TIERS[tier] / max(seconds, 0.01)))


# --- general texts ----------------------------------------------------------------------------------------------------


def general(language: str, tier: str, words_per_second: float) -> list[Prompt]:
    """One prompt for each text of the language, in whole sentences; none where there is no file for the language."""
    path = TEXTS / f"{language}.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    texts = [line.partition(": ")[::2] for line in lines if line and not line.startswith("#")]
    words = TIERS[tier] * words_per_second
    return [
        Prompt(f"{kind}-{number}-{tier}", tier, "general", _opening(texts[number - 1 :] + texts, list(TIERS).index(tier), words))
        for number, (kind, _) in enumerate(texts, 1)
    ]


def _opening(texts: list[tuple[str, str]], first: int, words: float) -> str:
    """About `words` words in whole sentences from sentence `first` of the first text on, so that tiers begin differently."""
    said: list[str] = []
    for sentence in [sentence for _, text in texts for sentence in _sentences(text)][first:]:
        said.append(sentence)
        if len(spoken(" ".join(said))) >= 0.9 * words:
            break
    return " ".join(said)


def _sentences(text: str) -> list[str]:
    """`text` after every full stop or question mark."""
    return text.replace(". ", ".\n").replace("? ", "?\n").split("\n")
