"""RepCodec, MaskGCT's tokeniser: what w2v-bert hears to codes, and codes to vectors (index-tts/index-tts, indextts/utils/maskgct/models/codec).

Not causal: a code depends on the 39 frames before it and behind it, so a clip is heard alone and never padded.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from models.released.convnext import ConvNeXt
from models.released.shapes import Shapes, count


class Backbone(nn.Module):
    """(1, inputs, T) to (1, T, width): Vocos' (arXiv 2306.00814)."""

    def __init__(self, inputs: int, width: int, inner: int, layers: int):
        super().__init__()
        self.embed = nn.Conv1d(inputs, width, 7, padding=3)
        self.norm, self.final_layer_norm = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.convnext = nn.ModuleList(ConvNeXt(width, nn.Conv1d(width, width, 7, padding=3, groups=width), inner) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.embed(x).transpose(1, 2)).transpose(1, 2)
        for block in self.convnext:
            x = block(x)
        y: torch.Tensor = self.final_layer_norm(x.transpose(1, 2))
        return y


class Quantiser(nn.Module):
    """The entry nearest by angle, in few dimensions; what is looked up is the entry as it is stored, of its own length."""

    def __init__(self, width: int, entries: int, narrow: int):
        super().__init__()
        self.in_project, self.out_project = nn.Conv1d(width, narrow, 1), nn.Conv1d(narrow, width, 1)
        self.codebook = nn.Embedding(entries, narrow)

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """(1, width, T) to (T,)."""
        asked = F.normalize(self.in_project(x)[0].T)
        return (asked @ F.normalize(self.codebook.weight).T).argmax(-1)

    def vectors(self, codes: torch.Tensor) -> torch.Tensor:
        """(T,) to (T, width)."""
        found: torch.Tensor = self.out_project(self.codebook(codes).T[None])[0].T
        return found


class RepCodec(nn.Module):
    def __init__(self, hidden: int, width: int, inner: int, layers: int, entries: int, narrow: int):
        super().__init__()
        self.encoder = nn.Sequential(Backbone(hidden, width, inner, layers), nn.Linear(width, hidden))
        self.quantizer = nn.ModuleDict({"quantizers": nn.ModuleList([Quantiser(hidden, entries, narrow)])})

    @classmethod
    def like(cls, shapes: Shapes) -> RepCodec:
        """Of the sizes that the tensors of a file have; KeyError for one that is no such codec."""
        inner, width = shapes["encoder.0.convnext.0.pwconv1.weight"]
        entries, narrow = shapes["quantizer.quantizers.0.codebook.weight"]
        return cls(shapes["encoder.1.weight"][0], width, inner, count(shapes, "encoder.0.convnext."), entries, narrow)

    @property
    def quantiser(self) -> Quantiser:
        found: Quantiser = self.quantizer["quantizers"][0]  # type: ignore[index,assignment]
        return found

    def codes(self, points: torch.Tensor) -> torch.Tensor:
        """What w2v-bert hears, (T, hidden), to int64 codes (T,)."""
        return self.quantiser.codes(self.encoder(points.T[None]).transpose(1, 2))

    def vectors(self, codes: torch.Tensor) -> torch.Tensor:
        return self.quantiser.vectors(codes)
