"""A folder in the layout of Voxtral with weights by formula, to go through every stage without the release.

The tokenizer reads bytes. The language model is small in both sizes: the released one takes a large graphics card, and
`make plan` tells what training it needs. The codec of size "released" is the release's.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from models.parts.weights import write_tensors
from models.released import formula
from models.voxtral.config import RELEASED, FlowHeadConfig, VoxtralConfig
from models.voxtral.names import FILE
from models.voxtral.released.check import released_shapes
from models.voxtral.released.decoder import CodecConfig
from models.voxtral.released.files import CONFIG, TOKENIZER
from models.voxtral.released.voices import FOLDER

# The release's, by their ids; the others have names that say nothing.
SPECIAL = {
    0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]",
    35: "[REPEAT_AUDIO_TEXT]", 36: "[NEXT_AUDIO_TEXT]",
}  # fmt: skip
SPECIALS, BYTES = 1000, 256
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
VOICES = {"casual_female": 7, "neutral_male": 5}  # and how many rows each has
SMALL = replace(
    RELEASED, dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, hidden_dim=128, vocab_size=SPECIALS + BYTES,
    flow=FlowHeadConfig(n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, hidden_dim=128),
)  # fmt: skip
SMALL_CODEC = CodecConfig(semantic_dim=32, dim=64, hidden_dim=128, head_dim=16, n_heads=4, n_kv_heads=4)
RULES = (
    # As it comes, the wave goes far beyond full scale.
    {"keys": r"audio_tokenizer\.output_proj\.conv\.parametrizations\.weight\.original0", "mul": 0.05, "add": 0.0},
    # As it comes, the end is one of 8193 choices, and no take would stop by itself.
    {"keys": r"acoustic_transformer\.semantic_codebook_output\.weight", "row": 1, "mul": 6.0, "add": 0.0},
)


def write(folder: Path, size: str) -> None:
    """`size` "small" (some 10 MB) or "released" (0.3 GB, the codec)."""
    config, codec = SMALL, SMALL_CODEC if formula.is_small(size) else CodecConfig()
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(params(config, codec), indent=2) + "\n", encoding="utf-8")
    (folder / TOKENIZER).write_text(json.dumps(tekken(), indent=1) + "\n", encoding="utf-8")
    shapes = released_shapes(config, codec)
    write_tensors(folder / FILE, shapes, torch.bfloat16, lambda name: formula.value(name, shapes[name], RULES))
    for name, rows in VOICES.items():
        torch.save(formula.value(f"{name}.embeddings", (rows, config.dim)).bfloat16(), folder / FOLDER / f"{name}.pt")


def params(config: VoxtralConfig, codec: CodecConfig) -> dict[str, Any]:
    """params.json as it is released."""
    made = config.as_params()
    made["multimodal"]["audio_model_args"]["audio_encoding_args"] = {"sampling_rate": codec.sampling_rate, "frame_rate": 12.5}
    made["multimodal"]["audio_tokenizer_args"] = asdict(codec) | {"voice": {name: place for place, name in enumerate(VOICES)}}
    return made


def tekken() -> dict[str, Any]:
    """tekken.json: every byte, and as many special tokens as the release has."""
    names = [SPECIAL.get(rank, f"<SPECIAL_{rank}>") for rank in range(SPECIALS)]
    return {
        "config": {
            "pattern": PATTERN, "num_vocab_tokens": BYTES, "default_vocab_size": SPECIALS + BYTES,
            "default_num_special_tokens": SPECIALS, "version": "v7",
        },
        "vocab": [{"rank": byte, "token_bytes": base64.b64encode(bytes([byte])).decode(), "token_str": None} for byte in range(BYTES)],
        "special_tokens": [{"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)],
        "audio": {"sampling_rate": 24000, "frame_rate": 12.5, "voice_num_audio_tokens": VOICES},
    }  # fmt: skip
