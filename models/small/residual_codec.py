"""The small codec of paradigm B: a semantic codebook, then residual ones for what it does not say: voice, pitch, loudness.

Codebook 0 is `SemanticQuantiser`. Each semantic entry has a mean patch of the vocoder's frames; what a frame's patch
differs from it is quantised in stages (residual k-means after a PCA). The decoder is `Flow` on all codebooks, without a
speaker vector: the language model has to write the voice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from models.parts.each import each
from models.parts.family import Voice
from models.small import voiceprint
from models.small.flow import Flow, FlowConfig
from models.small.flow_codec import FlowCodec
from models.small.scalars import residual_directions
from models.small.semantic import SemanticQuantiser, kmeans
from models.small.vocoder import BANDS, analyse


class ResidualQuantiser(torch.nn.Module):
    """Patches (T, P) given their semantic ids -> residual codes (T, stages)."""

    means: torch.Tensor
    basis: torch.Tensor

    def __init__(self, semantic: int, patch: int, width: int, entries: Sequence[int]):
        super().__init__()
        self.register_buffer("means", torch.zeros(semantic, width))  # of the patches, in the basis
        self.register_buffer("basis", torch.zeros(patch, width))
        self.stages = torch.nn.ParameterList(torch.nn.Parameter(torch.zeros(n, width), requires_grad=False) for n in entries)

    @torch.no_grad()
    def forward(self, patches: torch.Tensor, semantic: torch.Tensor) -> torch.Tensor:
        rest = patches @ self.basis - self.means[semantic]
        codes = []
        for entries in self.stages:
            nearest = (entries.pow(2).sum(1) - 2 * rest @ entries.T).argmin(1)
            codes.append(nearest)
            rest = rest - entries[nearest]
        return torch.stack(codes, 1)

    @torch.no_grad()
    def fit(self, patches: torch.Tensor, semantic: torch.Tensor, seed: int) -> list[float]:
        """Means, basis and stages from training frames; returns the share of variance explained after each stage."""
        generator = torch.Generator().manual_seed(seed)
        means, directions = residual_directions(patches, semantic, *self.means.shape)
        self.basis.copy_(directions)
        self.means.copy_(means @ self.basis)
        rest = patches - means[semantic]
        total = rest.pow(2).sum()
        lost = total - (rest @ self.basis).pow(2).sum()
        rest = rest @ self.basis
        explained = []
        for entries in self.stages:
            entries.copy_(kmeans(rest, len(entries), generator, 60, 20000))
            rest = rest - entries[(entries.pow(2).sum(1) - 2 * rest @ entries.T).argmin(1)]
            explained.append(1 - float((rest.pow(2).sum() + lost) / total))
        return explained


class ResidualNetwork(torch.nn.Module):
    """Quantisers and decoder: what model.safetensors holds."""

    def __init__(self, config: dict):
        super().__init__()
        patch = config["flow"]["patch"] * BANDS
        semantic, *residual = config["codebooks"]
        self.quantiser = SemanticQuantiser(semantic, config["pca"])
        self.residual = ResidualQuantiser(semantic, patch, config["residual_pca"], residual)
        self.flow = Flow(FlowConfig(codebooks=tuple(config["codebooks"]), **config["flow"]))


class ResidualCodec(FlowCodec):
    """Semantic and residual codebooks; frames of `config["frame"]` samples."""

    network_type: type[torch.nn.Module] = ResidualNetwork

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        return each(self._encode, waves)

    def _encode(self, wave: np.ndarray) -> np.ndarray:
        frames = max(1, -(-len(wave) // self.config["frame"]))
        heard = self.heard(wave)
        semantic = self.network.quantiser(self.features(heard, frames))
        patches = self.vocoder.frames(analyse(heard), frames * self.config["flow"]["patch"])  # silence fills the last one
        residual = self.network.residual(patches.reshape(frames, -1), semantic)
        codes: np.ndarray = torch.cat([semantic[:, None], residual], 1).numpy().astype(np.int32)
        return codes

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        return np.zeros(0, np.float32)

    def decode(self, codes: Sequence[np.ndarray], voice: Voice) -> list[np.ndarray]:
        nobody = torch.zeros(voiceprint.SIZE)
        # The language model has one head width for all codebooks and may write past a smaller one's end.
        codes = [np.minimum(c, np.array(self.contract.vocabulary) - 1) for c in codes]
        return each(lambda one: self.synthesise(one, nobody), codes)
