"""The files of a release by the names of card.yaml, what its config.yaml says, and tensors by the names of our networks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from models.parts.errors import UserError
from models.parts.weights import read_config
from models.released.fold import folded
from models.released.stored import read_stored, stored

CONFIG, TEXT = "config.yaml", "bpe.model"
GPT, S2MEL, STATISTICS = "gpt.pth", "s2mel.pth", "wav2vec2bert_stats.pt"
STYLES, FEELINGS = "feat1.pt", "feat2.pt"  # what upstream picks an emotion from; an export passes them on
# Upstream keeps what it brings from elsewhere in this folder.
HEARING = "hf_cache/w2v-bert-2.0"
REPCODEC = "hf_cache/semantic_codec_model.safetensors"
SPEAKER = "hf_cache/campplus_cn_common.bin"
VOCODER = "hf_cache/bigvgan"
GENERATOR = f"{VOCODER}/bigvgan_generator.pt"
_CARD = yaml.safe_load((Path(__file__).parents[1] / "card.yaml").read_text(encoding="utf-8"))
FILES: tuple[str, ...] = tuple(
    [*file.values()][0] if isinstance(file, dict) else file for repository in _CARD["release"]["repositories"] for file in repository["files"]
)

NEWER = _CARD["release"]["others"]["codec.pth"]
NEWER_TENSOR = "spk_emb_proj.weight"  # IndexTTS 2.5's alone
ALIASES = ("inference_model.", "gpt.wte.")  # tensors that upstream has twice once it has generated
# In the files, and nobody uses them.
UNUSED_FLOW = tuple(f"cfm.estimator.{name}" for name in ("x_embedder.", "cond_embedder.", "content_mask_embedder.", "input_pos"))
UNUSED = (*UNUSED_FLOW, "length_regulator.embedding.", "length_regulator.mask_token")
LAYERS = 17  # of w2v-bert: what its 17th gives is what the codec and the language model hear

State = Mapping[str, torch.Tensor]


def is_release(weights: Path) -> bool:
    return (weights / CONFIG).is_file()


def settings(weights: Path) -> dict[str, Any]:
    """config.yaml. UserError where it is no such file, or IndexTTS 2.5's."""
    path = weights / CONFIG
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: can't be read ({type(error).__name__}); take the file as it was released") from None
    if not isinstance(found, dict) or not isinstance(found.get("gpt"), dict) or not isinstance(found.get("s2mel"), dict):
        raise UserError(f"{path}: no blocks gpt and s2mel; take the file as it was released")
    if str(found.get("version")).startswith("2.5"):
        raise UserError(f"{path}: version {found['version']}: {NEWER}")
    return found


def configuration(weights: Path, released: dict[str, Any]) -> dict[str, Any]:
    """The language model's `released` configuration in the sizes of this release: config.yaml does not name them all."""
    stated, path = settings(weights)["gpt"], stored(weights, GPT)
    if (kind := stated.get("condition_type")) != "conformer_perceiver":
        raise UserError(f"{weights / CONFIG}: gpt: condition_type is {kind}, and only conformer_perceiver is read; take the file as it was released")
    shapes = {name: tuple(tensor.shape) for name, tensor in read_gpt(path).items()}
    if NEWER_TENSOR in shapes:
        raise UserError(f"{path}: {NEWER_TENSOR}: {NEWER}")
    try:
        sizes = {
            "condition_num_latent": shapes["perceiver_encoder.latents"][0], "emo_width": shapes["emovec_layer.weight"][1],
            "condition_positions": shapes["conditioning_encoder.embed.pos_enc.pe"][1],
            "condition_width": hearing_config(weights)["hidden_size"],
        }  # fmt: skip
    except KeyError as error:
        raise UserError(f"{path}: no tensor {error}; take gpt.pth of IndexTTS2") from None
    return released | {name: stated[name] for name in released if name in stated} | sizes


def hearing_config(weights: Path) -> dict[str, Any]:
    path = weights / HEARING / "config.json"
    config = read_config(path)
    if config.get("model_type", "wav2vec2-bert") != "wav2vec2-bert" or "hidden_size" not in config:
        raise UserError(f"{path}: not w2v-bert's configuration; take the file as it was released")
    return config


def read_gpt(path: Path) -> dict[str, torch.Tensor]:
    return gpt_tensors(read_stored(path))


def gpt_tensors(state: State) -> dict[str, torch.Tensor]:
    if all(name.startswith("model.") for name in state):
        state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in state.items() if not name.startswith(ALIASES)}


def s2mel_tensors(state: State) -> dict[str, torch.Tensor]:
    """Without what its training left there (optimiser, counters)."""
    parts = {name.removeprefix("net."): tensor for name, tensor in state.items() if name.startswith("net.")}
    parts = {re.sub(r"^(\w+)\.module\.", r"\1.", name): tensor for name, tensor in parts.items()}
    return folded({name: tensor for name, tensor in parts.items() if not name.startswith(UNUSED)})


def hearing_tensors(state: State) -> dict[str, torch.Tensor]:
    """Without the layers above the one that is heard."""

    def used(name: str) -> bool:
        layer = re.match(r"encoder\.layers\.(\d+)\.", name)
        return layer is None or int(layer[1]) < LAYERS

    return {name: tensor for name, tensor in state.items() if used(name)}


def repcodec_tensors(state: State) -> dict[str, torch.Tensor]:
    """Without the decoder, which is never used."""
    return folded({name: tensor for name, tensor in state.items() if not name.startswith("decoder.")})


def vocoder_tensors(state: State) -> dict[str, torch.Tensor]:
    return folded({name.removeprefix("generator."): tensor for name, tensor in state.items()})
