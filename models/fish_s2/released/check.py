"""Is this folder a released S2 Pro, whole and of the shapes that its configuration says? Reads no tensor."""

from __future__ import annotations

from pathlib import Path

import torch

from models.fish_s2.config import FishConfig, own_name
from models.fish_s2.network import FishNetwork
from models.fish_s2.prompt import Prompt
from models.fish_s2.released.codec import BUFFERS, read_codec, sizes_of
from models.fish_s2.released.dac import DAC
from models.fish_s2.released.files import CODEC, INDEX, SHARDS, check_files
from models.parts.errors import UserError
from models.parts.text import load_tokenizer
from models.parts.weights import check_header, read_config, read_shapes
from models.released.shapes import shapes_of

KIND = "fish_qwen3_omni"


def check_release(weights: Path) -> None:
    """UserError, naming file and tensor, for the first thing that is missing or does not fit."""
    check_files(weights)
    where = weights / "config.json"
    if (kind := read_config(where).get("model_type")) != KIND:
        raise UserError(f"{where}: model_type is {kind}, not {KIND}; take the file as it was released")
    config = FishConfig.load(weights)
    with torch.device("meta"):
        network, codec = FishNetwork(config), DAC(sizes_of(weights / CODEC))
    check_shards(weights, shapes_of(network))
    check_codec(weights / CODEC, shapes_of(codec))
    check_tokenizer(weights, config)


def check_shards(weights: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """The index and the shards have every tensor of the network, by its released name, once."""
    shard_of = read_config(weights / INDEX).get("weight_map")
    if not isinstance(shard_of, dict) or set(shard_of.values()) != set(SHARDS):
        raise UserError(f"{weights / INDEX}: does not share the tensors out among {' and '.join(SHARDS)}; take the file as it was released")
    names = [own_name(name) for name in shard_of]
    missing, unexpected = sorted(shapes.keys() - set(names)), sorted(set(names) - shapes.keys())
    if missing or unexpected or len(names) > len(shapes):
        raise UserError(f"{weights / INDEX}: {len(missing)} tensors are missing {missing[:3]}, {len(unexpected)} unexpected {unexpected[:3]}; this is another model's file than config.json says")
    for shard in SHARDS:
        held = {name: shapes[own_name(name)] for name, file in shard_of.items() if file == shard}
        check_header(weights / shard, held, ("BF16", "F16", "F32"))


def check_codec(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Its weights are float32: half precision gives other codes."""
    beside = {name: shape for name, shape in read_shapes(file).items() if name.endswith(BUFFERS)}
    check_header(file, shapes | beside, ("F32", "BF16", "BOOL"))
    for name, tensor in read_codec(file).items():
        if tensor.dtype != torch.float32:
            raise UserError(f"{file}: {name} is {tensor.dtype}, not torch.float32; take the file as it was released")


def check_tokenizer(weights: Path, config: FishConfig) -> None:
    """It knows the control tokens, and the semantic ones by the ids of config.json. Upstream dies at its first text in a
    folder whose tokenizer has no class."""
    if not read_config(weights / "tokenizer_config.json").get("tokenizer_class"):
        raise UserError(f"{weights}/tokenizer_config.json: no tokenizer_class; take the file as it was released")
    try:
        Prompt(load_tokenizer(weights / "tokenizer.json"), config.semantic_begin_id, config.semantic_end_id, config.num_codebooks)
    except UserError as error:
        raise UserError(f"{weights}: {error}") from None
    except Exception as error:  # the tokenizers library has no class of its own
        raise UserError(f"{weights}/tokenizer.json: no tokenizer ({error}); restore the file that came with the weights") from None
