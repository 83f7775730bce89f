"""A fine-tune as a folder that upstream's own inference loads: `generate_custom_voice(text, speaker=NAME)`.

The folder is the released Base's with two files changed (QwenLM/Qwen3-TTS, finetuning/sft_12hz.py says which; what its
inference needs beyond that was found by loading such folders with qwen-tts 0.1.1).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from models.parts.errors import UserError
from models.parts.weights import read_config
from models.qwen3_tts.config import CUSTOM
from models.qwen3_tts.network import Qwen3TTSNetwork
from models.qwen3_tts.released.files import FILES, check_files

OWN = ("config.json", "model.safetensors")  # what a voice does not share with its base
# With another version, or none, transformers 4.57 splits words by Mistral's pattern in a folder that is no hub name.
VERSION = "5.23.0"


def write(base: Path, network: Qwen3TTSNetwork, speaker: str, vector: np.ndarray, folder: Path) -> None:
    """Write the merged `network` as a custom voice to `folder` (made if absent): bfloat16, in upstream's names.

    `base`: the released Base that it was tuned on. `vector` float32 (E,): the one that it was judged with, which becomes
    the speaker's row. UserError for a base that lacks a file and for a vector of another size, before anything is written.
    """
    check_files(base)
    if network.speaker_encoder is None or vector.shape != (network.speaker_size,):
        raise UserError(f"speaker {speaker}: a vector of {vector.size} figures, but the network takes {network.speaker_size}; run the tokenise stage again")
    name, row = speaker.strip().lower(), network.ids.speaker  # upstream looks for lower case alone
    if not name:
        raise UserError("speaker: no name, so upstream could not ask for the voice; name it in params.yaml")
    config = read_config(base / "config.json")
    talker = config["talker_config"] | {"spk_id": {name: row}, "spk_is_dialect": {name: False}}
    config |= {"tts_model_type": CUSTOM, "talker_config": talker, "transformers_version": VERSION}
    with torch.no_grad():
        said = network.speaker_encoder.rows(torch.from_numpy(vector).to(network.device)[None])[0]
    # A custom voice has no speaker encoder: upstream would warn of its tensors and ignore them.
    state = {
        key: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for key, tensor in network.state_dict().items() if not key.startswith("speaker_encoder.")
    }  # fmt: skip
    table = "talker.model.codec_embedding.weight"
    state[table] = state[table].clone()  # a bfloat16 network keeps its own
    state[table][row] = said.to("cpu", torch.bfloat16)
    for file in FILES:
        if file not in OWN:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / file, folder / file)
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
