"""The flow of CosyVoice 2 and of Chatterbox: a conformer that doubles the rate of the codes, and a convolutional estimator
(FunAudioLLM/CosyVoice, cosyvoice/transformer/upsample_encoder.py and cosyvoice/flow/decoder.py)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from models.released.flow import BANDS, Flow, PreLookahead, attend, sinusoids

WIDTH, HEADS = 512, 8  # of the conformer
LATER = 4  # layers behind the doubling


class Embed(nn.Module):
    """A linear layer and a norm; `out` is upstream's name. Loud, as a transformer's embeddings once were."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.out(x) * math.sqrt(WIDTH)
        return y


def distances(length: int, device: torch.device) -> torch.Tensor:
    """(2 length - 1, 512): sines and cosines of how far a place lies back, from length - 1 down to 1 - length."""
    away = torch.arange(length - 1, -length, -1, device=device).float()[:, None]
    rates = torch.exp(torch.arange(0, WIDTH, 2, device=device).float() * -(math.log(10000.0) / WIDTH))
    return torch.stack([(away * rates).sin(), (away * rates).cos()], -1).flatten(1)


class RelativeAttention(nn.Module):
    """Scores are what a place says and how far it lies (Transformer-XL)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear_q, self.linear_k, self.linear_v, self.linear_out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.linear_pos = nn.Linear(WIDTH, WIDTH, bias=False)
        self.pos_bias_u, self.pos_bias_v = (nn.Parameter(torch.zeros(HEADS, WIDTH // HEADS)) for _ in range(2))

    def forward(self, x: torch.Tensor, away: torch.Tensor) -> torch.Tensor:
        """x (B, T, 512), away (2 T - 1, 512) of `distances`."""

        def heads(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.unflatten(-1, (HEADS, -1)).transpose(-3, -2)

        query, key, value, place = (heads(layer(y)) for layer, y in ((self.linear_q, x), (self.linear_k, x), (self.linear_v, x), (self.linear_pos, away)))
        by_place = _by_place((query + self.pos_bias_v[:, None]) @ place.transpose(-2, -1)) / math.sqrt(query.shape[-1])
        attended = F.scaled_dot_product_attention(query + self.pos_bias_u[:, None], key, value, attn_mask=by_place)
        out: torch.Tensor = self.linear_out(attended.transpose(1, 2).flatten(2))
        return out


def _by_place(scores: torch.Tensor) -> torch.Tensor:
    """(…, T, 2 T - 1) by distance to (…, T, T) by place: row i moves left by what lies behind it."""
    *outer, rows, columns = scores.shape
    padded = F.pad(scores, (1, 0)).reshape(*outer, columns + 1, rows)
    return padded[..., 1:, :].reshape(*outer, rows, columns)[..., :rows]


class FeedForward(nn.Module):
    def __init__(self, inner: int):
        super().__init__()
        self.w_1, self.w_2 = nn.Linear(WIDTH, inner), nn.Linear(inner, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.w_2(F.silu(self.w_1(x)))
        return y


class ConformerLayer(nn.Module):
    """Without a convolution, for all its name."""

    def __init__(self, inner: int):
        super().__init__()
        self.self_attn, self.feed_forward = RelativeAttention(), FeedForward(inner)
        self.norm_mha, self.norm_ff = nn.LayerNorm(WIDTH, 1e-12), nn.LayerNorm(WIDTH, 1e-12)

    def forward(self, x: torch.Tensor, away: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.norm_mha(x), away)
        return x + self.feed_forward(self.norm_ff(x))


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, 512) to (B, 2 T, 512)."""
        doubled = x.transpose(1, 2).repeat_interleave(2, -1)
        return self.conv(F.pad(doubled, (4, 0))).transpose(1, 2)


