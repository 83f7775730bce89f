"""The decoder of Voxtral's codec: 24 kHz from frames of one semantic code and 36 levels, causal throughout.

By the names and with the arithmetic of the release (vllm-omni model_executor/models/voxtral_tts/voxtral_tts_audio_tokenizer.py).
A transposed convolution doubles the frames before each transformer but the first; what comes out is the samples of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from models.parts.errors import UserError
from models.parts.weights import read_config
from models.small.scalars import to_values

PIECE = 512  # positions that attend at once: their windows are short, and a take may have thousands
LEAST_USAGE = 1e-5


@dataclass(frozen=True)
class CodecConfig:
    """`multimodal.audio_tokenizer_args` of params.json, as far as it concerns the decoder. What is not there is as upstream has it."""

    sampling_rate: int = 24000
    pretransform_patch_size: int = 240  # samples that the last convolution writes at a time
    patch_proj_kernel_size: int = 7
    semantic_codebook_size: int = 8192
    semantic_dim: int = 256
    acoustic_codebook_size: int = 21  # levels of each value
    acoustic_dim: int = 36  # values of a frame
    attn_sliding_window_size: int = 16  # of the last transformer: positions before its own that one sees
    dim: int = 1024
    hidden_dim: int = 4096
    head_dim: int = 128
    n_heads: int = 8
    n_kv_heads: int = 8
    qk_norm_eps: float = 1e-6
    norm_eps: float = 1e-2
    decoder_transformer_lengths_str: str = "2,2,2,2"
    decoder_convs_kernels_str: str = "3,4,4,4"
    decoder_convs_strides_str: str = "1,2,2,2"
    # What makes this codec; no release has it otherwise.
    channels: int = 1
    conv_weight_norm: bool = True
    causal: bool = True
    half_attn_window_upon_downsampling: bool = True
    qk_norm: bool = True
    use_biases: bool = False
    layer_scale: bool = True

    @classmethod
    def load(cls, folder: Path) -> CodecConfig:
        """From params.json of a released folder. UserError for a codec of another kind."""
        path = folder / "params.json"
        try:
            given = read_config(path)["multimodal"]["audio_tokenizer_args"]
            config = cls(**{field.name: given[field.name] for field in fields(cls) if field.name in given})
            config.stages()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: audio_tokenizer_args are not those of Voxtral's codec ({error}); use the file that came with the weights") from None
        for field in fields(cls):
            if (field.name == "channels" or isinstance(field.default, bool)) and getattr(config, field.name) != field.default:
                raise UserError(f"{path}: audio_tokenizer_args: {field.name} is not {field.default}, as in the released codec; use the file that came with the weights")
        return config

    def stages(self) -> list[tuple[int, int, int, int]]:
        """Of each stage: kernel and stride of its convolution, layers and window of its transformer."""
        texts = (self.decoder_convs_kernels_str, self.decoder_convs_strides_str, self.decoder_transformer_lengths_str)
        kernels, strides, layers = ([int(number) for number in text.split(",")] for text in texts)
        if strides[0] != 1:
            raise ValueError(f"the first convolution has stride {strides[0]}")
        wider = [stride > 1 for stride in strides]  # where frames become more, windows become longer
        windows = [self.attn_sliding_window_size >> sum(wider[place + 1 :]) for place in range(len(strides))]
        return list(zip(kernels, strides, layers, windows, strict=True))

    @property
    def frame(self) -> int:
        """Samples of a frame."""
        samples = self.pretransform_patch_size
        for _, stride, _, _ in self.stages():
            samples *= stride
        return samples

    @property
    def entries(self) -> tuple[int, ...]:
        """Entries of each codebook."""
        return (self.semantic_codebook_size, *[self.acoustic_codebook_size] * self.acoustic_dim)


class Codebook(nn.Module):
    """The semantic codes' vectors, as sums over what was heard and how often it was."""

    cluster_usage: torch.Tensor
    embedding_sum: torch.Tensor

    def __init__(self, entries: int, width: int):
        super().__init__()
        self.register_buffer("cluster_usage", torch.ones(entries))
        self.register_buffer("embedding_sum", torch.zeros(entries, width))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.embedding_sum[codes] / self.cluster_usage[codes].clamp(min=LEAST_USAGE)[..., None]


