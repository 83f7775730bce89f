"""A VoxCPM weights folder's `config.json`, kept as the dictionary that it is, and what of it makes networks.

Field names are upstream's (OpenBMB/VoxCPM, src/voxcpm/model/voxcpm.py, modules/minicpm4/config.py). A tiny base has
`audio_start_token` besides; in a release that is always 101.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from transformers import GraniteConfig, LlamaConfig

from models.parts.errors import UserError

AUDIO_START = 101


@dataclass(frozen=True)
class Blocks:
    """One of the four transformers. All share heads of keys and values, rotary positions and norms with the language model."""

    hidden: int
    inner: int
    layers: int
    heads: int
    head_width: int


class VoxCPMConfig:
    """Sizes of the parts. UserError, naming the file `where`, for a field that is missing or that no VoxCPM 1.5 has."""

    def __init__(self, values: dict[str, Any], where: str = "config.json"):
        self.values = values
        try:
            lm = self.lm = values["lm_config"]
            self.patch, self.latent = int(values["patch_size"]), int(values["feat_dim"])
            self.bottleneck, self.levels = int(values["scalar_quantization_latent_dim"]), int(values["scalar_quantization_scale"])
            self.max_length = min(int(values["max_length"]), int(lm["max_position_embeddings"]))
            self.audio_start = int(values.get("audio_start_token", AUDIO_START))
            self.words = int(lm["vocab_size"])
            self.base_lm = _language_model(lm, lm["num_hidden_layers"])
            self.residual_lm = _language_model(lm, values["residual_lm_num_layers"])
            self.encoder, self.decoder = _local(values["encoder_config"]), _local(values["dit_config"])
            self.use_mup = bool(lm.get("use_mup", True))  # as upstream reads a file that does not say
            self.word_scale = float(lm["scale_emb"]) if self.use_mup else 1.0
            factors = self.rope["short_factor"]
            self.transformer(self.base_lm)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise UserError(f"{where}: not VoxCPM's configuration ({type(error).__name__}: {error}); use the file that came with the weights") from None
        others = {"no_rope": lm.get("no_rope"), "dit_mean_mode": values.get("dit_mean_mode")}
        if named := [name for name, said in others.items() if said]:
            raise UserError(f"{where}: {named[0]}: that is VoxCPM 2, whose networks are others; use a release of VoxCPM 1.5")
        for name, blocks in (("encoder_config", self.encoder), ("dit_config", self.decoder), ("lm_config", self.base_lm)):
            if blocks.head_width != 2 * len(factors):
                raise UserError(f"{where}: {name}: heads of {blocks.head_width}, but rotary factors for {2 * len(factors)}; use the file that came with the weights")
            if blocks.heads % lm["num_key_value_heads"]:
                raise UserError(f"{where}: {name}: {blocks.heads} heads share {lm['num_key_value_heads']} of keys and values; use the file that came with the weights")

    @property
    def frame(self) -> int:
        """Values of a patch, which is what the language model writes in a step."""
        return self.patch * self.latent

    @property
    def rope(self) -> dict[str, Any]:
        """Long rotary positions for transformers.

        Upstream chooses the factors once, by the room that a network has; transformers by the length of every sequence, so it
        gets the same ones as both. Without them (all 1) every layer would differ: those of the releases reach 50.
        """
        scaling, room = self.lm["rope_scaling"], self.lm["max_position_embeddings"]
        original = scaling["original_max_position_embeddings"]
        factors = [float(one) for one in scaling["long_factor" if room > original else "short_factor"]]
        return {
            "rope_type": "longrope", "rope_theta": float(self.lm["rope_theta"]), "long_factor": factors, "short_factor": factors,
            "original_max_position_embeddings": room, "factor": 1.0,
            "attention_factor": math.sqrt(1 + math.log(room / original) / math.log(original)),
        }  # fmt: skip

    def transformer(self, blocks: Blocks, words: int = 0) -> LlamaConfig | GraniteConfig:
        """For transformers: MiniCPM's blocks are Llama's, or with `use_mup` Granite's, which scale what a layer adds."""
        sizes = {
            "vocab_size": words, "hidden_size": blocks.hidden, "intermediate_size": blocks.inner, "num_hidden_layers": blocks.layers,
            "num_attention_heads": blocks.heads, "num_key_value_heads": self.lm["num_key_value_heads"], "head_dim": blocks.head_width,
            "max_position_embeddings": self.lm["max_position_embeddings"], "rms_norm_eps": self.lm["rms_norm_eps"],
            "rope_parameters": self.rope, "use_cache": False, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
        }  # fmt: skip
        if not self.use_mup:
            return LlamaConfig(**sizes)
        added = float(self.lm["scale_depth"]) / math.sqrt(blocks.layers)
        return GraniteConfig(**sizes, residual_multiplier=added, attention_multiplier=blocks.head_width**-0.5)


def _language_model(lm: dict[str, Any], layers: int) -> Blocks:
    heads, hidden = int(lm["num_attention_heads"]), int(lm["hidden_size"])
    return Blocks(hidden, int(lm["intermediate_size"]), int(layers), heads, int(lm.get("kv_channels") or hidden // heads))


def _local(part: dict[str, Any]) -> Blocks:
    heads, hidden = int(part["num_heads"]), int(part["hidden_dim"])
    return Blocks(hidden, int(part["ffn_dim"]), int(part["num_layers"]), heads, int(part.get("kv_channels") or hidden // heads))
