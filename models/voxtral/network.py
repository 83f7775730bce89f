"""Voxtral TTS: a Mistral decoder reads text and frames; from its hidden state come a frame's semantic code and,
by flow matching, its acoustic values.

The hidden state of a position decides the frame after it, in two ways that do not see each other: a linear layer over
the semantic codes and the end, and a small transformer that turns noise into the values in a few Euler steps.
Structure and names: vllm-omni model_executor/models/voxtral_tts/voxtral_tts_audio_generation.py; arXiv 2603.25551.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F
from transformers import MistralConfig, MistralModel
from transformers.modeling_layers import GradientCheckpointingLayer

from models.parts.errors import UserError
from models.parts.text import load_tokenizer
from models.parts.value_score import TIME, score_noise, value_score
from models.parts.weights import draw_weights, load_network, save_base
from models.small.scalars import to_codes
from models.voxtral.config import END, SPECIALS, FlowHeadConfig, VoxtralConfig, padded
from models.voxtral.names import file_of, from_released, to_released
from models.voxtral.prompt import Layout, Prompt
from models.voxtral.tekken import load_tekken


class Attention(nn.Module):
    """Grouped-query attention over the three tokens, both ways, without positions."""

    def __init__(self, dim: int, config: FlowHeadConfig):
        super().__init__()
        self.head_dim = config.head_dim
        self.wq = nn.Linear(dim, config.n_heads * config.head_dim, bias=False)
        self.wk = nn.Linear(dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wv = nn.Linear(dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wo = nn.Linear(config.n_heads * config.head_dim, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in (self.wq, self.wk, self.wv))
        out: torch.Tensor = self.wo(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.w1, self.w2, self.w3 = (
            nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False), nn.Linear(dim, hidden, bias=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class Block(GradientCheckpointingLayer):  # type: ignore[misc]
    def __init__(self, dim: int, config: FlowHeadConfig):
        super().__init__()
        self.attention, self.feed_forward = Attention(dim, config), FeedForward(dim, config.hidden_dim)
        self.attention_norm, self.ffn_norm = (nn.RMSNorm(dim, eps=config.norm_eps) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x))
        out: torch.Tensor = x + self.feed_forward(self.ffn_norm(x))
        return out


class FlowHead(nn.Module):
    """Upstream's FlowMatchingAudioTransformer; it holds the semantic head as well."""

    frequencies: torch.Tensor

    def __init__(self, config: VoxtralConfig):
        super().__init__()
        dim, values = config.dim, config.n_acoustic_codebook
        self.input_projection = nn.Linear(values, dim, bias=False)
        self.time_projection = nn.Linear(dim, dim, bias=False)
        self.llm_projection = nn.Linear(dim, dim, bias=False)
        self.layers = nn.ModuleList(Block(dim, config.flow) for _ in range(config.flow.n_layers))
        self.norm = nn.RMSNorm(dim, eps=config.flow.norm_eps)
        self.semantic_codebook_output = nn.Linear(dim, padded(config.codebook_rows[0]), bias=False)
        self.acoustic_codebook_output = nn.Linear(dim, values, bias=False)
        half = dim // 2
        self.register_buffer("frequencies", torch.exp(-math.log(1e4) * torch.arange(half) / half), persistent=False)

    def velocity(self, x: torch.Tensor, time: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Values (N, A) on their way, their times (N,) from 0 (noise) to 1 (data), and the language model's hidden
        states (N, dim), zeros for none, to the velocity (N, A), float32, in which they should move on."""
        angle, dtype = time[:, None] * self.frequencies, self.norm.weight.dtype
        tokens = [
            self.input_projection(x.to(dtype)),
            self.time_projection(torch.cat([angle.cos(), angle.sin()], -1).to(dtype)),
            self.llm_projection(hidden),
        ]
        h = torch.stack(tokens, 1).to(dtype)  # what the blocks add to stays float32 under autocast
        for layer in self.layers:
            h = layer(h)
        out: torch.Tensor = self.acoustic_codebook_output(self.norm(h[:, 0])).float()
        return out

    def score(self, values: torch.Tensor, hidden: torch.Tensor, steps: Iterable[int]) -> torch.Tensor:
        """How well the velocity fits values (N, A), from the hidden states (N, dim) that they were drawn from: float32 (N,).
        `steps`: the number of each one's frame in its take."""
        noise = score_noise(steps, values.shape[1:]).to(values.device)
        time = values.new_full((len(values),), TIME)
        return value_score(self.velocity(noise + TIME * (values - noise), time, hidden), values - noise)

    def values(self, hidden: torch.Tensor, noise: torch.Tensor, guidance: float, steps: int) -> torch.Tensor:
        """Hidden states (N, dim) and noise (N, A) to values (N, A): Euler's method from 0 to 1 in `steps` even steps.

        `guidance` goes so much further from the velocity without the hidden state than the one with it. (Upstream's
        factor counts from there: its 1.2 is 0.2 here.)
        """
        x, both = noise, torch.cat([hidden, torch.zeros_like(hidden)])
        for step in range(steps):
            time = x.new_full((len(both),), step / steps)
            guided, free = self.velocity(torch.cat([x, x]), time, both).chunk(2)
            x = x + (guided + guidance * (guided - free)) / steps
        return x


class VoxtralNetwork(nn.Module):
    """`trunk` reads embeddings, `audio_embeddings` makes them of frames, `acoustic_transformer` writes the next frame.

    `voices`: of released weights, the rows (N, dim) of each voice by name; a tiny base has none.
    """

    first_rows: torch.Tensor

    def __init__(self, config: VoxtralConfig, tokenizer: Tokenizer | None = None):
        super().__init__()
        self.config = config
        self.voices: dict[str, torch.Tensor] = {}
        self._prompt = Prompt(tokenizer) if tokenizer is not None else None
        self.trunk = MistralModel(MistralConfig(
            vocab_size=config.vocab_size, hidden_size=config.dim, num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads, num_key_value_heads=config.n_kv_heads, head_dim=config.head_dim,
            intermediate_size=config.hidden_dim, rms_norm_eps=config.norm_eps, sliding_window=None,
            max_position_embeddings=config.max_seq_len,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        ))
        self.audio_embeddings = nn.Embedding(padded(sum(config.codebook_rows)), config.dim)
        self.acoustic_transformer = FlowHead(config)
        first = torch.tensor([0, *config.codebook_rows[:-1]]).cumsum(0)
        self.register_buffer("first_rows", first, persistent=False)  # of each codebook

    @property
    def tokenizer(self) -> Tokenizer:
        return self._prompter.tokenizer

    @property
    def _prompter(self) -> Prompt:
        if self._prompt is None:
            raise ValueError("this network was made without a tokenizer")
        return self._prompt

    def prompt(self, text: str, speaker: str) -> Layout:
        """What comes before the speech. UserError for a speaker that is none of a release's voices."""
        if not self.voices:
            return self._prompter(text, torch.zeros(0, self.config.dim))
        if speaker not in self.voices:
            raise UserError(f"voxtral: {speaker!r} is none of the release's voices, which are {', '.join(self.voices)}; set corpus.speaker to the one that says the corpus")
        return self._prompter(text, self.voices[speaker])

    def frames(self, codes: torch.Tensor) -> torch.Tensor:
        """Embeddings (N, dim) of frames (N, K) of codes: the sum of their rows, one of each codebook."""
        return F.embedding_bag(codes + SPECIALS + self.first_rows, self.audio_embeddings.weight, mode="sum")

    def embed(self, tokens: torch.Tensor, reference: torch.Tensor, codes: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens (B, L) to embeddings (B, L, dim). `reference` (R, dim): the rows of the voices, which are put in the place of
        the [AUDIO] tokens one after the other. `codes` (B, L, K): of those that are frames; -1 elsewhere."""
        embeds: torch.Tensor = self.trunk.embed_tokens(tokens)
        if self.voices:
            embeds = embeds.index_put((torch.eq(tokens, self._prompter.audio),), reference.to(embeds.dtype))
        if codes is None:
            return embeds
        is_frame = codes[..., 0] >= 0
        return embeds.index_put((is_frame,), self.frames(codes[is_frame]).to(embeds.dtype))

    def semantic_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (N, dim) to logits (N, 1 + semantic codes): the end, then each code.

        Generation may choose nothing else: the row of the empty code and the padding are no decisions.
        """
        logits: torch.Tensor = self.acoustic_transformer.semantic_codebook_output(hidden)
        return logits[:, END : self.config.codebook_rows[0]]

    def acoustic_codes(self, values: torch.Tensor) -> torch.Tensor:
        """Values (N, A) to their levels (N, A)."""
        return to_codes(values, self.config.acoustic_codebook_size)

    # --- files ----------------------------------------------------------------------------------------------------
    @classmethod
    def new(cls, config: VoxtralConfig, tokenizer: Tokenizer, seed: int) -> VoxtralNetwork:
        """A network to train from nothing, its weights drawn by `seed`.

        A frame's acoustic values are together as loud as its semantic code, which they would drown otherwise.
        """
        network = cls(config, tokenizer)
        draw_weights(network, torch.Generator().manual_seed(seed))
        network.audio_embeddings.weight.data[config.codebook_rows[0] :] /= math.sqrt(config.n_acoustic_codebook)
        return network

    @classmethod
    def load(
        cls, folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> VoxtralNetwork:
        """Read a weights folder strictly, in eval mode. UserError names the file or tensor that is wrong.

        Released: params.json, consolidated.safetensors, tekken.json, voice_embedding/. Tiny: config.json, model.safetensors
        with the same content in half precision, tokenizer.json.
        """
        config, tekken = VoxtralConfig.load(folder), folder / "tekken.json"
        released = tekken.is_file()
        tokenizer = load_tekken(tekken) if released else load_tokenizer(folder / "tokenizer.json")
        network = load_network(
            lambda: cls(config, tokenizer), file_of(folder), dtype, device, lambda path: from_released(path, config.head_dim)
        )
        if released:
            from models.voxtral.released.voices import count_voices, read_voices

            if torch.device(device).type == "meta":
                network.voices = {name: torch.zeros(count, config.dim) for name, count in count_voices(folder).items()}
            else:
                network.voices = read_voices(folder)
        return network

    def save(self, folder: Path) -> None:
        """Write a tiny folder."""
        save_base(folder, self.released_state(), self.config.as_params(), self.tokenizer)

    def released_state(self) -> dict[str, torch.Tensor]:
        """The weights by their released names and in their released layout."""
        return to_released(self.state_dict(), self.config.head_dim)
