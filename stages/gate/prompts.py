"""The texts that every checkpoint of every family has to speak, and the recordings that they are judged against.

Half of a tier's prompts are sentences of the test split, which nobody trained on; the other half are general and the
same for every corpus. Short test clips are joined until a tier's length is reached, text and audio alike.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from stages.gate.spoken import spoken
from stages.gate.verdict import TIERS

FEWEST_WORDS = 3  # a clip of one letter or one number says nothing about reading a text

# Telephone prompts and everyday English, without rare names. Each paragraph lasts half a minute or more, and the
# shorter tiers take its first sentences.
GENERAL = (
    "Please hold the line while we look for the next free agent. If you would rather leave a message, press one "
    "after the tone. To hear your balance, press two, and to speak with an operator, press zero. Your call may be "
    "recorded, so that we can answer better the next time. Our office is open from nine in the morning until five "
    "in the afternoon. On Sunday we are closed, but you can always send us a letter. Thank you for calling, and "
    "have a pleasant day.",
    "The weather was warm this morning, so we walked along the river. My sister carried the bread, and I carried "
    "a bottle of water. After an hour we found a quiet place under a tall tree. Two small birds came close and "
    "waited for their share. In the evening it began to rain, and we ran home together. We hung our wet coats "
    "near the kitchen door and made some tea. Tomorrow we will take the bus, because the road is long.",
    "You have three new messages and two old messages. The first message was left on Tuesday at ten in the "
    "morning. To listen to it again, press one, or press seven to delete it. If this is not your mailbox, please "
    "hang up and try the number once more. Before you leave a message, wait for the sound of the tone. When you "
    "have finished, press the pound key, and your message will be saved. To change your greeting or your "
    "password, return to the main menu.",
    "Last winter my brother bought an old house near the station. The roof was broken, and most of the windows "
    "did not close. Every Saturday we drove there with paint, nails, and a box of tools. By the end of April the "
    "rooms were dry and the floor was new. Now his children have a garden where they can play all day. When the "
    "train goes by, they stop and wave to the driver. He says that it was hard work, but he would do it again.",
    "This conference will begin when the leader arrives. Please say your name after the tone, and then press the "
    "pound key. You can mute your own line with star six. To raise the volume, press nine, and to lower it, press "
    "four. If somebody cannot hear you, check that your telephone is not muted. There are five other people on "
    "this call, and one more is waiting. At the end, everyone will receive a short list of what was said today.",
    "The library opens at eight, and the first visitors are already waiting outside. Most of them read the "
    "newspaper at the long table by the window. A teacher is looking for a story about the sea for her class. She "
    "asks for help, and the clerk brings her three books and a map. Nobody speaks loudly here, except for the "
    "clock above the door. When it rains, the room is full, and someone always falls asleep. At six the lights go "
    "out, and the street is quiet again.",
)


@dataclass(frozen=True)
class Prompt:
    """One text of a tier. `clips` are the corpus clips that say it, for the held-out ones."""

    id: str
    tier: str
    kind: str  # held-out | general
    text: str
    clips: tuple[str, ...] = ()


def recordings(manifest: list[dict[str, Any]], tier: str) -> list[Prompt]:
    """The test split as takes of one tier: clips joined, in an order that follows from their ids, until long enough.

    No clip stands in two takes. Clips of less than a phrase are left out, and takes that would be much too long or short.
    """
    length = TIERS[tier]
    test = [row for row in manifest if row["split"] == "test" and len(spoken(row["text"])) >= FEWEST_WORDS]
    test.sort(key=lambda row: hashlib.sha256(row["id"].encode()).hexdigest())
    groups: list[list[dict[str, Any]]] = []
    for row in test:  # into the first take that has room for it
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


def clips(manifest: list[dict[str, Any]]) -> list[Prompt]:
    """Every clip of the test split that is a phrase or more, as a take of its own."""
    test = [row for row in manifest if row["split"] == "test" and len(spoken(row["text"])) >= FEWEST_WORDS]
    return [
        Prompt(f"clip-{number}", tier_of(row["seconds"]), "held-out", row["text"], (row["id"],))
        for number, row in enumerate(test, 1)
    ]


def tier_of(seconds: float) -> str:
    """The tier whose length is nearest, as a ratio."""
    return min(TIERS, key=lambda tier: max(seconds / TIERS[tier], TIERS[tier] / max(seconds, 0.01)))


def _seconds(rows: list[dict[str, Any]]) -> float:
    return float(sum(row["seconds"] for row in rows))


def prompts(manifest: list[dict[str, Any]], words_per_second: float, count: int) -> list[Prompt]:
    """`count` prompts for each tier, held-out ones first; where the test split is too small, more general ones."""
    chosen = []
    for tier in TIERS:
        held_out = recordings(manifest, tier)[: (count + 1) // 2]
        words = TIERS[tier] * words_per_second
        chosen += held_out
        chosen += [
            Prompt(f"general-{tier}-{number}", tier, "general", _general(tier, number, words))
            for number in range(1, count - len(held_out) + 1)
        ]
    return chosen


def _general(tier: str, number: int, words: float) -> str:
    """About `words` words, in whole sentences; each tier starts in paragraphs of its own."""
    start = (list(TIERS).index(tier) * 2 + number - 1) % len(GENERAL)
    text: list[str] = []
    for sentence in " ".join(GENERAL[start:] + GENERAL[:start]).split(". "):
        text.append(sentence.removesuffix(".") + ".")
        if len(spoken(" ".join(text))) >= 0.9 * words:
            break
    return " ".join(text)


def _ended(text: str) -> str:
    """A clip's text as a sentence: "... for ..." is a piece of a longer one, and joined texts need an end."""
    text = text.strip(" .…")
    return text if text.endswith(("!", "?")) else text + "."
