"""Parts of released IndexTTS2 in the sizes of a fixture, with weights by formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from models.indextts2.network import RELEASED, UnifiedVoice
from models.indextts2.released import rehearsal
from models.indextts2.released.dit import DiT
from models.indextts2.released.repcodec import RepCodec
from models.released import formula
from models.released.fold import folded
from tests.golden_fixtures import golden

CLOSE = 2e-5


def fixture(name: str) -> tuple[dict[str, Any], Any]:
    return golden(f"indextts2/{name}")


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.int64 if array.dtype == np.int32 else np.float32))


def by_formula(module: nn.Module, prefix: str = "") -> None:
    """Weights by upstream's names, which have `prefix` in front of ours; what follows from the code stays."""
    shapes = {name: shape for name, shape in rehearsal.as_stored(module).items() if not name.endswith((".freqs", ".filter"))}
    state = folded({name: formula.value(prefix + name, shape) for name, shape in shapes.items()})
    assert not module.load_state_dict(state, strict=False).unexpected_keys
    module.eval().requires_grad_(False)


def network_of(config: dict[str, Any]) -> UnifiedVoice:
    made = UnifiedVoice(RELEASED | {name: value for name, value in config.items() if name in RELEASED})
    formula.fill(made, kept=["pos_enc.pe"])
    return made.eval().requires_grad_(False)


def repcodec_of(config: dict[str, Any]) -> RepCodec:
    sizes = ("hidden_size", "vocos_dim", "vocos_intermediate_dim", "vocos_num_layers", "codebook_size", "codebook_dim")
    made = RepCodec(*(config[name] for name in sizes))
    by_formula(made)
    return made


def estimator_of(config: dict[str, Any]) -> DiT:
    """`config`: the block s2mel. Without weights."""
    dit, waves = config["DiT"], config["wavenet"]
    return DiT(dit["content_dim"], dit["hidden_dim"], dit["num_heads"], 256, dit["depth"], waves["hidden_dim"], waves["kernel_size"], waves["num_layers"])
