"""Is this folder a released Voxtral, whole and of the shapes that its configuration says? Reads no tensor."""

from __future__ import annotations

from pathlib import Path

import torch

from models.parts.errors import UserError
from models.parts.weights import check_header, read_config, read_shapes
from models.released.shapes import shapes_of
from models.voxtral.config import VoxtralConfig
from models.voxtral.names import CODEC, FILE
from models.voxtral.network import VoxtralNetwork
from models.voxtral.prompt import Prompt
from models.voxtral.released.decoder import CodecConfig, Decoder
from models.voxtral.released.files import CONFIG, TOKENIZER, check_files
from models.voxtral.released.voices import FOLDER, KEY, count_voices, voice_files
from models.voxtral.tekken import load_tekken


def check_release(weights: Path) -> None:
    """UserError, naming file and tensor, for the first thing that is missing or does not fit."""
    check_files(weights)
    config, codec = VoxtralConfig.load(weights), CodecConfig.load(weights)
    if config.entries != codec.entries:
        raise UserError(f"{weights / CONFIG}: audio_model_args and audio_tokenizer_args speak of other codebooks; take the file as it was released")
    check_header(weights / FILE, released_shapes(config, codec), ("BF16",))
    Prompt(load_tekken(weights / TOKENIZER))("x", torch.zeros(1, config.dim))
    check_voices(weights, config.dim)


def released_shapes(config: VoxtralConfig, codec: CodecConfig) -> dict[str, tuple[int, ...]]:
    """What consolidated.safetensors holds."""
    with torch.device("meta"):
        network, decoder = shapes_of(VoxtralNetwork(config).released_state()), shapes_of(Decoder(codec))
    return network | {f"{CODEC}{name}": shape for name, shape in decoder.items()}


def check_voices(weights: Path, dim: int) -> None:
    """Every voice is as long as tekken.json says, which decides what upstream's prompt has room for, and those that params.json
    lists, each of which upstream loads, are there."""
    counts, files = count_voices(weights), voice_files(weights)
    listed = read_config(weights / CONFIG)["multimodal"]["audio_tokenizer_args"].get("voice", {})
    for name in listed:
        if name not in files:
            raise UserError(f"{weights / FOLDER / name}.pt: not there, but {CONFIG} lists the voice; bring the whole release in")
    for name, path in files.items():
        if name not in counts:
            raise UserError(f"{weights / TOKENIZER}: knows no voice {name}, but {path} is there; take both as they were released")
        if (found := read_shapes(path)) != {KEY: (counts[name], dim)}:
            shape = found.get(KEY, "no tensor of its own")
            raise UserError(f"{path}: {shape}, where {TOKENIZER} and {CONFIG} make it {(counts[name], dim)}; take the files as they were released")
