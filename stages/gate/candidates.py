"""Who speaks at the gate: a checkpoint at a scale of its adapter, or one of the two that every checkpoint is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.common.training import BASE, checkpoint_name


@dataclass(frozen=True)
class Candidate:
    """`name` is the checkpoint's, with its scale where that is another than the first of params.yaml. `epoch`: 0 is the base; of
    a system from elsewhere, of whose training nothing is known, the place among its checkpoints."""

    name: str
    checkpoint: str
    epoch: int
    scale: float | None


RECORDING = Candidate("recording", "recording", 0, None)  # the speaker, whom nobody trained on these clips
CODEC = Candidate("codec", "codec", 0, None)  # the recordings, encoded and decoded: no checkpoint can sound better


def candidates(epochs: Sequence[int], scale: float, first: float) -> list[Candidate]:
    """The checkpoints of `epochs` at `scale`; the base (epoch 0) has no adapter to scale."""
    found = []
    for epoch in epochs:
        checkpoint = checkpoint_name(epoch)
        name = checkpoint if scale == first or checkpoint == BASE else f"{checkpoint}@{scale:g}"
        found.append(Candidate(name, checkpoint, epoch, scale if epoch else None))
    return found
