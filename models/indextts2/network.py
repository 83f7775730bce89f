"""IndexTTS2's language model: GPT-2 reads a prompt's latents and the text, and writes semantic tokens.

Key names and shapes follow index-tts/index-tts, `indextts/gpt/model_v2.py` (`UnifiedVoice`). `gpt` is transformers'
GPT-2 without its two embeddings: text and speech each bring their own, and learnt positions that start at 0.

Sequence: [prompt] [start, text, stop] [start, codes]. The prompt is its latents, the emotion vector added to each, and
two constants. Text has a head of its own, which is trained along; speech positions decide the codes and the stop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import GPT2Config, GPT2Model

from models.indextts2.conditioner import Conditioner
from models.indextts2.released.files import GPT, TEXT, configuration, is_release, read_gpt
from models.indextts2.released.text import Pieces
from models.parts.errors import UserError
from models.parts.text import load_tokenizer, text_ids
from models.parts.weights import load_network, map_tensors, read_config, save_base
from models.released.stored import stored

CONSTANTS = 2  # positions of the prompt after its latents, from `speed_emb`
# The released network (`gpt:` of its config.yaml; the last four are fixed in upstream's code).
RELEASED: dict[str, Any] = {
    "model_dim": 1280, "layers": 24, "heads": 20, "max_mel_tokens": 1815, "max_text_tokens": 600,
    "number_text_tokens": 12000, "number_mel_codes": 8194, "start_mel_token": 8192, "stop_mel_token": 8193,
    "start_text_token": 0, "stop_text_token": 1, "condition_num_latent": 32,
    "condition_module": {
        "output_size": 512, "linear_units": 2048, "attention_heads": 8, "num_blocks": 6, "perceiver_mult": 2,
    },
    "emo_condition_module": {
        "output_size": 512, "linear_units": 1024, "attention_heads": 4, "num_blocks": 4, "perceiver_mult": 2,
    },
    "condition_width": 1024, "emo_width": 1024, "condition_positions": 5000, "dropout": 0.1,
}  # fmt: skip


class Positions(nn.Module):
    """Learnt position embeddings."""

    def __init__(self, length: int, width: int):
        super().__init__()
        self.emb = nn.Embedding(length, width)
        nn.init.normal_(self.emb.weight, std=0.02)

    def forward(self, length: int) -> torch.Tensor:
        return self.emb.weight[:length]


class NoPositions(nn.Module):
    """In the place of GPT-2's own position embedding."""

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros((), device=position_ids.device)  # without dimensions it raises no precision