class Conformer(nn.Module):
    def __init__(self, layers: int, inner: int):
        super().__init__()
        self.embed, self.up_embed = Embed(), Embed()
        self.pre_lookahead_layer = PreLookahead(WIDTH, WIDTH)
        self.encoders = nn.ModuleList(ConformerLayer(inner) for _ in range(layers))
        self.up_layer = Doubling()
        self.up_encoders = nn.ModuleList(ConformerLayer(inner) for _ in range(LATER))
        self.after_norm = nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embedded codes (B, T, 512) to (B, 2 T, 512)."""
        x = self.pre_lookahead_layer(self.embed(x))
        away = distances(x.shape[1], x.device)
        for layer in self.encoders:
            x = layer(x, away)
        x = self.up_embed(self.up_layer(x))
        away = distances(x.shape[1], x.device)
        for layer in self.up_encoders:
            x = layer(x, away)
        y: torch.Tensor = self.after_norm(x)
        return y


class CausalConv(nn.Conv1d):
    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, (2, 0)))


class ChannelNorm(nn.LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class ConvBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        # Upstream has a transposition on either side of the norm, hence its number.
        self.block = nn.Sequential(CausalConv(inputs, outputs), nn.Identity(), ChannelNorm(outputs), nn.Mish())

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.block(x * mask) * mask
        return y


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, times: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(times, outputs))
        self.block1, self.block2 = ConvBlock(inputs, outputs), ConvBlock(outputs, outputs)
        self.res_conv = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        y = self.block1(x, mask) + self.mlp(time)[..., None]
        out: torch.Tensor = self.block2(y, mask) + self.res_conv(x * mask)
        return out


class Attention(nn.Module):
    def __init__(self, width: int, inner: int, head: int):
        super().__init__()
        self.head = head
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(inner, width))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.to_out(attend(self.to_q(x), self.to_k(x), self.to_v(x), self.head, mask))
        return out


class Widened(nn.Module):
    """A linear layer and GELU; `proj` is upstream's name."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.proj(x))


class Inner(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(Widened(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.net(x)
        return y


class TransformerBlock(nn.Module):
    def __init__(self, width: int, inner: int, head: int):
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width), Attention(width, inner, head)
        self.norm3, self.ff = nn.LayerNorm(width), Inner(width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x + self.attn1(self.norm1(x), mask)
        return x + self.ff(self.norm3(x))


class Stage(nn.ModuleList):
    """A residual block, transformer blocks, and (at both ends) a convolution."""

    def __init__(self, inputs: int, width: int, blocks: int, inner: int, head: int, end: bool):
        parts: list[nn.Module] = [ResBlock(inputs, width, 4 * width), nn.ModuleList(TransformerBlock(width, inner, head) for _ in range(blocks))]
        super().__init__(parts + [CausalConv(width, width)] * end)

    def forward(self, x: torch.Tensor, time: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self[0](x, time, mask[:, None]).transpose(1, 2)
        for block in self[1]:  # type: ignore[attr-defined]
            x = block(x, mask)
        return x.transpose(1, 2)


class TimeMLP(nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(inputs, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return y


class Estimator(nn.Module):
    """`middle`: stages between the two ends; `blocks`: transformer blocks of each; `inner`: width of attention, in heads of `head`."""

    def __init__(self, width: int = 256, middle: int = 12, blocks: int = 4, inner: int = 512, head: int = 64):
        super().__init__()
        self.time_mlp = TimeMLP(4 * BANDS, 4 * width)
        sizes = (width, blocks, inner, head)
        self.down_blocks = nn.ModuleList([Stage(4 * BANDS, *sizes, end=True)])
        self.mid_blocks = nn.ModuleList(Stage(width, *sizes, end=False) for _ in range(middle))
        self.up_blocks = nn.ModuleList([Stage(2 * width, *sizes, end=True)])
        self.final_block, self.final_proj = ConvBlock(width, width), nn.Conv1d(width, BANDS, 1)

    def forward(
        self, x: torch.Tensor, mu: torch.Tensor, spks: torch.Tensor, cond: torch.Tensor, t: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """See `Flow`."""
        time, filled = self.time_mlp(sinusoids(t, 4 * BANDS)), mask[:, None]
        x = torch.cat([x, mu, spks[..., None].expand_as(x), cond], 1)
        down, up = self.down_blocks[0], self.up_blocks[0]
        assert isinstance(down, Stage) and isinstance(up, Stage)
        skip = x = down(x, time, mask)
        x = down[2](x * filled)
        for stage in self.mid_blocks:
            x = stage(x, time, mask)
        x = up(torch.cat([x, skip], 1), time, mask)
        x = self.final_block(up[2](x * filled), filled)
        velocity: torch.Tensor = self.final_proj(x * filled) * filled
        return velocity


class Flow2(Flow):
    def __init__(self, layers: int = 6, inner: int = 2048, estimator: Estimator | None = None):
        super().__init__(WIDTH, estimator or Estimator())
        self.encoder = Conformer(layers, inner)
        self.encoder_proj = nn.Linear(WIDTH, BANDS)

    def encode(self, codes: torch.Tensor) -> torch.Tensor:
        mu: torch.Tensor = self.encoder_proj(self.encoder(self.input_embedding(codes)))
        return mu.transpose(1, 2)
