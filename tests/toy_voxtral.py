"""A toy Voxtral: every part of a released one, a few thousand weights, nothing learnt."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from models.parts.family import Example
from models.voxtral.config import FlowHeadConfig, VoxtralConfig
from models.voxtral.network import VoxtralNetwork
from models.voxtral.prompt import CONTROL
from models.voxtral.released import rehearsal
from stages.weights.convert import convert
from tests.characters import character_tokenizer
from tests.family_checks import utterances

SEMANTIC, LEVELS, VALUES = 24, 21, 36
CONFIG = VoxtralConfig(
    dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=48, vocab_size=80,
    semantic_codebook_size=SEMANTIC, acoustic_codebook_size=LEVELS, n_acoustic_codebook=VALUES, max_seq_len=512,
    flow=FlowHeadConfig(n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=40),
)
VOICE = torch.randn(2, CONFIG.dim, generator=torch.Generator().manual_seed(2)).bfloat16()


def network(seed: int = 1, **changes: Any) -> VoxtralNetwork:
    """Untrained, with weights so large that its distributions are far from uniform."""
    made = VoxtralNetwork.new(replace(CONFIG, **changes), character_tokenizer(list(CONTROL)), seed)
    for name, parameter in made.named_parameters():
        if "norm" not in name:
            parameter.data.mul_(20 if "embed" in name else 2)
    return made.eval()


def folder(path: Path, **changes: Any) -> Path:
    """A weights folder with that network."""
    network(**changes).save(path)
    return path


def examples(count: int = 3, seed: int = 5) -> list[Example]:
    def codes(random: np.random.Generator, frames: int) -> np.ndarray:
        semantic = random.integers(0, SEMANTIC, (frames, 1), np.int32)
        return np.concatenate([semantic, random.integers(0, LEVELS, (frames, VALUES), np.int32)], 1)

    return utterances(codes, count, seed)


def tekken(path: Path, words: tuple[bytes, ...] = ()) -> Path:
    """A tekken.json of all bytes and, in order of rank, `words`."""
    vocabulary = [bytes([byte]) for byte in range(256)] + list(words)
    specials = ["<unk>", "<s>", "[AUDIO]", "[BEGIN_AUDIO]", "[REPEAT_AUDIO_TEXT]", "[NEXT_AUDIO_TEXT]"]
    path.write_text(json.dumps({
        "config": {"pattern": r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", "default_num_special_tokens": 10,
                   "default_vocab_size": 10 + len(vocabulary)},
        "vocab": [{"rank": rank, "token_bytes": base64.b64encode(word).decode()} for rank, word in enumerate(
            [*vocabulary, b"beyond the embeddings"])],
        "special_tokens": [{"rank": rank, "token_str": name} for rank, name in enumerate(specials)],
        "audio": {"voice_num_audio_tokens": {"toy": len(VOICE)}},
    }))  # fmt: skip
    return path


def release(folder: Path) -> Path:
    """A small release, codec and all, as `make weights` leaves it."""
    rehearsal.write(folder, "small")
    bring(folder)
    return folder


def bring(folder: Path) -> None:
    for path in (folder / "voice_embedding").glob("*.pt"):
        convert(path, path.name, path.with_suffix(".safetensors"))
        path.unlink()


def released_folder(folder: Path, changes: dict[str, torch.Tensor | None] | None = None) -> Path:
    """A folder of the released form: params.json, tekken.json, a voice, bfloat16 and some of the codec in the same file."""
    (folder / "voice_embedding").mkdir()
    save_file({"tensor": VOICE}, folder / "voice_embedding/toy.safetensors")
    made = network(vocab_size=300)
    (folder / "params.json").write_text(json.dumps(made.config.as_params()))
    tekken(folder / "tekken.json", (b"in", b" s", b" sa"))
    state = {name: tensor.bfloat16().contiguous() for name, tensor in made.released_state().items()}
    state["audio_tokenizer.output_proj.conv.bias"] = torch.zeros(3)
    for name, tensor in (changes or {}).items():
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    save_file(state, folder / "consolidated.safetensors")
    return folder
