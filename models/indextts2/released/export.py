"""A fine-tune as a folder that upstream's own inference loads: `IndexTTS2(cfg_path=folder/config.yaml, model_dir=folder)`.

The folder is the release's with gpt.pth rewritten, its pickles as upstream has them. Upstream has no place for a stored voice:
it hears a recording each time, and `stages.export` puts the one that the checkpoint was judged with beside, as reference.wav.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from models.indextts2.network import UnifiedVoice
from models.indextts2.released.files import FILES, GPT, S2MEL
from models.parts.errors import UserError
from models.released.stored import ALONE, PICKLES, read_stored, stored

# The second sentence is the licence's (section 4.1 a); it wants a copy of itself in the folder too.
NOTICE = """\
This voice is a derivative of IndexTTS2, used under the bilibili Model Use License Agreement. Its language model, gpt.pth, was
fine-tuned on recordings of one speaker; the other files are as they were released.

Any modifications made to the original model in this Derivative Work are not endorsed, warranted, or guaranteed by the original
right-holder of the original model, and the original right-holder disclaims all liability related to this Derivative Work.

Parts from elsewhere, each under its own licence: hf_cache/w2v-bert-2.0 (facebook/w2v-bert-2.0, MIT), hf_cache/bigvgan
(NVIDIA, MIT), hf_cache/campplus_cn_common.bin (funasr/campplus; the code of its network is Apache-2.0), and
hf_cache/semantic_codec_model.safetensors and wav2vec2bert_stats.pt (amphion/MaskGCT). Whether MaskGCT's weights may serve
commercial use is disputed (CC BY-NC or MIT, by who tells it): read their page before you sell what this folder says.

With upstream, speak with reference.wav as the prompt (spk_audio_prompt).
"""


def write(base: Path, network: UnifiedVoice, folder: Path) -> None:
    """Write the merged `network` to `folder` (made if absent), beside the files of the release `base`.

    UserError for a base that lacks a file, before anything is written.
    """
    sources = {name: stored(base, name) for name in FILES}
    for path in sources.values():
        if not path.is_file():
            raise UserError(f"{path}: not there; run `make weights MODEL=indextts2` again")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    for name, path in sources.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name == GPT:
            torch.save(state, target)
        elif target.suffix in PICKLES:
            torch.save(_as_released(name, read_stored(path)), target)
        else:
            shutil.copyfile(path, target)
    (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")


def _as_released(name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """What upstream's loader wants of a pickle: a tensor, names, or names under one or two others. Without what training left there."""
    if set(tensors) == {ALONE}:
        return tensors[ALONE]
    if name == S2MEL:
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("net."):
                _, part, inner = key.split(".", 2)
                parts.setdefault(part, {})[inner] = tensor
        return {"net": parts}
    if all(key.startswith("generator.") for key in tensors):
        return {"generator": {key.removeprefix("generator."): tensor for key, tensor in tensors.items()}}
    return tensors
