"""Released names and layout of Voxtral's weights, and those of transformers' Mistral, which computes the trunk.

Released files are in Mistral's own form: `layers.N.attention.wq` and so on, with queries and keys whose rotary pairs
are neighbouring rows. transformers has the two halves of a head as pairs, so these rows change places on the way.
Names: vllm-omni model_executor/models/voxtral_tts; row order: transformers models/mistral/convert_mistral_weights_to_hf.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import safe_open

from models.parts.weights import map_tensors

FILE = "consolidated.safetensors"
CODEC = "audio_tokenizer."  # what the file holds besides the network
_OUTER = {
    "mm_audio_embeddings.tok_embeddings.weight": "trunk.embed_tokens.weight",
    "mm_audio_embeddings.audio_codebook_embeddings.embeddings.weight": "audio_embeddings.weight",
    "norm.weight": "trunk.norm.weight",
}
_INNER = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}
_OUTER_BACK, _INNER_BACK = ({ours: theirs for theirs, ours in names.items()} for names in (_OUTER, _INNER))
_THEIRS, _OURS = re.compile(r"layers\.(\d+)\.(.+)\.weight"), re.compile(r"trunk\.layers\.(\d+)\.(.+)\.weight")


def to_released(state: dict[str, torch.Tensor], head_dim: int) -> dict[str, torch.Tensor]:
    """The network's tensors by their released names and in their released layout."""
    released = {}
    for name, tensor in state.items():
        if match := _OURS.fullmatch(name):
            layer, part = match.groups()
            tensor = _swapped(tensor, 2, head_dim) if part.endswith(("q_proj", "k_proj")) else tensor
            name = f"layers.{layer}.{_INNER_BACK[part]}.weight"
        released[_OUTER_BACK.get(name, name)] = tensor
    return released


def file_of(folder: Path) -> Path:
    """The file that the network's tensors are in: the released one, or a tiny base's."""
    return folder / FILE if (folder / FILE).is_file() else folder / "model.safetensors"


def from_released(path: Path, head_dim: int) -> dict[str, torch.Tensor]:
    """The network's tensors by our names, as they are stored but for the rows that change places.

    A name that is not Voxtral's stays as it is, for strict loading to find.
    """
    ours = {}
    for name, tensor in map_tensors(path).items():
        if name.startswith(CODEC):
            continue
        match = _THEIRS.fullmatch(name)
        if match and match[2] in _INNER:
            layer, part = match.groups()
            tensor = _swapped(tensor, head_dim // 2, head_dim) if part in ("attention.wq", "attention.wk") else tensor
            name = f"trunk.layers.{layer}.{_INNER[part]}.weight"
        ours[_OUTER.get(name, name)] = tensor
    return ours


def _swapped(weight: torch.Tensor, outer: int, head_dim: int) -> torch.Tensor:
    """Rows of each head, seen as (outer, head_dim / outer), transposed."""
    if len(weight) % head_dim:
        return weight  # of another shape than config.json makes it: strict loading says so
    grouped = weight.view(-1, outer, head_dim // outer, weight.shape[1])
    return grouped.transpose(1, 2).reshape(weight.shape)


def has_encoder(path: Path) -> bool:
    """Whether a released file holds the codec's encoder, by the names that upstream's loader looks for."""
    with safe_open(path, "pt") as file:
        return any(name.startswith((f"{CODEC}input_proj.", f"{CODEC}encoder_blocks.")) for name in file.keys())  # noqa: SIM118
