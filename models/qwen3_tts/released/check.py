"""Is this folder a released Qwen3-TTS Base, whole and of the shapes that its configuration says? Reads no tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.parts.errors import UserError
from models.parts.weights import check_header, read_config
from models.qwen3_tts.config import check
from models.qwen3_tts.network import Qwen3TTSNetwork
from models.qwen3_tts.released.codec import FOLDER, KIND, SpeechTokenizer
from models.qwen3_tts.tokenizer import load

# Without them upstream does not load an export, or reads special tokens as letters and says nothing.
SMALL_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", f"{FOLDER}/preprocessor_config.json")
SETTINGS = (
    "do_sample", "repetition_penalty", "temperature", "top_p", "top_k", "subtalker_dosample", "subtalker_temperature",
    "subtalker_top_p", "subtalker_top_k", "max_new_tokens",
)  # fmt: skip
TOKENS = {
    "im_start_token_id": "<|im_start|>", "im_end_token_id": "<|im_end|>", "tts_pad_token_id": "<tts_pad>",
    "tts_bos_token_id": "<tts_text_bos>", "tts_eos_token_id": "<tts_text_eod>",
}


def check_release(weights: Path) -> None:
    """UserError, naming file and tensor, for the first thing that is missing or does not fit."""
    where = weights / "config.json"
    config = read_config(where)
    expected = {"model_type": "qwen3_tts", "tokenizer_type": KIND, "tts_model_type": "base"}
    for field, wanted in expected.items():
        if config.get(field) != wanted:
            raise UserError(f"{where}: {field} is {config.get(field)}, not {wanted}; fine-tuning starts from a Qwen3-TTS-12Hz Base release")
    check(config, str(where))
    for name in SMALL_FILES:
        if not (weights / name).is_file():
            raise UserError(f"{weights / name}: not there; copy or download the whole release")
    settings = read_config(weights / "generation_config.json")
    if lacking := [name for name in SETTINGS if name not in settings]:
        raise UserError(f"{weights}/generation_config.json: no {', '.join(lacking)}; use the file that came with the weights")
    check_tokens(config, weights)
    where = weights / FOLDER / "config.json"
    with torch.device("meta"):
        network, codec = Qwen3TTSNetwork(config), SpeechTokenizer(read_config(where), where)
    check_header(weights / "model.safetensors", shapes(network), ("BF16", "F16", "F32"))
    check_header(weights / FOLDER / "model.safetensors", shapes(codec), ("F32",))  # half precision gives other codes


def check_tokens(config: dict[str, Any], weights: Path) -> None:
    """The text tokenizer knows the special tokens by the ids that config.json and the network have."""
    try:
        tokenizer = load(weights)
    except (ValueError, TypeError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{weights}/vocab.json, merges.txt, tokenizer_config.json: no tokenizer ({error}); restore the three files") from None
    for field, token in TOKENS.items():
        if config.get(field) != tokenizer.token_to_id(token):
            raise UserError(
                f"{weights}/tokenizer_config.json: {token} is token {tokenizer.token_to_id(token)}, but config.json: {field} is "
                f"{config.get(field)}; the two files do not belong together"
            )


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a module's file holds."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
