"""T3, Chatterbox's language model: a Llama trunk that reads a voice and a text and writes 25 speech codes a second.

Structure and key names follow resemble-ai/chatterbox, src/chatterbox/models/t3 (t3.py and modules/).

Sequence: [speaker] [prompt, resampled] [emotion] [text: start … stop] [start] [start] [speech 0 … S-1]. Upstream's
generation has the start of speech twice, both at position 0; so has training here. The second one decides speech 0.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaModel

from models.chatterbox.config import WEIGHTS, T3Config
from models.chatterbox.script import Script
from models.parts.text import load_tokenizer
from models.parts.weights import draw_weights, load_network, save_base

EMOTION = 0.5        # upstream's neutral value
PERCEIVER_HEADS, PERCEIVER_DROPOUT = 4, 0.2
TOKENS, POSITIONS = 0.02, 0.02   # deviation of new embeddings; of positions beside them (upstream: 1 and 0.02)


class PositionEmbeddings(nn.Module):
    """Learned positions; upstream's names have one level more than the table needs."""

    def __init__(self, rows: int, width: int):
        super().__init__()
        self.emb = nn.Embedding(rows, width)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.emb(positions)
        return rows


class PerceiverAttention(nn.Module):
    """`x` (B, Q, width) plus what it attends to in `y` (B, P, width); both go through the same norm."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.proj_out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        def heads(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.unflatten(-1, (PERCEIVER_HEADS, -1)).transpose(1, 2)

        normed = self.norm(y)
        query, key, value = heads(self.to_q(self.norm(x))), heads(self.to_k(normed)), heads(self.to_v(normed))
        dropout = PERCEIVER_DROPOUT if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        out: torch.Tensor = x + self.proj_out(attended.transpose(1, 2).flatten(2))
        return out


class Perceiver(nn.Module):
    """A prompt of any length becomes a fixed number of positions: learned queries look at it, then at each other."""

    def __init__(self, queries: int, width: int):
        super().__init__()
        self.pre_attention_query = nn.Parameter(torch.empty(1, queries, width))
        self.attn = PerceiverAttention(width)  # the same layer both times

    def forward(self, prompt: torch.Tensor, filled: torch.Tensor) -> torch.Tensor:
        """prompt (B, P, width), right-padded; filled bool (B, P) -> (B, queries, width)."""
        filled = filled | ~filled.any(1, keepdim=True)  # without any key there would be NaN; nobody looks at the result
        queries = self.attn(self.pre_attention_query.expand(len(prompt), -1, -1), prompt, filled[:, None, None])
        resampled: torch.Tensor = self.attn(queries, queries)
        return resampled


class Conditioning(nn.Module):
    def __init__(self, config: T3Config):
        super().__init__()
        self.spkr_enc = nn.Linear(config.speaker_embed_size, config.width)
        self.emotion_adv_fc = nn.Linear(1, config.width, bias=False)
        self.perceiver = Perceiver(config.perceiver_queries, config.width)

    def forward(self, speaker: torch.Tensor, prompt: torch.Tensor, filled: torch.Tensor) -> torch.Tensor:
        """(B, 1 + queries + 1, width). Upstream's speaker vectors have length 1; so has the mean of several here."""
        voice = self.spkr_enc(F.normalize(speaker, dim=-1).to(prompt.dtype))[:, None]
        emotion = self.emotion_adv_fc(torch.full_like(voice[..., :1], EMOTION))
        return torch.cat([voice, self.perceiver(prompt, filled), emotion], 1)


