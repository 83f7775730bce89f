"""A family that speaks with real recordings, for tests: it reads the texts of the clips that it was given, word for word.

Its checkpoints are what the gate has to tell apart: the base breaks down on one text, others lose a phrase, forget what
comes late, or read everything. It is copied to models/talker/ of a throwaway repository.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import copy
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from models.parts.family import AdaptSettings, Codec, Contract, Family, Generation, Sampling, Voice

RATE = 16_000


class Clips(Codec):
    """One frame is one clip; its code is the clip's place in texts.json. Training makes the decoder as loud as the network says."""

    volume = 1.0

    def __init__(self, weights: Path):
        count = len(json.loads((weights / "texts.json").read_text()))
        self.contract = Contract("clips", "0", RATE, 1.0, 1, (count,))
        self.output_sample_rate = RATE
        self.waves = [sf.read(weights / f"{index}.flac", dtype="float32")[0] for index in range(count)]

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The clip that is as long as the wave, whatever it says."""
        lengths = np.array([len(clip) for clip in self.waves])
        return [np.array([[np.abs(lengths - len(wave)).argmin()]], np.int32) for wave in waves]

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        return np.zeros(0, np.float32)

    def decode(self, codes: Sequence[np.ndarray], voice: Voice) -> list[np.ndarray]:
        pause = np.zeros(RATE // 4, np.float32)
        return [self.volume * np.concatenate([p for code in one[:, 0] for p in (self.waves[code], pause)][:-1]) for one in codes]

    def tuned(self, network: torch.nn.Module) -> Codec:
        assert isinstance(network, Memory)
        codec = copy(self)
        codec.volume = network.volume
        return codec


class Memory(torch.nn.Module):
    """`lost` is the clip that is never said (-1: none), `broken` the one that cannot be read at all; after `most` clips of
    a text it has forgotten the rest. `volume`: of its decoder."""

    def __init__(self, texts: list[str], lost: int = -1, broken: int = -1, most: int = 99, volume: float = 1.0):
        super().__init__()
        self.texts, self.lost, self.broken, self.most, self.volume = texts, lost, broken, most, volume


class Talker(Family):
    name = "talker"

    def codec(self, weights: Path) -> Codec:
        return Clips(weights)

    def network(
        self, weights: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Memory:
        return Memory(json.loads((weights / "texts.json").read_text()), broken=0)

    def merged(
        self, weights: Path, state: dict[str, torch.Tensor], settings: AdaptSettings, scale: float,
        dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    ) -> Memory:  # fmt: skip
        assert settings.targets == ("memory",)
        lost = int(state["lost"] if scale <= 0.5 else state["strong"])
        return Memory(self.network(weights).texts, lost, most=int(state["most"]), volume=float(state["volume"]))

    def generate(
        self, network: torch.nn.Module, texts: Sequence[str], voice: Voice, sampling: Sampling, seeds: Sequence[int],
        max_frames: Sequence[int],
    ) -> list[Generation]:  # fmt: skip
        assert isinstance(network, Memory)
        return [self._read(network, text) for text in texts]

    def _read(self, network: Memory, text: str) -> Generation:
        codes = []
        while text:
            code, said = next((code, said) for code, said in enumerate(network.texts) if text.startswith(said))
            if code == network.broken:
                raise RuntimeError("lost for words")
            codes += [code] if code != network.lost else []
            codes = codes[: network.most]
            text = text[len(said) :].strip()
        return Generation(np.array(codes, np.int32).reshape(-1, 1), "stop", np.zeros(0, np.float32))


Talker.__abstractmethods__ = frozenset()  # the gate needs no more of a family than this
FAMILY = Talker
