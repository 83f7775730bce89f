"""The small codec of semantic and scalar codes: what is said in one codebook, how it sounds in a few dozen levels.

As `ResidualCodec`, but what the semantic entry does not say is kept as scalar-quantised values and not as residual
codebooks; the decoder reads them through one linear layer. `codebooks` in its configuration: semantic entries, then the
number of levels of each value.
"""

from __future__ import annotations

import torch

from models.small.flow import Flow, FlowConfig
from models.small.residual_codec import ResidualCodec
from models.small.scalars import ScalarQuantiser
from models.small.semantic import SemanticQuantiser
from models.small.vocoder import BANDS


class ScalarNetwork(torch.nn.Module):
    """Quantisers and decoder: what model.safetensors holds."""

    def __init__(self, config: dict):
        super().__init__()
        patch = config["flow"]["patch"] * BANDS
        semantic, *levels = config["codebooks"]
        self.quantiser = SemanticQuantiser(semantic, config["pca"])
        self.residual = ScalarQuantiser(semantic, patch, levels)
        self.flow = Flow(FlowConfig(codebooks=tuple(config["codebooks"]), scalars=True, **config["flow"]))


class ScalarCodec(ResidualCodec):
    """One semantic codebook and scalar-quantised values; frames of `config["frame"]` samples."""

    network_type = ScalarNetwork