class Quantiser(nn.Module):
    def __init__(self, config: CodecConfig):
        super().__init__()
        self.semantic_codebook = Codebook(config.semantic_codebook_size, config.semantic_dim)
        self.levels = config.acoustic_codebook_size

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, T, K) to what the decoder reads (B, T, D): the semantic vector, then the values themselves."""
        return torch.cat([self.semantic_codebook(codes[..., 0]), to_values(codes[..., 1:], self.levels)], -1)


class CausalConv(nn.Module):
    """Padded on the left alone: "replicate" repeats the first frame, "reflect" mirrors those after it, with zeros where there are none."""

    def __init__(self, inputs: int, outputs: int, kernel: int, padding: str):
        super().__init__()
        self.conv = weight_norm(nn.Conv1d(inputs, outputs, kernel, bias=False))
        self.left, self.padding = kernel - 1, padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, T) to (B, outputs, T)."""
        short = max(self.left + 1 - x.shape[-1], 0) if self.padding == "reflect" else 0
        padded = F.pad(F.pad(x, (0, short)), (self.left, 0), self.padding)
        return self.conv(padded[..., : self.left + x.shape[-1]])


class Upsampling(nn.Module):
    """A transposed convolution; what it makes beyond `stride` frames for each one is cut on the right. Its magnitudes are
    those of the *input* channels, which come first in a transposed convolution's weight."""

    def __init__(self, width: int, kernel: int, stride: int):
        super().__init__()
        self.conv = weight_norm(nn.ConvTranspose1d(width, width, kernel, stride, bias=False))
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)[..., : x.shape[-1] * self.stride]


class Attention(nn.Module):
    """A position sees itself and `window` ones before it, the nearer the better (ALiBi, arXiv 2108.12409, but the first head's
    slope is 1). Queries and keys are normed over all heads together."""

    slopes: torch.Tensor

    def __init__(self, config: CodecConfig, window: int):
        super().__init__()
        queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.wq, self.wk, self.wv = (nn.Linear(config.dim, width, bias=False) for width in (queries, keys, keys))
        self.wo = nn.Linear(queries, config.dim, bias=False)
        self.q_norm, self.k_norm = (nn.RMSNorm(width, eps=config.qk_norm_eps) for width in (queries, keys))
        self.head_dim, self.window = config.head_dim, window
        self.register_buffer("slopes", 2.0 ** (-8 * torch.arange(config.n_heads) / config.n_heads), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, dim) to the same."""
        parts = self.q_norm(self.wq(x)), self.k_norm(self.wk(x)), self.wv(x)
        query, key, value = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in parts)
        seen = []
        for start in range(0, x.shape[1], PIECE):
            end, first = min(start + PIECE, x.shape[1]), max(start - self.window, 0)
            bias = self._bias(torch.arange(start, end, device=x.device), torch.arange(first, end, device=x.device))
            here = key[:, :, first:end], value[:, :, first:end]
            seen.append(F.scaled_dot_product_attention(query[:, :, start:end], *here, attn_mask=bias, enable_gqa=True))
        return self.wo(torch.cat(seen, 2).transpose(1, 2).flatten(2))

    def _bias(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """What is added to the scores (heads, queries, keys)."""
        back = keys - queries[:, None]
        hidden = (back > 0) | (back < -self.window)
        return (self.slopes[:, None, None] * back).masked_fill(hidden, -torch.inf)


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.w1, self.w3 = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Layer(nn.Module):
    def __init__(self, config: CodecConfig, window: int):
        super().__init__()
        self.attention, self.feed_forward = Attention(config, window), FeedForward(config.dim, config.hidden_dim)
        self.attention_norm, self.ffn_norm = (nn.RMSNorm(config.dim, eps=config.norm_eps) for _ in range(2))
        self.attention_scale, self.ffn_scale = (nn.Parameter(torch.ones(config.dim)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention_scale * self.attention(self.attention_norm(x))
        return x + self.ffn_scale * self.feed_forward(self.ffn_norm(x))


class Transformer(nn.Module):
    def __init__(self, config: CodecConfig, layers: int, window: int):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, window) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, dim, T) to the same."""
        x = x.transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return x.transpose(1, 2)


class Decoder(nn.Module):
    """What consolidated.safetensors holds under `audio_tokenizer.`."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.quantizer = Quantiser(config)
        blocks: list[nn.Module] = []
        for place, (kernel, stride, layers, window) in enumerate(config.stages()):
            inputs = config.dim if place else config.semantic_dim + config.acoustic_dim
            blocks += [
                Upsampling(config.dim, kernel, stride) if place else CausalConv(inputs, config.dim, kernel, "replicate"),
                Transformer(config, layers, window),
            ]
        self.decoder_blocks = nn.ModuleList(blocks)
        self.output_proj = CausalConv(config.dim, config.pretransform_patch_size, config.patch_proj_kernel_size, "reflect")

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, T, K), without the offset that they are stored with, to waves (B, samples), which nothing keeps within ±1."""
        x = self.quantizer(codes).transpose(1, 2)
        for block in self.decoder_blocks:
            x = block(x)
        return self.output_proj(x).transpose(1, 2).flatten(1)
