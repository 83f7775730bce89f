"""The parts of a release of CosyVoice or Chatterbox at a size to rehearse with: their names and shapes are the release's, their weights by formula."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from models.released import formula
from models.released.campplus import CAMPPlus
from models.released.flow import Flow
from models.released.flow2 import Estimator, Flow2
from models.released.flow3 import DiT, Flow3
from models.released.hift import HiFT, Source
from models.released.s3 import BLOCKS, S3Tokeniser


def s3_tokeniser(version: int, small: bool) -> S3Tokeniser:
    return S3Tokeniser(128 if small else 1280, BLOCKS[version])


def campplus(small: bool) -> CAMPPlus:
    return CAMPPlus(growth=8 if small else 32)


def flow(version: int, small: bool) -> Flow:
    if not small:
        return Flow2() if version == 2 else Flow3()
    return Flow2(1, 128, Estimator(64, 2, 1, 64)) if version == 2 else Flow3(96, DiT(128, 2))


def hift(sines: Source, causal: bool, small: bool) -> HiFT:
    return HiFT(sines, causal, *((64, 64) if small else (512, 512)))


def by_formula(module: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a module's file; counters stand at 0."""
    return {
        name: formula.value(name, tuple(tensor.shape)) if tensor.is_floating_point() else torch.zeros_like(tensor, device="cpu")
        for name, tensor in module.state_dict().items()
    }


def save(module: nn.Module, path: Path) -> None:
    save_file(by_formula(module), path, metadata={"format": "pt"})
