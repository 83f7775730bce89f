"""Natural voices for the tiny bases: Kokoro reads the made-up sentences in 26 English voices, two are kept for the bench.

Its phones come with their times, in the alphabet that the tiny bases read (models/small/phones.py).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torchaudio
from tqdm import tqdm

from models.small.phones import PAUSE
from stages.bases.kokoro import SAMPLE_RATE, Kokoro, Reading, Word
from stages.bases.voices import SAMPLE_RATE as RATE
from stages.bases.voices import Phone
from stages.common.shards import Clip, write_shards

HELD_OUT = ("af_heart", "bm_george")  # whom no base has heard
SHORTEST_PAUSE = 0.12  # seconds; what is shorter between two words belongs to both
# Kokoro's letters; what is missing here are marks of stress and length, which belong to the vowel.
PHONES = {
    "æ": "ae", "a": "ae", "ɑ": "aa", "ɒ": "aa", "ɔ": "ao", "o": "ao", "ə": "ax", "ᵊ": "ax", "ɛ": "eh", "e": "eh", "ɜ": "er",
    "ɪ": "ih", "ᵻ": "ih", "i": "iy", "ʊ": "uh", "u": "uw", "ʌ": "ah", "A": "ey", "I": "ay", "W": "aw", "Y": "oy", "O": "ow",
    "Q": "ow", "ʤ": "jh", "ʧ": "ch", "ð": "dh", "θ": "th", "ŋ": "ng", "ʃ": "sh", "ʒ": "zh", "ɹ": "r", "ɾ": "d", "j": "y",
    "ɡ": "g", "h": "hh", **{letter: letter for letter in "bdfklmnpstvwz"},
}  # fmt: skip
VOWELS = frozenset("æaɑɒɔoəᵊɛeɜɪᵻiʊuʌAIWYOQ")


def read_naturally(folder: Path, texts: Sequence[str], seed: int) -> list[dict]:
    """Read texts aloud into audio shards (16 kHz) below `folder`; returns manifest rows (id, text, speaker, phones, seconds).
    UserError for a text that holds a word without phones."""
    kokoro, rows = Kokoro(), list[dict]()
    names = [voice for voice in kokoro.voices() if voice not in HELD_OUT]
    voices = [random.Random(f"{seed}/{index}").choice(names) for index in range(len(texts))]  # a longer corpus begins like a shorter one
    words = [kokoro.words(text, voice) for text, voice in zip(texts, voices, strict=True)]  # espeak-ng does one thing at a time

    def clips() -> Iterator[Clip]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            read = pool.map(kokoro.read, words, voices)
            for index, reading in enumerate(tqdm(read, total=len(texts), desc="natural voices", unit="clip", mininterval=5)):
                clip_id = f"{voices[index]}-{index:06d}"
                wave = torchaudio.functional.resample(torch.from_numpy(reading.audio), SAMPLE_RATE, RATE).numpy()
                rows.append({
                    "id": clip_id, "text": texts[index], "speaker": voices[index], "phones": timed_phones(reading), "seconds": len(wave) / RATE,
                })  # fmt: skip
                yield Clip(clip_id, RATE, wave)

    write_shards(folder, clips())
    return rows


def timed_phones(reading: Reading) -> list[Phone]:
    """The phones of a reading, and when each ends (seconds); between words that are apart, and at both ends, there is a pause."""
    said: list[tuple[str, int]] = [(PAUSE, reading.words[0].start)]
    for word in reading.words:
        gap = word.start - said[-1][1]
        if gap > SHORTEST_PAUSE * SAMPLE_RATE:
            said.append((PAUSE, word.start))
        elif gap:
            said[-1] = (said[-1][0], said[-1][1] + gap // 2)
        said += _of_word(word)
    return [(name, end / SAMPLE_RATE) for name, end in [*said, (PAUSE, len(reading.audio))]]


def _of_word(word: Word) -> list[tuple[str, int]]:
    """Its phones, and the sample at which each ends."""
    found: list[tuple[str, int]] = []
    before = ""
    for place, letter in enumerate(word.phones):
        end, after = word.edges[place + 1], word.phones[place + 1 : place + 2]
        if letter in PHONES:
            if letter == "ɹ" and before in ("ə", "ɜ") and after not in VOWELS | {"ˈ", "ˌ"}:  # "letter", not "around"
                found[-1] = ("er", end)
            else:
                found.append((PHONES[letter], end))
            before = letter
        elif found and letter not in "ˈˌ":
            found[-1] = (found[-1][0], end)
    return found
