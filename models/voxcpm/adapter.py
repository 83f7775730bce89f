"""Which layers a LoRA may adapt, and its file as upstream's inference loads it.

Upstream adapts the attention of the two language models and of the diffusion transformer, and three projections on request; the
local encoder never (OpenBMB/VoxCPM, src/voxcpm/model/voxcpm.py, modules/layers/lora.py). By last names alone PEFT would adapt
the encoder as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from models.parts.errors import UserError
from models.parts.family import AdaptSettings

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
PROJECTIONS = ("enc_to_lm_proj", "lm_to_dit_proj", "res_to_dit_proj")
PARTS = {"lm": r"(base_lm|residual_lm)\.layers", "dit": r"feat_decoder\.estimator\.decoder\.layers"}
WEIGHTS, CONFIG = "lora_weights.safetensors", "lora_config.json"
GAIN = 2  # alpha / rank in the file: what upstream's package takes where it reads no lora_config.json


def target_layers(network: nn.Module, targets: Sequence[str]) -> list[str]:
    """The linear layers that `targets` mean, in order: `q_proj` is that of all three transformers, `lm.q_proj` and
    `dit.q_proj` that of the language models or of the diffusion transformer alone. UserError for a name that is none."""
    patterns = []
    for target in targets:
        part, _, layer = target.rpartition(".")
        if target in PROJECTIONS:
            patterns.append(target)
        elif layer in ATTENTION and part in ("", *PARTS):
            patterns.append(rf"({'|'.join([PARTS[part]] if part else PARTS.values())})\.\d+\.self_attn\.{layer}")
        else:
            known = f"{', '.join(ATTENTION)}, for one part alone with {' or '.join(f'{name}.' for name in PARTS)} before it"
            raise UserError(f"params.yaml: voxcpm: targets: there is no {target!r}; use {known}, or {', '.join(PROJECTIONS)}")
    if not targets:
        raise UserError(f"params.yaml: voxcpm: targets: none, so nothing would be trained; use {', '.join(ATTENTION)}")
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in linear if re.fullmatch("|".join(patterns), name)]


def write(state: Mapping[str, torch.Tensor], settings: AdaptSettings, scale: float, base: str, folder: Path) -> None:
    """`scale` × the adapter, as upstream loads it on `base` without merging. What `alpha` and `scale` make is in the file's B."""
    kinds = {"lora_A.weight": "lora_A", "lora_B.weight": "lora_B"}
    factor, tensors = scale * settings.alpha / settings.rank / GAIN, {}
    for name, tensor in state.items():
        layer, kind = re.fullmatch(r"(?:base_model\.model\.)?(.*)\.(lora_[AB]\.weight)", name).groups()  # type: ignore[union-attr]
        tensors[f"{layer}.{kinds[kind]}"] = (tensor.float() * (factor if kind == "lora_B.weight" else 1.0)).contiguous()
    layers = {name.rpartition(".")[0] for name in tensors}
    lm, dit = (sorted({name.rsplit(".", 1)[-1] for name in layers if re.match(part, name)}) for part in PARTS.values())
    config = {
        "enable_lm": bool(lm), "enable_dit": bool(dit), "enable_proj": bool(layers & {*PROJECTIONS}),
        "r": settings.rank, "alpha": GAIN * settings.rank, "dropout": 0.0,
        "target_modules_lm": lm, "target_modules_dit": dit, "target_proj_modules": [name for name in PROJECTIONS if name in layers],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps({"base_model": base, "lora_config": config}, indent=2) + "\n")
