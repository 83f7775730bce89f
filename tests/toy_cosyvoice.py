"""A toy CosyVoice 3: network and codec with random weights, and a folder in which tokenise and train can run on it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import models
from models.parts.weights import save_half
from models.small.semantic_codec import SemanticNetwork
from stages.common.files import write_json, write_jsonl
from stages.common.shards import Clip, write_shards
from stages.common.weights import record

ROOT = Path(__file__).parents[1]
CODES = 40
NETWORK = {
    "speech_token_size": CODES,
    "instruct": "You are a helpful assistant.<|endofprompt|>",
    "llm": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
            "tie_word_embeddings": True},
}
CODEC = {
    "id": "toy-s3", "sample_rate": 16000, "output_sample_rate": 24000, "token_rate": 25, "codebooks": [CODES], "pca": 8,
    "hop": 480,
    "flow": {"patch": 2, "width": 16, "layers": 1, "heads": 2, "speaker": True, "steps": 1},
}
WORDS = "press one two three star pound hello goodbye extension agent call please".split()


def weights(folder: Path, seed: int = 3) -> Path:
    """A weights folder: network and codec, nothing learnt."""
    family = models.load("cosyvoice3")
    family.save(family.create(NETWORK, seed), folder)
    torch.manual_seed(seed)
    codec = SemanticNetwork(CODEC)
    for tensor in codec.quantiser.buffers():
        tensor.normal_(std=0.5)
    save_half(codec, folder / "codec" / "model.safetensors")
    (folder / "codec" / "config.json").write_text(json.dumps(CODEC))
    return folder


def workplace(folder: Path, clips: int = 14) -> Path:
    """`folder` with params.yaml, weights and a resampled corpus of short noises; returns it."""
    weights(folder / "weights")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["models"] = ["cosyvoice3"]
    params["cosyvoice3"]["tiny"]["weights"] = "weights"
    params["cosyvoice3"]["tiny"]["train"] |= {"epochs": 3, "save_every_n_epochs": 2, "batch_frames": 60, "rank": 2, "alpha": 4, "warmup": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    rng, rows, audio = np.random.default_rng(1), [], []
    for index in range(clips):
        wave = (0.1 * rng.normal(size=8000 + 900 * index)).astype(np.float32)
        audio.append(Clip(f"clip-{index:02d}", 16000, wave))
        rows.append({
            "id": f"clip-{index:02d}", "text": " ".join(rng.choice(WORDS, 3)), "speaker": "ann", "language": "en",
            "split": ("train", "train", "train", "train", "train", "validation", "test")[index % 7], "sample_rate": 16000,
            "samples": len(wave), "seconds": round(len(wave) / 16000, 4), "sha256": hashlib.sha256(wave.tobytes()).hexdigest(),
        })
    write_shards(folder / "data/cosyvoice3/resampled", audio)
    write_json(folder / "data/cosyvoice3/weights.json", record(folder / "weights", {}, {}))
    (folder / "data/corpus").mkdir(parents=True)
    write_jsonl(folder / "data/corpus/manifest.jsonl", rows)
    return folder


def change(folder: Path, **train: Any) -> None:
    """Edit params.yaml: `lr` at the top, everything else in the family's train block."""
    params = yaml.safe_load((folder / "params.yaml").read_text())
    if "lr" in train:
        params["lr"] = train.pop("lr")
    params["cosyvoice3"]["tiny"]["train"] |= train
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def contents(folder: Path) -> dict[str, str]:
    """Relative name -> hash of every file below `folder`."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }


def again(folder: Path) -> None:
    """Forget what the stages made."""
    for name in ("data/cosyvoice3/tokens", "data/cosyvoice3/checkpoints", ".scratch", "reports"):
        shutil.rmtree(folder / name, ignore_errors=True)
