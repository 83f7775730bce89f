"""A network in eval mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Dropout off inside. loralib's layers are never merged by this (see models/parts/loralib_lora.py)."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
