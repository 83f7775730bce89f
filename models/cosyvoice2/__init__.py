"""CosyVoice 2: the zero-shot control. Qwen2 writes 25 semantic tokens a second, a flow decoder speaks them (paradigm A)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.cosyvoice2 import dataset
from models.cosyvoice2.codec import CosyVoice2Codec
from models.cosyvoice2.network import RELEASED, VERSION
from models.parts.family import Example
from models.parts.speech_lm import SpeechLMFamily


class CosyVoice2(SpeechLMFamily):
    name = "cosyvoice2"
    version = VERSION
    released = RELEASED

    def small_codec(self, folder: Path) -> CosyVoice2Codec:
        return CosyVoice2Codec(folder)

    def write(self, examples: Sequence[Example], folder: Path) -> None:
        dataset.write(examples, folder)

    def read(self, folder: Path) -> list[Example]:
        return dataset.read(folder)


FAMILY = CosyVoice2
