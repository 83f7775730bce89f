"""The language model of a release: Qwen2's sizes stand in CosyVoice-BlankEN, the rest in upstream's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from models.parts.errors import UserError
from models.parts.speech_lm import SpeechLM
from models.parts.text import ids_of
from models.parts.weights import load_network, read_config
from models.released.cosyvoice import front_end, tokenizer
from models.released.cosyvoice.files import LLM, part
from models.released.stored import read_stored

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "rms_norm_eps", "tie_word_embeddings")


def load(weights: Path, released: dict[str, Any], dtype: torch.dtype, device: torch.device | str) -> SpeechLM:
    """`released`: the configuration that upstream's code means; of the folder, the sizes and the tokenizer."""
    config = configuration(weights, released)
    network = load_network(lambda: SpeechLM(config), part(weights, LLM), dtype, device, read_stored)
    network.tokenizer = tokenizer.load(weights, config["version"])

    def length(text: str) -> int:
        return len(ids_of(network.tokenizer, text))

    network.front_end = lambda text: "".join(front_end.pieces(text, length))
    network.transcript = front_end.normalise
    return network


def configuration(weights: Path, released: dict[str, Any]) -> dict[str, Any]:
    where = weights / tokenizer.FOLDER / "config.json"
    qwen = read_config(where)
    if lacking := [name for name in (*SIZES, "rope_theta") if name not in qwen]:
        raise UserError(f"{where}: no {', '.join(lacking)}; use the file that came with the weights")
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": qwen["rope_theta"]}}
    return released | {"llm": {name: qwen[name] for name in SIZES} | rope}
