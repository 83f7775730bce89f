"""Codes to waveform: the released 12 Hz decoder, causal throughout (12.5 frames a second to 24 kHz).

Structure and key names are upstream's (QwenLM/Qwen3-TTS,
qwen_tts/core/tokenizer_12hz/modeling_qwen3_tts_tokenizer_v2.py, as it is since version 0.1.0).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from models.released.convnext import ConvNeXt

CHUNK, CONTEXT = 300, 25  # frames that are decoded at once, and frames before them that are decoded again and cut


class Codebook(nn.Module):
    """One table, kept as k-means left it: sums of what fell to each entry, and how often."""

    cluster_usage: torch.Tensor
    embedding_sum: torch.Tensor

    def __init__(self, entries: int, width: int):
        super().__init__()
        self.register_buffer("cluster_usage", torch.ones(entries))
        self.register_buffer("embedding_sum", torch.zeros(entries, width))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """(B, T) to (B, T, width)."""
        return self.embedding_sum[codes] / self.cluster_usage[codes].clamp(min=1e-5)[..., None]


class Codebooks(nn.Module):
    """Residual codebooks and a projection of their sum. `input_proj` is in the release and belongs to no decoder."""

    def __init__(self, count: int, entries: int, width: int, outer: int):
        super().__init__()
        self.input_proj = nn.Conv1d(outer, width, 1, bias=False)
        self.output_proj = nn.Conv1d(width, outer, 1, bias=False)
        tables = (nn.ModuleDict({"_codebook": Codebook(entries, width)}) for _ in range(count))
        self.vq: Any = nn.ModuleDict({"layers": nn.ModuleList(tables)})

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """(B, T, count) to (B, outer, T)."""
        layers = zip(self.vq["layers"], codes.unbind(-1), strict=True)
        entries = sum(layer["_codebook"](code) for layer, code in layers)
        projected: torch.Tensor = self.output_proj(entries.transpose(1, 2))
        return projected


class Quantizer(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        outer, entries = config["codebook_dim"], config["codebook_size"]
        self.first = config["num_semantic_quantizers"]
        self.rvq_first = Codebooks(self.first, entries, outer // 2, outer)
        self.rvq_rest = Codebooks(config["num_quantizers"] - self.first, entries, outer // 2, outer)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.rvq_first(codes[..., : self.first]) + self.rvq_rest(codes[..., self.first :])


class CausalConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, dilation=dilation, groups=groups)
        self.left = (kernel - 1) * dilation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (self.left, 0)))


class Upsampling(nn.Module):
    """A transposed convolution; what it makes beyond `stride` samples for each one is cut on the right alone."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int):
        super().__init__()
        self.conv = nn.ConvTranspose1d(inputs, outputs, kernel, stride)
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)[..., : x.shape[-1] * self.stride]


class LayerScale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x


class Attention(nn.Module):
    """Rotary attention without biases, each position with the `window` last ones, itself among them."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        width, self.head = config["hidden_size"], config["head_dim"]
        inner, groups = config["num_attention_heads"] * self.head, config["num_key_value_heads"] * self.head
        self.theta, self.window = config["rope_theta"], config["sliding_window"]
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(width, groups, bias=False) for _ in range(2))
        self.o_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        position = torch.arange(x.shape[1], device=x.device)
        powers = torch.arange(0, self.head, 2, device=x.device).float() / self.head
        angles = torch.outer(position.float(), 1.0 / self.theta**powers).repeat(1, 2)
        q, k, v = (p(x).unflatten(-1, (-1, self.head)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = (t * angles.cos() + _turned(t) * angles.sin() for t in (q, k))
        back = position[:, None] - position
        heard = F.scaled_dot_product_attention(q, k, v, attn_mask=(back >= 0) & (back < self.window), enable_gqa=True)
        mixed: torch.Tensor = self.o_proj(heard.transpose(1, 2).flatten(2))
        return mixed


def _turned(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], -1)


class SwiGLU(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        width, eps = config["hidden_size"], config["rms_norm_eps"]
        self.self_attn, self.mlp = Attention(config), SwiGLU(width, config["intermediate_size"])
        self.input_layernorm, self.post_attention_layernorm = (nn.RMSNorm(width, eps) for _ in range(2))
        self.self_attn_layer_scale, self.mlp_layer_scale = LayerScale(width), LayerScale(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn_layer_scale(self.self_attn(self.input_layernorm(x)))
        return x + self.mlp_layer_scale(self.mlp(self.post_attention_layernorm(x)))


class Transformer(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        width, outer = config["hidden_size"], config["latent_dim"]
        self.input_proj, self.output_proj = nn.Linear(outer, width), nn.Linear(width, outer)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.RMSNorm(width, config["rms_norm_eps"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, latent) to the same."""
        x = self.input_proj(x)
        for layer in self.layers:
            x = layer(x)
        return self.output_proj(self.norm(x))


class SnakeBeta(nn.Module):
    """x + sin²(αx) / β for each channel; both are stored as logarithms. In place, since the last blocks are long."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frequency, strength = self.alpha.exp()[:, None], 1.0 / (self.beta.exp()[:, None] + 1e-9)
        return (x * frequency).sin_().square_().mul_(strength).add_(x)


class Residual(nn.Module):
    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.act1, self.act2 = SnakeBeta(channels), SnakeBeta(channels)
        self.conv1, self.conv2 = CausalConv(channels, channels, 7, dilation), CausalConv(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.act2(self.conv1(self.act1(x)))).add_(x)


class Block(nn.Module):
    """Half the channels, `rate` times as long."""

    def __init__(self, channels: int, rate: int):
        super().__init__()
        outputs = channels // 2
        rest = (Residual(outputs, dilation) for dilation in (1, 3, 9))
        self.block = nn.Sequential(SnakeBeta(channels), Upsampling(channels, outputs, 2 * rate, rate), *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class Decoder(nn.Module):
    """`config`: `decoder_config` of the release."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        latent, channels, rates = config["latent_dim"], config["decoder_dim"], config["upsample_rates"]
        self.quantizer = Quantizer(config)
        self.pre_conv = CausalConv(config["codebook_dim"], latent, 3)
        self.pre_transformer = Transformer(config)
        self.upsample = nn.ModuleList(
            nn.Sequential(Upsampling(latent, latent, rate, rate), ConvNeXt(latent, CausalConv(latent, latent, 7, groups=latent))) for rate in config["upsampling_ratios"]
        )
        blocks = [Block(channels >> index, rate) for index, rate in enumerate(rates)]
        last = channels >> len(rates)
        self.samples = math.prod(rates) * math.prod(config["upsampling_ratios"])  # of a frame
        self.decoder = nn.Sequential(CausalConv(latent, channels, 7), *blocks, SnakeBeta(last), CausalConv(last, 1, 7))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, T, K) to waves (B, samples), not yet clipped to [-1, 1], in one piece."""
        x = self.pre_conv(self.quantizer(codes))
        x = self.pre_transformer(x.transpose(1, 2)).transpose(1, 2)
        for stage in self.upsample:
            x = stage(x)
        wave: torch.Tensor = self.decoder(x)
        return wave[:, 0]

    def chunked(self, codes: torch.Tensor) -> torch.Tensor:
        """As `forward`, in pieces of 300 frames as upstream decodes. Their seams are part of how a long take sounds:
        25 frames are less than the transformer looks back."""
        pieces = []
        for start in range(0, codes.shape[1], CHUNK):
            context = min(start, CONTEXT)
            pieces.append(self(codes[:, start - context : start + CHUNK])[:, context * self.samples :])
        return torch.cat(pieces, 1)
