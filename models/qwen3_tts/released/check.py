"""Is this folder a released Qwen3-TTS Base, whole and of the shapes that its configuration says? Reads no tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from models.parts.errors import UserError
from models.parts.weights import check_header, read_config
from models.qwen3_tts.config import check
from models.qwen3_tts.network import Qwen3TTSNetwork
from models.qwen3_tts.released.codec import KIND, SpeechTokenizer
from models.qwen3_tts.released.files import FOLDER, check_files
from models.qwen3_tts.tokenizer import load
from models.released.shapes import shapes_of

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
    if "enc_dim" not in config["speaker_encoder_config"]:
        raise UserError(f"{where}: speaker_encoder_config has no enc_dim; use the file that came with the weights")
    check_files(weights)
    settings = read_config(weights / "generation_config.json")
    if lacking := [name for name in SETTINGS if name not in settings]:
        raise UserError(f"{weights}/generation_config.json: no {', '.join(lacking)}; use the file that came with the weights")
    check_tokens(config, weights)
    codec = weights / FOLDER / "config.json"
    with torch.device("meta"):
        network, tokenizer = Qwen3TTSNetwork(config), SpeechTokenizer(read_config(codec), codec)
    check_header(weights / "model.safetensors", shapes_of(network), ("BF16", "F16", "F32"))
    check_header(weights / FOLDER / "model.safetensors", shapes_of(tokenizer), ("F32",))  # half precision gives other codes


def check_tokens(config: dict[str, Any], weights: Path) -> None:
    """The text tokenizer knows the special tokens by the ids that config.json and the network have."""
    try:
        tokenizer = load(weights)
    except Exception as error:  # the tokenizers library has no class of its own
        raise UserError(f"{weights}/vocab.json, merges.txt, tokenizer_config.json: no tokenizer ({error}); restore the three files") from None
    for field, token in TOKENS.items():
        if config.get(field) != tokenizer.token_to_id(token):
            raise UserError(
                f"{weights}/tokenizer_config.json: {token} is token {tokenizer.token_to_id(token)}, but config.json: {field} is "
                f"{config.get(field)}; the two files do not belong together"
            )
