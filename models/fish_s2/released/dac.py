"""S2's codec: 44.1 kHz in and out, 2048 samples a frame, one semantic codebook and nine residual ones.

fishaudio/fish-speech, fish_speech/models/dac/modded_dac.py and rvq.py, configs/modded_dac_vq.yaml.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from models.fish_s2.released.blocks import (
    CausalConv,
    Projection,
    ResidualUnit,
    Snake,
    Transformer,
    Upsampling,
)
from models.released.convnext import ConvNeXt

DILATIONS = (1, 3, 9)
FURTHER = (2, 2)  # the quantiser works on frames so many times longer than the encoder's
ENCODER_WINDOW = 512  # frames before `FURTHER`. The configuration names none: it is the default of upstream's class
DIRECTION = "conv.parametrizations.weight.original1"
KERNEL = 7  # of convolutions that change neither length nor channels
PIECE = 128  # frames of the encoder (1.5 s) that pass through the long, outer layers at once


@dataclass(frozen=True)
class Sizes:
    """What a codec's tensors say of it. The release has no configuration, and our rehearsal's codec is smaller."""

    encoder_dim: int
    encoder_rates: tuple[int, ...]
    encoder_layers: int
    encoder_inner: int
    decoder_dim: int
    decoder_rates: tuple[int, ...]
    layers: int
    inner: int
    codebook_dim: int
    entries: tuple[int, ...]  # of each codebook, the semantic one first
    window: int = 128  # frames that the transformers at the quantiser see

    @property
    def width(self) -> int:
        """Channels between encoder and decoder."""
        return self.encoder_dim << len(self.encoder_rates)

    @property
    def frame(self) -> int:
        """Samples of a frame."""
        return math.prod(self.encoder_rates) * math.prod(FURTHER)

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]]) -> Sizes:
        """From the shapes of the release's tensors by name. KeyError for one that every codec of this kind has."""

        def each(pattern: str, start: int = 0) -> Iterator[Sequence[int]]:
            names = takewhile(shapes.__contains__, (pattern.format(n) for n in count(start)))
            return (shapes[name] for name in names)

        def layers(transformer: str) -> tuple[int, int]:
            first = shapes[f"{transformer}.layers.0.feed_forward.w1.weight"]
            return len([*each(transformer + ".layers.{}.feed_forward.w1.weight")]), first[0]

        encoder_rates = tuple(shape[2] // 2 for shape in each(f"encoder.block.{{}}.block.4.{DIRECTION}", 1))
        semantic = shapes["quantizer.semantic_quantizer.quantizers.0.codebook.weight"]
        residual = each("quantizer.quantizer.quantizers.{}.codebook.weight")
        return cls(
            shapes["encoder.block.0.conv.bias"][0], encoder_rates, *layers(f"encoder.block.{len(encoder_rates)}.block.5"),
            shapes["decoder.model.0.conv.bias"][0],
            tuple(shape[2] // 2 for shape in each(f"decoder.model.{{}}.block.1.{DIRECTION}", 1)),
            *layers("quantizer.pre_module"), semantic[1], (semantic[0], *(shape[0] for shape in residual)),
        )  # fmt: skip


class EncoderBlock(nn.Module):
    """Twice the channels, a `rate`-th of the length; the last block has a transformer behind it."""

    def __init__(self, channels: int, rate: int, *transformer: Transformer):
        super().__init__()
        units, down = (ResidualUnit(channels, d) for d in DILATIONS), CausalConv(channels, 2 * channels, 2 * rate, rate)
        self.block = nn.Sequential(*units, Snake(channels), down, *transformer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class Encoder(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        widths, width, last = [sizes.encoder_dim << n for n in range(len(sizes.encoder_rates))], sizes.width, sizes.encoder_rates[-1]
        blocks = [EncoderBlock(channels, rate) for channels, rate in zip(widths[:-1], sizes.encoder_rates, strict=False)]
        transformer = Transformer(width, sizes.encoder_layers, sizes.encoder_inner, ENCODER_WINDOW)
        blocks.append(EncoderBlock(widths[-1], last, transformer))
        self.block = nn.Sequential(CausalConv(1, widths[0], KERNEL), *blocks, Snake(width), CausalConv(width, width, 3))

        self.hop = math.prod(sizes.encoder_rates)
        self.context = self.hop * math.ceil(_reach(sizes.encoder_rates, strided=True) / self.hop)

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        """(B, 1, samples) to (B, width, samples / hop)."""
        last: Any = self.block[-3]  # its own last block is the transformer, which hears more than a piece
        outer = nn.Sequential(self.block[:-3], last.block[:-1])
        frames = last.block[-1](in_pieces(outer, waves, PIECE * self.hop, self.context))
        return self.block[-2:](frames)


class DecoderBlock(nn.Module):
    """Half the channels, `rate` times as long."""

    def __init__(self, channels: int, rate: int):
        super().__init__()
        units = (ResidualUnit(channels // 2, dilation) for dilation in DILATIONS)
        self.block = nn.Sequential(Snake(channels), Upsampling(channels, channels // 2, 2 * rate, rate), *units)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class Decoder(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        first, last = sizes.decoder_dim, sizes.decoder_dim >> len(sizes.decoder_rates)
        blocks = [DecoderBlock(first >> n, rate) for n, rate in enumerate(sizes.decoder_rates)]
        self.model = nn.Sequential(CausalConv(sizes.width, first, KERNEL), *blocks, Snake(last), CausalConv(last, 1, KERNEL), nn.Tanh())

        self.context = math.ceil(_reach(sizes.decoder_rates[::-1], strided=False) / math.prod(sizes.decoder_rates))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, width, T) to (B, 1, T · hop)."""
        return in_pieces(self.model, latents, PIECE, self.context)


def _reach(rates: Sequence[int], strided: bool) -> int:
    """How many samples the convolutions look back, blocks counted from the wave inwards: strided ones of an encoder, or
    transposed ones of a decoder."""
    units, hop = (KERNEL - 1) * sum(DILATIONS), 1
    reach = KERNEL - 1
    for rate in rates:
        reach, hop = reach + units * hop, hop * rate
        reach += hop  # one step of the coarser side
    return reach + (0 if strided else (KERNEL - 1) * hop)


def in_pieces(layers: nn.Module, x: torch.Tensor, piece: int, context: int) -> torch.Tensor:
    """`layers(x)` (B, C, T) of causal layers that look back `context` steps of x at most: what they hold at once is then as
    long as a piece, whatever T is."""
    made = []
    for start in range(0, x.shape[-1], piece):
        before = min(start, context)
        part = x[..., start - before : start + piece]
        out = layers(part)
        made.append(out[..., out.shape[-1] * before // part.shape[-1] :])
    return torch.cat(made, -1)


class Codebook(nn.Module):
    def __init__(self, width: int, inner: int, entries: int):
        super().__init__()
        self.in_proj, self.out_proj = Projection(width, inner), Projection(inner, width)
        self.codebook = nn.Embedding(entries, inner)

    def nearest(self, rest: torch.Tensor) -> torch.Tensor:
        """(B, width, T) to the entries (B, T) of the likest direction."""
        looked_up = F.normalize(self.in_proj(rest).transpose(1, 2), dim=-1)
        return (looked_up @ F.normalize(self.codebook.weight, dim=-1).T).argmax(-1)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """(B, T) to (B, width, T): from the entries as they are stored, not from their directions."""
        return self.out_proj(self.codebook(codes).transpose(1, 2))


class Residual(nn.Module):
    """Codebooks one after the other, each for what those before it left."""

    def __init__(self, width: int, inner: int, entries: Sequence[int]):
        super().__init__()
        self.quantizers = nn.ModuleList(Codebook(width, inner, number) for number in entries)


class Quantizer(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        width, inner = sizes.width, sizes.codebook_dim

        def convnext() -> ConvNeXt:
            return ConvNeXt(width, CausalConv(width, width, KERNEL, groups=width, normed=False))

        self.semantic_quantizer, self.quantizer = Residual(width, inner, sizes.entries[:1]), Residual(width, inner, sizes.entries[1:])
        self.downsample = nn.Sequential(
            *(nn.Sequential(CausalConv(width, width, rate, rate, normed=False), convnext()) for rate in FURTHER)
        )
        self.upsample = nn.Sequential(
            *(nn.Sequential(Upsampling(width, width, rate, rate, normed=False), convnext()) for rate in FURTHER)
        )
        self.pre_module, self.post_module = (Transformer(width, sizes.layers, sizes.inner, sizes.window) for _ in range(2))

    @property
    def codebooks(self) -> list[Any]:
        return [*self.semantic_quantizer.quantizers, *self.quantizer.quantizers]

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, width, T · 4) to codes (B, K, T)."""
        rest, codes = self.pre_module(self.downsample(latents)), []
        for codebook in self.codebooks:
            codes.append(codebook.nearest(rest))
            rest = rest - codebook(codes[-1])
        return torch.stack(codes, 1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, K, T) to (B, width, T · 4). A residual code beyond its codebook means the last entry: the language
        model's fast head is as wide as the semantic codebook."""
        said = [book(row.clamp(max=book.codebook.num_embeddings - 1)) for book, row in zip(self.codebooks, codes.unbind(1), strict=True)]
        semantic, *residual = said
        frames: torch.Tensor = self.upsample(self.post_module(semantic + sum(residual)))
        return frames


class DAC(nn.Module):
    """Encoder, quantiser and decoder by the release's names."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = sizes
        self.encoder, self.quantizer, self.decoder = Encoder(sizes), Quantizer(sizes), Decoder(sizes)

    def encode(self, waves: torch.Tensor) -> torch.Tensor:
        """Waves (B, samples), zeros behind the shorter ones, to codes (B, K, ceil(samples / frame)). Nothing looks ahead,
        so that a clip's codes are the same whatever stands behind it."""
        rest = -waves.shape[-1] % self.sizes.frame
        return self.quantizer.encode(self.encoder(F.pad(waves, (0, rest))[:, None]))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, K, T) to waves (B, T · frame) in [-1, 1]."""
        return self.decoder(self.quantizer.decode(codes))[:, 0]
