"""Qwen3-TTS: a talker that writes codebook 0 along time, and a code predictor that writes the rest of each frame.

Structure and key names are upstream's (QwenLM/Qwen3-TTS, qwen_tts/core/models/modeling_qwen3_tts.py); the transformers
are Qwen 3's. The codec is no part of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F
from transformers import Cache, Qwen3Config, Qwen3Model

from models.parts.weights import load_network, read_config, save_base
from models.qwen3_tts.config import BASE, Ids, block_config, check
from models.qwen3_tts.prompt import Prompt
from models.qwen3_tts.speaker import speaker_encoder
from models.qwen3_tts.tokenizer import load


class Trunk(Qwen3Model):
    """Qwen 3's blocks under upstream's names: what goes in is embedded outside."""

    def __init__(self, config: Qwen3Config):
        super().__init__(config)
        del self.embed_tokens

    def run(
        self, embeds: torch.Tensor, cache: Cache | None = None, mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, L, hidden) to normed hidden states; without `mask` (B, filled slots) attention is causal alone."""
        outputs = self(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden: torch.Tensor = outputs.last_hidden_state
        return hidden


class TalkerTrunk(Trunk):
    def __init__(self, config: dict[str, Any]):
        super().__init__(block_config(config))
        self.codec_embedding = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.text_embedding = nn.Embedding(config["text_vocab_size"], config["text_hidden_size"])


class PredictorTrunk(Trunk):
    def __init__(self, config: dict[str, Any], width: int):
        """`width` is the talker's: frames are embedded for it."""
        super().__init__(block_config(config))
        tables = range(config["num_code_groups"] - 1)
        self.codec_embedding = nn.ModuleList(nn.Embedding(config["vocab_size"], width) for _ in tables)


class TextProjection(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear_fc1, self.linear_fc2 = nn.Linear(inputs, inputs), nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.linear_fc2(F.silu(self.linear_fc1(x)))
        return projected


class CodePredictor(nn.Module):
    """Codebooks 1 … K-1 of one frame, one after the other. Head i - 1 decides codebook i."""

    def __init__(self, config: dict[str, Any], width: int):
        super().__init__()
        hidden, heads = config["hidden_size"], range(config["num_code_groups"] - 1)
        self.model = PredictorTrunk(config, width)
        self.lm_head = nn.ModuleList(nn.Linear(hidden, config["vocab_size"], bias=False) for _ in heads)
        self.small_to_mtp_projection = nn.Linear(width, hidden) if hidden != width else nn.Identity()

    def run(self, embeds: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        """(N, S, talker's width) to hidden states (N, S, own width)."""
        return self.model.run(self.small_to_mtp_projection(embeds).to(embeds.dtype), cache)


class Talker(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.model = TalkerTrunk(config)
        self.text_projection = TextProjection(config["text_hidden_size"], config["hidden_size"])
        self.codec_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)
        self.code_predictor = CodePredictor(config["code_predictor_config"], config["hidden_size"])


class Qwen3TTSNetwork(nn.Module):
    """The whole network. `tokenizer` makes the prompts; without one it can only be counted."""

    def __init__(self, config: dict[str, Any], tokenizer: Tokenizer | None = None):
        super().__init__()
        self.config, self.ids = config, Ids.of(config)
        self.codebooks: int = config["talker_config"]["num_code_groups"]
        self.residual_entries: int = config["talker_config"]["code_predictor_config"]["vocab_size"]
        self.max_length: int = config["talker_config"]["max_position_embeddings"]
        self.talker = Talker(config["talker_config"])
        # Only a base hears a vector. The speakers of a custom voice, upstream's fine-tunes, are rows of the codec embedding.
        kind = config["tts_model_type"]
        self.speaker_encoder = speaker_encoder(config["speaker_encoder_config"]) if kind == BASE else None
        self._prompt = Prompt(tokenizer, self.ids, self.codebooks, kind) if tokenizer else None

    @property
    def prompt(self) -> Prompt:
        if self._prompt is None:
            raise ValueError("this network was made without a tokenizer")
        return self._prompt

    @property
    def device(self) -> torch.device:
        return self.talker.codec_head.weight.device

    @property
    def speaker_size(self) -> int:
        """Figures of a speaker vector as the codec measures it; 0 where the network takes none."""
        return self.speaker_encoder.size if self.speaker_encoder else 0

    def embed(self, text: torch.Tensor, codec: torch.Tensor, speaker: torch.Tensor) -> torch.Tensor:
        """Text ids (B, L), codec ids (B, L, K; -1 where there is none) and speaker vectors (B, E) to (B, L, hidden).

        The same for prompt and frames, in training and in generation: the sum of the projected text embedding, the
        codec embeddings, and in a base's speaker position the speaker's vector.
        """
        talker = self.talker
        x = talker.text_projection(talker.model.text_embedding(text))
        first = self.embed_first(codec[..., 0].clamp(min=0))
        if self.speaker_encoder:
            rows = self.speaker_encoder.rows(speaker)[:, None].to(first.dtype)
            first = torch.where((codec[..., 0] == self.ids.speaker)[..., None], rows, first)
        x = x + first * (codec[..., 0] >= 0)[..., None]
        for table, codes in zip(talker.code_predictor.model.codec_embedding, codec[..., 1:].unbind(-1), strict=True):
            x = x + table(codes.clamp(min=0)) * (codes >= 0)[..., None]
        return x

    def embed_first(self, codes: torch.Tensor) -> torch.Tensor:
        """Ids of codebook 0, special ones among them, in the talker's table."""
        embedded: torch.Tensor = self.talker.model.codec_embedding(codes)
        return embedded

    def first_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (N, hidden) to logits (N, codes + 1): the entries of codebook 0, then the stop.

        Generation may draw nothing else (upstream suppresses the other special rows), so they are not scored either.
        """
        weight = self.talker.codec_head.weight
        return F.linear(hidden, torch.cat([weight[: self.ids.codes], weight[self.ids.eos : self.ids.eos + 1]]))

    def residual_logits(self, hidden: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Teacher-forced: hidden states (N, hidden) that decided codebook 0, and codebooks 0 … K-2 of those frames
        (N, K-1), to logits (N, K-1, V) of codebooks 1 … K-1."""
        predictor = self.talker.code_predictor
        if not len(hidden):  # the transformer can't take a batch of nothing
            return hidden.new_zeros(0, self.codebooks - 1, self.residual_entries)
        tables = predictor.model.codec_embedding[: self.codebooks - 2]
        residual = [table(code) for table, code in zip(tables, codes[:, 1:].unbind(-1), strict=True)]
        states = predictor.run(torch.stack([hidden, self.embed_first(codes[:, 0]), *residual], 1))[:, 1:]
        return torch.stack([head(state) for head, state in zip(predictor.lm_head, states.unbind(1), strict=True)], 1)

    # --- files ----------------------------------------------------------------------------------------------------
    @classmethod
    def load(
        cls, folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Qwen3TTSNetwork:
        """Read a weights folder strictly, in eval mode. UserError names the file or tensor that is wrong."""
        config = check(read_config(folder / "config.json"), f"{folder}/config.json")
        return load_network(lambda: cls(config, load(folder)), folder / "model.safetensors", dtype, device)

    def save(self, folder: Path) -> None:
        """Write what `load` reads: `config.json`, `tokenizer.json` and `model.safetensors` in half precision."""
        save_base(folder, self.state_dict(), self.config, self.prompt.tokenizer)