class UnifiedVoice(Conditioner):
    """The whole network; `config` as `RELEASED`."""

    def __init__(self, config: dict[str, Any], tokenizer: Tokenizer | Pieces | None = None):
        super().__init__(config)
        self.tokenizer = tokenizer  # of phones for a tiny base, of capitals for a release
        width, self.codes, self.stop = config["model_dim"], config["start_mel_token"], config["stop_mel_token"]
        self.prompt_length = config["condition_num_latent"] + CONSTANTS
        self.speed_emb = nn.Embedding(2, width)
        self.text_embedding = nn.Embedding(config["number_text_tokens"] + 1, width)
        self.mel_embedding = nn.Embedding(config["number_mel_codes"], width)
        self.gpt = GPT2Model(GPT2Config(
            vocab_size=1, n_positions=1, n_embd=width, n_layer=config["layers"], n_head=config["heads"],
            resid_pdrop=config["dropout"], embd_pdrop=config["dropout"], attn_pdrop=config["dropout"], bos_token_id=None, eos_token_id=None,
        ))  # fmt: skip
        del self.gpt.wte
        self.gpt.wpe = NoPositions()  # type: ignore[assignment]
        # Start and stop, and a row that upstream has over.
        self.mel_pos_embedding = Positions(config["max_mel_tokens"] + 3, width)
        self.text_pos_embedding = Positions(config["max_text_tokens"] + 2, width)
        self.final_norm = nn.LayerNorm(width)
        self.text_head = nn.Linear(width, config["number_text_tokens"] + 1)
        self.mel_head = nn.Linear(width, config["number_mel_codes"])
        for table in (self.text_embedding, self.mel_embedding):
            nn.init.normal_(table.weight, std=0.02)
        nn.init.zeros_(self.speed_emb.weight)

    @property
    def device(self) -> torch.device:
        return self.mel_head.weight.device

    def conditioner_modules(self) -> list[nn.Module]:
        """What hears the prompt. Fine-tuning reads its results from files, so that they never get a gradient."""
        names = ("conditioning_encoder", "perceiver_encoder", "emo_conditioning_encoder", "emo_perceiver_encoder")
        return [getattr(self, name) for name in (*names, "emo_layer", "emovec_layer")]

    def text_ids(self, text: str) -> list[int]:
        """Start, text, stop, as training and generation both read them. UserError for a text that does not fit."""
        assert self.tokenizer is not None
        config = self.config
        return [config["start_text_token"], *encode(self.tokenizer, text, config), config["stop_text_token"]]

    def prompt(self, condition: torch.Tensor, emotion: torch.Tensor) -> torch.Tensor:
        """Latents (B, N, W) and emotion vectors (B, W) -> the sequence's first positions (B, N + 2, W)."""
        constants = self.speed_emb.weight.flip(0).expand(len(condition), -1, -1)
        return torch.cat([(condition + emotion[:, None]).to(constants.dtype), constants], 1)

    def embed(
        self, condition: torch.Tensor, emotion: torch.Tensor, text: torch.Tensor, speech: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """text (B, Lt) and speech (B, Ls), right-padded, their lengths (B, 2) -> embeddings (B, L, W), right-padded.

        A row's parts follow each other without a gap. (Upstream pads text and speech inside the sequence with their
        stop tokens, so that a clip's loss depends on the others of its batch.)
        """
        start = self.prompt_length
        at = torch.arange(start + int(lengths.sum(1).max()), device=text.device).expand(len(text), -1)
        middle, end = start + lengths[:, :1], start + lengths.sum(1, keepdim=True)
        spoken = self.mel_embedding(speech) + self.mel_pos_embedding(speech.shape[1])
        out = spoken.new_zeros(*at.shape, spoken.shape[-1])
        out[:, :start] = self.prompt(condition, emotion).to(out.dtype)
        written = self.text_embedding(text) + self.text_pos_embedding(text.shape[1])
        out[(at >= start) & (at < middle)] = written[_valid(text, lengths[:, 0])]
        out[(at >= middle) & (at < end)] = spoken[_valid(speech, lengths[:, 1])]
        return out

    def hidden(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, L, W) -> what the heads read. Right-padded and causal: no real position sees padding."""
        normed: torch.Tensor = self.final_norm(self.gpt(inputs_embeds=embeddings, use_cache=False).last_hidden_state)
        return normed

    # --- files ----------------------------------------------------------------------------------------------------
    @classmethod
    def new(cls, config: dict[str, Any], tokenizer: Tokenizer, seed: int) -> UnifiedVoice:
        """A network to train from nothing, by `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, tokenizer)

    @classmethod
    def load(
        cls, folder: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> UnifiedVoice:
        """Read a weights folder strictly, in eval mode. UserError names the file or tensor that is wrong."""
        config, tokenizer = read_network_config(folder), read_tokenizer(folder)
        path, read = (stored(folder, GPT), read_gpt) if is_release(folder) else (folder / "model.safetensors", map_tensors)
        return load_network(lambda: cls(config, tokenizer), path, dtype, device, read)

    def save(self, folder: Path) -> None:
        """Write a tiny base as `load` reads it: config.json, tokenizer.json and model.safetensors in half precision."""
        assert isinstance(self.tokenizer, Tokenizer)
        save_base(folder, self.state_dict(), {"gpt": self.config}, self.tokenizer)


def read_network_config(folder: Path) -> dict[str, Any]:
    """The block `gpt` of config.json, or what a release says, whole. UserError names what is missing."""
    if is_release(folder):
        return configuration(folder, RELEASED)
    path = folder / "config.json"
    config: dict[str, Any] = read_config(path).get("gpt", {})
    if lacking := sorted(RELEASED.keys() - config.keys()):
        raise UserError(f"{path}: gpt: {', '.join(lacking)} is not there; write it as models/indextts2/network.py: RELEASED has it")
    return config


def read_tokenizer(folder: Path) -> Tokenizer | Pieces:
    return Pieces(folder / TEXT) if is_release(folder) else load_tokenizer(folder / "tokenizer.json")


def encode(tokenizer: Tokenizer | Pieces, text: str, config: dict[str, Any]) -> list[int]:
    """Ids of a text. UserError for one that is empty, too long, or holds a control token."""
    if isinstance(tokenizer, Pieces):
        ids = tokenizer.ids(text)
    else:
        ids = text_ids(tokenizer, text, (config["start_text_token"], config["stop_text_token"]))
    if len(ids) > config["max_text_tokens"]:
        raise UserError(f"text {text[:40]!r} …: {len(ids)} tokens, the network reads {config['max_text_tokens']}; cut it in parts")
    return ids


def _valid(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
