"""A fine-tune as a folder that upstream's own inference loads: `VoxCPM(voxcpm_model_path=FOLDER)`.

The folder is the release's with model.safetensors rewritten; upstream loads it without asking for every name, so the names are
written as they were released. The adapter lies beside it for those who load it on the release (models/voxcpm/adapter.py).
"""

from __future__ import annotations

import shutil
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

from models.parts.weights import write_tensors
from models.released.shapes import shapes_of
from models.voxcpm.network import VoxCPMNetwork
from models.voxcpm.released.codec import read_vae
from models.voxcpm.released.files import FILES, PICKLE, VAE, check_files

OWN = ("model.safetensors", VAE)


def write(base: Path, network: VoxCPMNetwork, folder: Path) -> None:
    """Write the merged `network` to `folder` (made if absent): bfloat16, in upstream's names, with the codec and tokenizer of the
    release `base`. UserError for a base that lacks a file, before anything is written.

    Of the codec, audiovae.safetensors, which newer versions and `make speak` read, holds what audiovae.pth does.
    """
    check_files(base)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if name not in OWN:
            shutil.copyfile(base / name, folder / name)
    vae = {name: tensor.contiguous() for name, tensor in read_vae(base / VAE).items()}
    save_file(vae, folder / VAE, metadata={"format": "pt"})
    torch.save(OrderedDict(vae), folder / PICKLE)
    state = network.state_dict()
    write_tensors(folder / "model.safetensors", shapes_of(state), torch.bfloat16, lambda name: state[name].detach().cpu())
