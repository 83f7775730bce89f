"""A folder in the layout of S2 Pro with weights by formula, to go through every stage without the release.

The tokenizer reads bytes. The language model is small in both sizes: the released one takes a large graphics card, and
`make plan` tells what training it needs. The codec of size "released" is the release's.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from models.fish_s2.config import RELEASED, FishConfig
from models.fish_s2.network import FishNetwork
from models.fish_s2.released.check import KIND
from models.fish_s2.released.dac import DAC, Sizes
from models.fish_s2.released.files import INDEX, PICKLE, SHARDS
from models.parts.text import token_id
from models.parts.weights import write_tensors
from models.released import formula
from models.released.shapes import shapes_of

# Qwen 3's, and those that S2 has besides (their order is the only one that gives the ids of the released config.json).
SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|> "
    "<|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> <tool_call> </tool_call> "
    "<|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> <tool_response> </tool_response> "
    "<think> </think> <|pad|> <|phoneme_start|> <|phoneme_end|> <|text|> <|voice|> <|interleave|> <|audio_start|> <|audio_end|> "
    "<|audio_pad|>"
).split()  # fmt: skip
FIRST_SPECIAL = 151643  # of the release: as many tokens stand before it
SPARE = 2  # rows of the release that no token has
SMALL = replace(RELEASED, dim=64, n_layer=2, n_head=4, n_local_heads=2, head_dim=16, intermediate_size=128, n_fast_layer=2)
CODEC = Sizes(64, (2, 4, 8, 8), 4, 3072, 1536, (8, 8, 4, 2), 8, 3072, 8, (4096, *[1024] * 9))  # of the release
SMALL_CODEC = replace(CODEC, encoder_dim=8, encoder_layers=1, encoder_inner=192, decoder_dim=64, layers=2, inner=192)
# As it comes, the last convolution makes a wave that the tanh behind it flattens.
QUIETER = ({"keys": r"decoder\.model\.6\.conv\.parametrizations\.weight\.original0", "mul": 0.05, "add": 0.0},)
# Places of the tables and masks in codec.pth, and how many positions they have there.
TABLES = {"encoder.block.4.block.5": 16384, "quantizer.pre_module": 4096, "quantizer.post_module": 4096}


def write(folder: Path, size: str) -> None:
    """`size` "small" (some 15 MB) or "released" (1.9 GB, the codec)."""
    small = formula.is_small(size)
    folder.mkdir(parents=True, exist_ok=True)
    config = write_tokenizer(folder, SMALL, 0)
    write_json(folder / "config.json", nested(config))
    write_language_model(folder, config)
    write_codec(folder, small)
    (folder / "LICENSE.md").write_text("A rehearsal: random weights in the place of S2 Pro's, which come with their licence here.\n")


def write_tokenizer(folder: Path, config: FishConfig, before: int) -> FishConfig:
    """tokenizer.json and tokenizer_config.json with at least `before` tokens before the special ones; `config` with the ids
    that come of it."""
    letters = sorted(ByteLevel.alphabet())
    ids = {token: id for id, token in enumerate([*letters, *(f"<{n}>" for n in range(len(letters), before))])}
    tokenizer = Tokenizer(BPE(ids, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    semantic = [f"<|semantic:{entry}|>" for entry in range(config.codebook_size)]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in [*SPECIAL, *semantic]])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {
        "add_prefix_space": False, "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "model_max_length": 131072,
        "pad_token": "<|pad|>", "tokenizer_class": "Qwen2TokenizerFast", "unk_token": None,
    })  # fmt: skip
    first, last = (token_id(tokenizer, semantic[n]) for n in (0, -1))
    return replace(config, vocab_size=last + 1 + SPARE, semantic_begin_id=first, semantic_end_id=last)


def nested(config: FishConfig) -> dict[str, Any]:
    """config.json as it is released."""
    shared = {
        "dim": config.dim, "n_head": config.n_head, "n_local_heads": config.n_local_heads, "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size, "rope_base": config.rope_base, "norm_eps": config.norm_eps,
        "attention_qkv_bias": False, "attention_o_bias": False, "tie_word_embeddings": True,
    }  # fmt: skip
    text = shared | {
        "vocab_size": config.vocab_size, "n_layer": config.n_layer, "max_seq_len": config.max_seq_len, "attention_qk_norm": True,
    }  # fmt: skip
    audio = shared | {
        "vocab_size": config.codebook_size, "n_layer": config.n_fast_layer, "max_seq_len": config.num_codebooks + 1,
        "attention_qk_norm": False, "num_codebooks": config.num_codebooks, "text_dim": config.dim,
    }  # fmt: skip
    first = config.semantic_begin_id - len(SPECIAL)
    ids = {"pad_token_id": "<|pad|>", "eos_token_id": "<|im_end|>", "audio_pad_token_id": "<|audio_pad|>"}
    return {
        "model_type": KIND, "dtype": "bfloat16", "text_config": text, "audio_decoder_config": audio,
        "semantic_start_token_id": config.semantic_begin_id, "semantic_end_token_id": config.semantic_end_id,
        **{field: first + SPECIAL.index(token) for field, token in ids.items()},
    }  # fmt: skip


def write_language_model(folder: Path, config: FishConfig) -> None:
    """Both shards, bfloat16 by released names, and the index."""
    with torch.device("meta"):
        shapes = {released_name(name): shape for name, shape in shapes_of(FishNetwork(config)).items()}
    names = sorted(shapes)
    shard_of = {name: SHARDS[number >= len(names) // 2] for number, name in enumerate(names)}
    for shard in SHARDS:
        held = {name: shapes[name] for name in names if shard_of[name] == shard}
        write_tensors(folder / shard, held, torch.bfloat16, lambda name: formula.value(name, shapes[name]))
    write_json(folder / INDEX, {"metadata": {}, "weight_map": shard_of})


def released_name(name: str) -> str:
    """The release's name of one of the network's tensors."""
    if name.startswith(("fast_", "codebook_embeddings.")):
        return f"audio_decoder.{name.removeprefix('fast_')}"
    return f"text_model.model.{name}"


def write_codec(folder: Path, small: bool) -> None:
    with torch.device("meta"):
        shapes = shapes_of(DAC(SMALL_CODEC if small else CODEC))
    state = OrderedDict((name, formula.value(name, shape, QUIETER)) for name, shape in shapes.items())
    for place, positions in TABLES.items():
        positions = 16 if small else positions
        state[f"{place}.freqs_cis"] = torch.ones(positions, 32, 2, dtype=torch.bfloat16)
        state[f"{place}.causal_mask"] = torch.ones(positions, positions, dtype=torch.bool).tril()
    torch.save(state, folder / PICKLE)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
