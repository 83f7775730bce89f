"""Is this folder a released VoxCPM 1.5, whole and of the shapes that its configuration says? Reads no tensor."""

from __future__ import annotations

from pathlib import Path

import torch

from models.parts.errors import UserError
from models.parts.text import token_id
from models.parts.weights import check_header, read_config, read_shapes
from models.released.shapes import shapes_of
from models.voxcpm.config import AUDIO_START, VoxCPMConfig
from models.voxcpm.network import VoxCPMNetwork
from models.voxcpm.released.codec import NESTED
from models.voxcpm.released.files import VAE, check_files
from models.voxcpm.released.vae import AudioVAE, Sizes
from models.voxcpm.tokenizer import load

RATE = 44100  # Hz, which card.yaml says as well


def check_release(weights: Path) -> None:
    """UserError, naming file and tensor, for the first thing that is missing or does not fit."""
    check_files(weights)
    where = str(weights / "config.json")
    values = read_config(weights / "config.json")
    config, sizes = VoxCPMConfig(values, where), Sizes.of(values, where)
    if values.get("architecture", "voxcpm") != "voxcpm":
        raise UserError(f"{where}: architecture is {values['architecture']}, not voxcpm; use a release of VoxCPM 1.5")
    if sizes.sample_rate != RATE:
        raise UserError(f"{where}: audio_vae_config: {sizes.sample_rate} Hz, but VoxCPM 1.5 has {RATE}; use a release of VoxCPM 1.5")
    if sizes.latent_dim != config.latent:
        raise UserError(f"{where}: feat_dim is {config.latent}, but the codec has {sizes.latent_dim} latents; use the file that came with the weights")
    with torch.device("meta"):
        network, vae = VoxCPMNetwork(config), AudioVAE(sizes)
    check_header(weights / "model.safetensors", shapes_of(network), ("BF16", "F16", "F32"))
    prefix = NESTED if any(name.startswith(NESTED) for name in read_shapes(weights / VAE)) else ""
    check_header(weights / VAE, {prefix + name: shape for name, shape in shapes_of(vae).items()}, ("F32",))  # half precision gives other latents
    check_tokenizer(weights, config)


def check_tokenizer(weights: Path, config: VoxCPMConfig) -> None:
    """It has a row for every token, and speech starts with none that a text is made of."""
    tokenizer = load(weights)
    token_id(tokenizer, "<unk>")
    last = max(tokenizer.get_vocab().values())
    if not AUDIO_START < last < config.words:
        raise UserError(f"{weights}/tokenizer.json: the last token is {last}, but config.json has {config.words} words; the two files do not belong together")
