"""A fine-tune as a folder that upstream's own inference loads: the release with consolidated.safetensors rewritten.

Its voices stay by their names. The one that was tuned is asked for as before: its reference is what the network read in
training too.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from models.parts.weights import map_tensors, read_shapes, write_tensors
from models.voxtral.names import CODEC, FILE
from models.voxtral.network import VoxtralNetwork
from models.voxtral.released.files import FILES, check_files
from models.voxtral.released.voices import FOLDER, read_voices


def write(base: Path, network: VoxtralNetwork, folder: Path) -> None:
    """Write the merged `network` to `folder` (made if absent): bfloat16, by the names of the release `base`, whose codec is
    copied bit for bit.

    voice_embedding/ holds each voice as the pickle that upstream reads, and as what `make speak` reads. UserError for a base
    that lacks a file, before anything is written.
    """
    check_files(base)
    shutil.copytree(base / FOLDER, folder / FOLDER, dirs_exist_ok=True)
    for name in FILES:
        if name != FILE:
            shutil.copyfile(base / name, folder / name)
    for name, rows in read_voices(base).items():
        torch.save(rows.clone(), folder / FOLDER / f"{name}.pt")
    state = network.released_state() | {f"{CODEC}{name}": tensor for name, tensor in map_tensors(base / FILE, CODEC).items()}
    write_tensors(folder / FILE, read_shapes(base / FILE), torch.bfloat16, lambda name: state[name].detach().cpu())
