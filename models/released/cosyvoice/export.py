"""A fine-tune as a folder that upstream's own inference loads: `CosyVoice3(folder)`, with the speaker by name (`zero_shot_spk_id`).

The folder is the release's with what was trained merged, the language model and perhaps the flow, and the speaker in
spk2info.pt. It loads its .pt files strictly: exactly the released names, no epoch and no step (FunAudioLLM/CosyVoice,
cosyvoice/cli/model.py and frontend.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from models.parts.errors import UserError
from models.parts.family import Voice
from models.parts.speech_lm import SpeechLM
from models.parts.text import ids_of
from models.released.cosyvoice import tokenizer
from models.released.cosyvoice.codec import HIGH
from models.released.cosyvoice.files import FLOW, HIFT, LLM, part
from models.released.flow import BANDS, FRAMES
from models.released.hift import FRAME, RATE
from models.released.mel import LogMel
from models.released.stored import read_stored

SPEAKERS = "spk2info.pt"
QWEN = "llm.model."  # before the names of the language model that upstream loads first and overwrites


def write(base: Path, network: SpeechLM, voice: Voice, names: Sequence[str], folder: Path) -> None:
    """Write the merged `network` and `voice`, the one that it was judged with, to `folder` (made if absent).

    `base`: the release that it was tuned on, `names` its files. UserError for one that lacks a file and for a voice that has
    no reference, before anything is written.
    """
    sources = {name: part(base, Path(name).stem) if name.endswith(".pt") else base / name for name in names}
    for path in sources.values():
        if not path.is_file():
            raise UserError(f"{path}: not there; bring the release in again with `make weights`")
    if not voice.prompts or not len(voice.reference):
        raise UserError(f"voice {voice.speaker}: without a reference recording, so upstream's {SPEAKERS} can't be written; run the tokenise stage again")
    for name, path in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith(".pt"):
            shutil.copyfile(path, folder / name)
    torch.save(dict(read_stored(part(base, HIFT))), folder / f"{HIFT}.pt")
    torch.save(dict(read_stored(part(base, FLOW))) if network.flow is None else tensors(network.flow), folder / f"{FLOW}.pt")
    state = {name: tensor for name, tensor in tensors(network).items() if not name.startswith(f"{FLOW}.")}
    torch.save(state, folder / f"{LLM}.pt")
    tied = f"{QWEN}lm_head.weight"
    qwen = {name.removeprefix(QWEN): tensor.bfloat16() for name, tensor in state.items() if name.startswith(QWEN) and name != tied}
    save_file(qwen, folder / tokenizer.FOLDER / "model.safetensors", metadata={"format": "pt"})
    torch.save({voice.speaker: speaker(network, voice)}, folder / SPEAKERS)


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def speaker(network: SpeechLM, voice: Voice) -> dict[str, torch.Tensor]:
    """What upstream keeps of a reference: its text, its codes for either network, its mel, the speaker's vector."""
    reference = voice.prompts[0]
    instruct = network.config["instruct"] if network.version == 3 else ""
    text = torch.tensor([ids_of(network.tokenizer, instruct + network.transcript(reference.text))], dtype=torch.int32)
    codes = torch.from_numpy(reference.codes[:, 0])[None].int()
    mel = LogMel(rate=RATE, bands=BANDS, window=1920, hop=FRAME, high=HIGH[network.version])
    heard = mel(torch.from_numpy(voice.reference)[None])[:, : FRAMES * codes.shape[1]]
    vector = torch.from_numpy(voice.speaker_embedding)[None]
    whole = {"prompt_text": text, "llm_prompt_speech_token": codes, "flow_prompt_speech_token": codes, "prompt_speech_feat": heard}
    lengths = {f"{name}_len": torch.tensor([value.shape[1]], dtype=torch.int32) for name, value in whole.items()}
    return whole | lengths | {"llm_embedding": vector, "flow_embedding": vector}
