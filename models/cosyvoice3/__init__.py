"""CosyVoice 3: Qwen2 writes 25 semantic tokens a second; a flow decoder gives them the speaker's voice (paradigm A)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.cosyvoice3 import dataset
from models.cosyvoice3.codec import CosyVoice3Codec
from models.cosyvoice3.network import RELEASED, VERSION
from models.parts.family import Example
from models.parts.speech_lm import SpeechLMFamily


class CosyVoice3(SpeechLMFamily):
    name = "cosyvoice3"
    version = VERSION
    released = RELEASED

    def small_codec(self, folder: Path) -> CosyVoice3Codec:
        return CosyVoice3Codec(folder)

    def write(self, examples: Sequence[Example], folder: Path) -> None:
        dataset.write(examples, folder)

    def read(self, folder: Path) -> list[Example]:
        return dataset.read(folder)


FAMILY = CosyVoice3
