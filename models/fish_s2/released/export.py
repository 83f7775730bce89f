"""A fine-tune as a folder that upstream's own inference loads: the release with its shards rewritten.

Names, shards and index are the base's, so that nothing hides what was merged: upstream takes shards before any other file
of weights, and says nothing (fishaudio/fish-speech, fish_speech/models/text2semantic/llama.py).
"""

from __future__ import annotations

import shutil
from collections import OrderedDict
from pathlib import Path

import torch

from models.fish_s2.config import own_name
from models.fish_s2.network import FishNetwork
from models.fish_s2.released.files import CODEC, FILES, INDEX, PICKLE, SHARDS, check_files
from models.parts.weights import map_tensors, read_config, write_tensors

# The first sentence is the licence's (section IV a), which also wants what was changed, and "Built with Fish Audio".
NOTICE = """\
This model is licensed under the Fish Audio Research License, Copyright © 39 AI, INC. All Rights Reserved.

That is Fish Audio S2 Pro. This folder is a derivative of it, and was modified: its language model was fine-tuned on
recordings of one speaker, and what was trained is merged into model-*.safetensors. Its codec, tokenizer and configuration
are as they were released.

Built with Fish Audio
"""


def write(base: Path, network: FishNetwork, folder: Path) -> None:
    """Write the merged `network` to `folder` (made if absent): bfloat16, by the names and in the shards of the release `base`.

    codec.safetensors, which `make speak` reads, holds what codec.pth does. UserError for a base that lacks a file, before
    anything is written.
    """
    check_files(base)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if name not in SHARDS:
            shutil.copyfile(base / name, folder / name)
    torch.save(OrderedDict(map_tensors(base / CODEC)), folder / PICKLE)
    state, shard_of = network.state_dict(), read_config(base / INDEX)["weight_map"]
    for shard in SHARDS:
        held = {name: tuple(state[own_name(name)].shape) for name, file in shard_of.items() if file == shard}
        write_tensors(folder / shard, held, torch.bfloat16, lambda name: state[own_name(name)].detach().cpu())
    (folder / "Notice").write_text(NOTICE, encoding="utf-8")
