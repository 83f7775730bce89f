"""A Fish S2 weights folder: its configuration and its tensors, as released or as `FishNetwork.save` wrote them.

Both forms and their key names follow fishaudio/fish-speech, fish_speech/models/text2semantic/llama.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from models.parts.errors import UserError
from models.parts.weights import map_tensors, read_config


@dataclass(frozen=True)
class FishConfig:
    """`config.json`, in upstream's flat form ("dual_ar"). A `fast_*` field that is null takes the slow one's value."""

    vocab_size: int
    dim: int
    n_layer: int
    n_head: int
    n_local_heads: int       # key/value heads
    head_dim: int
    intermediate_size: int
    codebook_size: int       # width of the fast head: entries of the largest codebook
    num_codebooks: int
    semantic_begin_id: int   # token of codebook 0's entry 0 ...
    semantic_end_id: int     # ... and of its last entry
    n_fast_layer: int
    rope_base: float = 1e6
    norm_eps: float = 1e-6
    max_seq_len: int = 32768
    dropout: float = 0.0     # of what each block adds, in training (released: 0)
    attention_qk_norm: bool = False
    tie_word_embeddings: bool = True        # these three are what makes an S2: ...
    scale_codebook_embeddings: bool = True  # ... upstream's older networks have them off,
    norm_fastlayer_input: bool = True       # ... and are refused
    fast_dim: int | None = None
    fast_n_head: int | None = None
    fast_n_local_heads: int | None = None
    fast_head_dim: int | None = None
    fast_intermediate_size: int | None = None
    fast_attention_qk_norm: bool | None = None

    def __post_init__(self) -> None:
        for name in ("tie_word_embeddings", "scale_codebook_embeddings", "norm_fastlayer_input"):
            if not getattr(self, name):
                raise UserError(f"config.json: {name} is false, but always true in S2; use its weights")

    @property
    def entries(self) -> tuple[int, ...]:
        """Entries of each codebook; of the residual ones, the largest's."""
        return (self.stop, *[self.codebook_size] * (self.num_codebooks - 1))

    @property
    def stop(self) -> int:
        """Number of the slow decision "stop": codebook 0's entries come before it."""
        return self.semantic_end_id - self.semantic_begin_id + 1

    def fast(self) -> FishConfig:
        """The same fields for the fast transformer's blocks."""
        own = {name[5:]: getattr(self, name) for name in self.__dataclass_fields__ if name.startswith("fast_")}
        return replace(self, **{name: value for name, value in own.items() if value is not None})

    @classmethod
    def load(cls, folder: Path) -> FishConfig:
        """Read `config.json`: the flat form, or the nested one of the released weights ("fish_qwen3_omni")."""
        data = read_config(folder / "config.json")
        try:
            if data.get("model_type") == "fish_qwen3_omni":
                data = _flat(data)
            known = {field.name for field in fields(cls)}
            return cls(**{key: value for key, value in data.items() if key in known})
        except (TypeError, KeyError) as error:
            raise UserError(
                f"{folder}/config.json: not Fish S2's configuration ({error}); use the file that came with the weights"
            ) from None


# S2 Pro (fishaudio/s2-pro, as upstream's loader and several ports read it).
RELEASED = FishConfig(
    vocab_size=155776, dim=2560, n_layer=36, n_head=32, n_local_heads=8, head_dim=128, intermediate_size=9728,
    codebook_size=4096, num_codebooks=10, semantic_begin_id=151678, semantic_end_id=155773, n_fast_layer=4,
    attention_qk_norm=True, fast_attention_qk_norm=False,
)


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    """A "fish_qwen3_omni" configuration as upstream flattens it."""
    text, audio = data["text_config"], data["audio_decoder_config"]
    shared = ("dim", "n_head", "n_local_heads", "head_dim", "intermediate_size", "attention_qk_norm")
    return {
        **text,
        **{f"fast_{name}": audio.get(name) for name in shared},
        "codebook_size": audio["vocab_size"],
        "num_codebooks": audio["num_codebooks"],
        "n_fast_layer": audio["n_layer"],
        "semantic_begin_id": data["semantic_start_token_id"],
        "semantic_end_id": data["semantic_end_token_id"],
    }


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the folder's safetensors (one file or shards) as it is stored, by `FishNetwork`'s names."""
    index = folder / "model.safetensors.index.json"
    names = set(read_config(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    return {own_name(key): value for name in sorted(names) for key, value in map_tensors(folder / name).items()}


def own_name(key: str) -> str:
    """Released files say `text_model.model.…` and `audio_decoder.…`; upstream's loader renames them the same way."""
    if key.startswith("text_model.model."):
        return key.removeprefix("text_model.model.")
    if key.startswith("audio_decoder."):
        rest = key.removeprefix("audio_decoder.")
        return rest if rest.startswith("codebook_embeddings.") else f"fast_{rest}"
    return key
