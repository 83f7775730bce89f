"""A folder in the layout of VoxCPM 1.5 with weights by formula, to go through every stage without the release.

The tokenizer reads characters and bytes. Sizes are the release's or small ones; rates, latents and patches are the release's.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from models.parts.weights import write_tensors
from models.released import formula
from models.released.shapes import shapes_of
from models.voxcpm.config import AUDIO_START, VoxCPMConfig
from models.voxcpm.network import VoxCPMNetwork
from models.voxcpm.prompt import OTHERS
from models.voxcpm.released.files import PICKLE
from models.voxcpm.released.vae import AudioVAE, Sizes
from models.voxcpm.tokenizer import FILES

# Of the release: hidden, inner, heads, layers of the language model (and of the residual one), the same of the local parts,
# head width, words, values of the bottleneck, widths of the codec.
RELEASED = {"lm": (1024, 4096, 16, 24, 8), "local": (1024, 4096, 16, 8), "head": 64, "words": 73448, "bottleneck": 256, "vae": (64, 2048)}
SMALL = {"lm": (64, 128, 4, 2, 1), "local": (64, 128, 4, 1), "head": 16, "words": 512, "bottleneck": 16, "vae": (4, 64)}
ROOM = 32768
# As it comes, the last convolution makes a wave that the tanh behind it flattens.
QUIETER = ({"keys": r"decoder\.model\.8\.weight_g", "mul": 0.05, "add": 0.0},)


def write(folder: Path, size: str) -> None:
    """`size` "small" (some 3 MB) or "released" (1.95 GB, the language model written tensor by tensor)."""
    chosen: dict[str, Any] = SMALL if formula.is_small(size) else RELEASED
    folder.mkdir(parents=True, exist_ok=True)
    values = config(chosen)
    write_json(folder / "config.json", values)
    write_tokenizer(folder, chosen["words"])
    with torch.device("meta"):
        network, vae = shapes_of(VoxCPMNetwork(VoxCPMConfig(values))), shapes_of(AudioVAE(Sizes.of(values, "config.json")))
    write_tensors(folder / "model.safetensors", network, torch.bfloat16, lambda name: formula.value(name, network[name]))
    torch.save(OrderedDict((name, formula.value(name, shape, QUIETER)) for name, shape in vae.items()), folder / PICKLE)


def config(sizes: dict[str, Any]) -> dict[str, Any]:
    """config.json as it is released."""
    hidden, inner, heads, layers, residual = sizes["lm"]
    names = ("hidden_dim", "ffn_dim", "num_heads", "num_layers")
    local = dict(zip(names, sizes["local"], strict=True)) | ({} if hidden // heads == sizes["head"] else {"kv_channels": sizes["head"]})
    factors = [round(float(one), 5) for one in np.geomspace(1.0, 50.0, sizes["head"] // 2)]  # the release's reach 50, too
    scaling = {"type": "longrope", "long_factor": factors, "short_factor": factors, "original_max_position_embeddings": ROOM}
    encoder, decoder = sizes["vae"]
    return {
        "architecture": "voxcpm",
        "lm_config": {
            "bos_token_id": 1, "eos_token_id": 2, "hidden_size": hidden, "intermediate_size": inner, "max_position_embeddings": ROOM,
            "num_attention_heads": heads, "num_hidden_layers": layers, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
            "rope_scaling": scaling, "rope_theta": 10000, "vocab_size": sizes["words"], "use_mup": False, "scale_emb": 12,
            "dim_model_base": 256, "scale_depth": 1.4,
        },
        "patch_size": 4, "feat_dim": 64, "residual_lm_num_layers": residual,
        "scalar_quantization_latent_dim": sizes["bottleneck"], "scalar_quantization_scale": 9,
        "encoder_config": local,
        "dit_config": local | {"cfm_config": {
            "sigma_min": 1e-6, "solver": "euler", "t_scheduler": "log-norm", "training_cfg_rate": 0.1, "inference_cfg_rate": 2.0,
        }},
        "audio_vae_config": {
            "encoder_dim": encoder, "encoder_rates": [2, 3, 6, 7, 7], "latent_dim": 64, "decoder_dim": decoder,
            "decoder_rates": [7, 7, 6, 3, 2], "depthwise": True, "sample_rate": 44100, "use_noise_block": False,
        },
        "max_length": 4096, "device": "cuda", "dtype": "bfloat16",
    }  # fmt: skip


def write_tokenizer(folder: Path, words: int) -> None:
    """Three files with `words` tokens: special ones up to where speech ends, bytes, printable characters, and some that no text
    is made of."""
    special = ["<unk>", "<s>", "</s>", *(f"<|reserved_{n}|>" for n in range(3, AUDIO_START)), *(f"<|audio_{n}|>" for n in OTHERS)]
    letters = ["▁", *map(chr, range(ord("!"), ord("~") + 1))]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    tokens += [f"<{n}>" for n in range(len(tokens), words)]
    ids = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(ids, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer.save(str(folder / FILES[0]))
    write_json(folder / FILES[1], named | {
        "add_bos_token": True, "add_eos_token": False, "legacy": True, "model_max_length": 1e30, "tokenizer_class": "LlamaTokenizer",
    })  # fmt: skip
    write_json(folder / FILES[2], named)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
