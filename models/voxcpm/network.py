"""VoxCPM: a language model over text and patches of latents, whose state a small diffusion transformer draws the next patch from.

    text, patches ─ base_lm ─ fsq_layer ─┬─ stop_head: is the next patch the last?
                                         ├─ residual_lm ─┐
                                         └───────────────┴─ feat_decoder: the next patch

Structure and key names are upstream's (OpenBMB/VoxCPM, src/voxcpm/model/voxcpm.py); the transformers are Llama's. The codec
is no part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F
from transformers import Cache

from models.parts.value_score import TIME, score_noise, value_score
from models.parts.weights import load_network, read_config, save_base
from models.voxcpm.blocks import both_ways, causal, transformer
from models.voxcpm.config import VoxCPMConfig
from models.voxcpm.flow import FlowDecoder
from models.voxcpm.prompt import Prompt
from models.voxcpm.tokenizer import load

PATCH = -1  # in the place of a text token: here is a patch


class LocalEncoder(nn.Module):
    """Upstream's LocEnc: a patch of latents to one vector."""

    def __init__(self, config: VoxCPMConfig):
        super().__init__()
        self.special_token = nn.Parameter(torch.zeros(1, 1, 1, config.encoder.hidden))
        self.in_proj = nn.Linear(config.latent, config.encoder.hidden)
        self.encoder = transformer(config, config.encoder)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(N, patch, latent) to (N, hidden)."""
        frames = self.in_proj(patches.to(self.in_proj.weight.dtype))
        first = self.special_token[0].expand(len(frames), -1, -1).to(frames.dtype)
        return both_ways(self.encoder, torch.cat([first, frames], 1))[:, 0]


class Bottleneck(nn.Module):
    """Finite scalar quantisation: few values, each rounded to a multiple of 1 / levels. Training sees through the rounding."""

    def __init__(self, config: VoxCPMConfig):
        super().__init__()
        self.levels = config.levels
        self.in_proj = nn.Linear(config.base_lm.hidden, config.bottleneck)
        self.out_proj = nn.Linear(config.bottleneck, config.base_lm.hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.tanh(self.in_proj(x))
        rounded = torch.round(inner * self.levels) / self.levels
        out: torch.Tensor = self.out_proj(inner + (rounded - inner).detach())
        return out


class VoxCPMNetwork(nn.Module):
    """The whole network. `tokenizer` makes the prompts; without one it can only be counted."""

    def __init__(self, config: VoxCPMConfig, tokenizer: Tokenizer | None = None):
        super().__init__()
        self.config = config
        hidden, inside = config.base_lm.hidden, config.decoder.hidden
        self.base_lm = transformer(config, config.base_lm, config.words)
        self.residual_lm = transformer(config, config.residual_lm)
        self.feat_encoder, self.feat_decoder, self.fsq_layer = LocalEncoder(config), FlowDecoder(config), Bottleneck(config)
        self.enc_to_lm_proj = nn.Linear(config.encoder.hidden, hidden)
        self.lm_to_dit_proj, self.res_to_dit_proj = nn.Linear(hidden, inside), nn.Linear(hidden, inside)
        self.stop_proj, self.stop_head = nn.Linear(hidden, hidden), nn.Linear(hidden, 2, bias=False)
        self._prompt = Prompt(tokenizer, config.audio_start) if tokenizer else None

    @property
    def prompt(self) -> Prompt:
        if self._prompt is None:
            raise ValueError("this network was made without a tokenizer")
        return self._prompt

    @property
    def device(self) -> torch.device:
        return self.stop_head.weight.device

    def states(
        self, tokens: torch.Tensor, values: torch.Tensor, caches: tuple[Cache | None, Cache | None] = (None, None),
        mask: torch.Tensor | None = None, positions: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (B, L), PATCH where a patch of `values` (B, L, patch × latent) is, to the states (B, L, hidden) of both
        language models. A patch's state passes the bottleneck, a word's does not."""
        is_patch = tokens == PATCH
        words = self.base_lm.embed_tokens(tokens.clamp(min=0)) * self.config.word_scale
        heard = torch.zeros_like(words).index_put((is_patch,), self.heard(values[is_patch]).to(words.dtype))
        state = causal(self.base_lm, torch.where(is_patch[..., None], heard, words), caches[0], mask, positions)
        state = torch.where(is_patch[..., None], self.fsq_layer(state).to(state.dtype), state)
        return state, causal(self.residual_lm, state + heard, caches[1], mask, positions)

    def heard(self, values: torch.Tensor) -> torch.Tensor:
        """Patches (N, patch × latent) as the language model reads them (N, hidden)."""
        embedded: torch.Tensor = self.enc_to_lm_proj(self.feat_encoder(self.as_patches(values)))
        return embedded

    def as_patches(self, values: torch.Tensor) -> torch.Tensor:
        return values.view(-1, self.config.patch, self.config.latent)

    def stop_logits(self, state: torch.Tensor) -> torch.Tensor:
        """Base states (N, hidden) to logits (N, 2): goes on, or the next patch is the last."""
        logits: torch.Tensor = self.stop_head(F.silu(self.stop_proj(state)))
        return logits

    def condition(self, state: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Both states (N, hidden) to what the next patch is drawn from (N, the decoder's width)."""
        joined: torch.Tensor = self.lm_to_dit_proj(state) + self.res_to_dit_proj(residual)
        return joined

    def scores(self, condition: torch.Tensor, previous: torch.Tensor, drawn: torch.Tensor, steps: Sequence[int]) -> torch.Tensor:
        """How well patches `drawn` (N, patch × latent) fit their conditions and previous patches: float32 (N,)."""
        data, before = self.as_patches(drawn.float()), self.as_patches(previous)
        noise = score_noise(steps, data.shape[1:]).to(data.device)
        time = data.new_full((len(data),), TIME)
        return value_score(self.feat_decoder.estimator(TIME * (noise + data), time, condition, before), noise - data)

    # --- files ----------------------------------------------------------------------------------------------------
    @classmethod
    def load(
        cls, folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> VoxCPMNetwork:
        """Read a weights folder strictly, in eval mode. UserError names the file or tensor that is wrong."""
        where = folder / "config.json"
        config = VoxCPMConfig(read_config(where), str(where))
        return load_network(lambda: cls(config, load(folder)), folder / "model.safetensors", dtype, device)

    def save(self, folder: Path) -> None:
        """Write what `load` reads: `config.json`, `tokenizer.json` and `model.safetensors` in half precision."""
        save_base(folder, self.state_dict(), self.config.values, self.prompt.tokenizer)
