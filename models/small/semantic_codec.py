"""The small codec of paradigm A: semantic tokens in, speech of any voice out.

Encoding is `SemanticQuantiser`; decoding is `Flow` on a voiceprint.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from models.parts.each import each
from models.parts.family import Voice
from models.small.flow import Flow, FlowConfig
from models.small.flow_codec import FlowCodec
from models.small.semantic import SemanticQuantiser
from models.small.vocoder import analyse
from models.small.voiceprint import voiceprint


class SemanticNetwork(torch.nn.Module):
    """Quantiser and decoder: what model.safetensors holds."""

    def __init__(self, config: dict):
        super().__init__()
        self.quantiser = SemanticQuantiser(config["codebooks"][0], config["pca"])
        self.flow = Flow(FlowConfig(codebooks=tuple(config["codebooks"]), **config["flow"]))


class SemanticCodec(FlowCodec):
    """One codebook of semantic tokens; the voice comes from the speaker's voiceprint."""

    network_type = SemanticNetwork

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        return each(self._encode, waves)

    def _encode(self, wave: np.ndarray) -> np.ndarray:
        codes: np.ndarray = self.network.quantiser(self.around_tokens(wave)).numpy()[:, None].astype(np.int32)
        return codes

    def around_tokens(self, wave: np.ndarray) -> torch.Tensor:
        """`features` of all tokens of a wave, the last one perhaps not full."""
        tokens = max(1, -(-int(len(wave) * self.contract.token_rate) // self.contract.sample_rate))
        return self.features(self.heard(wave), tokens)

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        return voiceprint(analyse(self.heard(wave)))

    def decode(self, codes: Sequence[np.ndarray], voice: Voice) -> list[np.ndarray]:
        prints = torch.from_numpy(voice.speaker_embedding)
        return each(lambda one: self.synthesise(one, prints), codes)
