"""The noise that CosyVoice draws once, when it is loaded, and keeps: no weight of the release, but part of how it sounds.

Upstream sets every seed to 0, draws the table from which each mel begins, builds some layers, whose first values come from
the same generator, and draws what its vocoder hears as noise (FunAudioLLM/CosyVoice, cosyvoice/flow/flow_matching.py,
cosyvoice/hifigan/generator.py, in the order of examples/libritts/cosyvoice3/conf/cosyvoice3.yaml).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn

from models.released.flow import BANDS, SPEAKER
from models.released.hift import FRAME, HARMONICS, Noise, Pitch
from models.released.s3 import CODES

FRAMES = 15000  # of the table: 300 s


@lru_cache(maxsize=1)
def flow_table() -> torch.Tensor:
    """Float32 (80, 15000), of which a mel of T frames, its reference's among them, begins with the first T columns."""
    return torch.randn(1, BANDS, FRAMES, generator=torch.Generator().manual_seed(0))[0]


def vocoder_noise(frames: int) -> Noise:
    """Of version 3's vocoder: uniform, and the same in every take as far as it goes."""
    generator = torch.Generator()
    generator.set_state(_before_the_vocoder())
    # Upstream draws 300 s of it; a shorter draw is the head of a longer one.
    return Noise(torch.rand(frames * FRAME, HARMONICS, generator=generator), torch.zeros(HARMONICS))


@lru_cache(maxsize=1)
def _before_the_vocoder() -> torch.Tensor:
    """The generator's state behind all that upstream draws before, at the released sizes whatever the weights' are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.randn(1, BANDS, FRAMES)
        nn.Embedding(CODES, BANDS), nn.Linear(SPEAKER, BANDS), Pitch(512, causal=True)
        torch.rand(1, HARMONICS)  # where phases begin, which is not heard
        return torch.random.get_rng_state()