class T3(nn.Module):
    """`script` turns a text into ids; a network that only has to be counted can do without."""

    def __init__(self, config: T3Config, tokenizer: Tokenizer | None = None):
        super().__init__()
        self.config = config
        self.tfmr = LlamaModel(LlamaConfig(**config.llama))
        self.cond_enc = Conditioning(config)
        self.text_emb = nn.Embedding(config.text_tokens_dict_size, config.width)
        self.speech_emb = nn.Embedding(config.speech_tokens_dict_size, config.width)
        self.text_pos_emb = PositionEmbeddings(config.max_text_tokens + 2, config.width)
        self.speech_pos_emb = PositionEmbeddings(config.max_speech_tokens + 4, config.width)
        self.text_head = nn.Linear(config.width, config.text_tokens_dict_size, bias=False)
        self.speech_head = nn.Linear(config.width, config.speech_tokens_dict_size, bias=False)
        self._script = Script(tokenizer, config) if tokenizer else None

    @property
    def script(self) -> Script:
        if self._script is None:
            raise ValueError("this network was made without a tokenizer")
        return self._script

    def embed(self, batch: dict[str, torch.Tensor], without_text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the trunk reads: embeddings (B, L, width) and a mask (B, L) of the positions that are filled.

        `batch`: `speaker` (B, E); `prompt` (B, P), `text` (B, Lt) and `speech` (B, Ls) ids, right-padded, each with
        `…_length` (B,). L is 2 + queries + Lt + Ls: padding stays where it is, the mask hides it and positions don't
        count it. `without_text` bool (B,): rows whose text is nothing but its positions, as upstream's unguided row.
        """
        filled = {name: _filled(batch[name], batch[f"{name}_length"]) for name in ("prompt", "text", "speech")}
        prompt = self.speech_emb(batch["prompt"]) + self.speech_pos_emb(_places(batch["prompt"]))
        voice = self.cond_enc(batch["speaker"], prompt, filled["prompt"])
        text = self.text_emb(batch["text"]).masked_fill(without_text[:, None, None], 0.0)
        text = text + self.text_pos_emb(_places(batch["text"]))
        # Both starts stand at position 0, speech code n at n + 1.
        speech = self.speech_emb(batch["speech"]) + self.speech_pos_emb((_places(batch["speech"]) - 1).clamp(min=0))
        always = torch.ones_like(filled["text"][:, :1])
        prompted = filled["prompt"].any(1, keepdim=True).expand(-1, self.config.perceiver_queries)
        mask = torch.cat([always, prompted, always, filled["text"], filled["speech"]], 1)
        return torch.cat([voice, text, speech], 1), mask

    def logits(
        self, batch: dict[str, torch.Tensor], without_text: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Text logits (M, V) and the ids that they are to predict (M,), then the same of the speech."""
        embeds, mask = self.embed(batch, without_text)
        hidden = self.tfmr(
            inputs_embeds=embeds, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False
        ).last_hidden_state
        text, speech = batch["text_labels"], batch["speech_labels"]
        text_hidden = hidden[:, -speech.shape[1] - text.shape[1] : -speech.shape[1]][text >= 0]
        speech_hidden = hidden[:, -speech.shape[1] :][speech >= 0]
        return self.text_head(text_hidden), text[text >= 0], self.speech_head(speech_hidden), speech[speech >= 0]

    # --- files ----------------------------------------------------------------------------------------------------
    @classmethod
    def new(cls, config: T3Config, tokenizer: Tokenizer, seed: int) -> T3:
        """A network to train from nothing, its weights by `seed`."""
        network, source = cls(config, tokenizer), torch.Generator().manual_seed(seed)
        draw_weights(network, source, TOKENS)
        for table in (network.text_pos_emb, network.speech_pos_emb):
            nn.init.normal_(table.emb.weight, std=POSITIONS * TOKENS, generator=source)
        query = network.cond_enc.perceiver.pre_attention_query
        bound = math.sqrt(3.0 / query.shape[1])  # upstream's
        nn.init.uniform_(query, -bound, bound, generator=source)
        return network

    @classmethod
    def load(
        cls, folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> T3:
        """Read a weights folder strictly, in eval mode. UserError names the file or tensor that is wrong."""
        config, tokenizer = T3Config.load(folder), load_tokenizer(folder / "tokenizer.json")
        return load_network(lambda: cls(config, tokenizer), folder / WEIGHTS, dtype, device)

    def save(self, folder: Path) -> None:
        """Write what `load` reads: `config.json`, `tokenizer.json` and `t3_cfg.safetensors` in half precision."""
        save_base(folder, self.state_dict(), asdict(self.config), self.script.tokenizer, WEIGHTS)


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Rotary positions (B, L) that count filled places alone."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def _places(ids: torch.Tensor) -> torch.Tensor:
    return torch.arange(ids.shape[1], device=ids.device)


def _filled(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return _places(ids) < lengths[:, None]
