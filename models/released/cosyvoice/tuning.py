"""The flow of version 3, trained along with the language model: `parts: [llm, flow]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.parts.errors import UserError
from models.parts.family import Example
from models.parts.weights import read_shapes
from models.released.cosyvoice.codec import HIGH, flow_of
from models.released.cosyvoice.files import FLOW, part
from models.released.flow import BANDS, FRAMES, SPEAKER
from models.released.flow3 import Flow3
from models.released.flow_loss import draw, flow_loss
from models.released.hift import FRAME, RATE
from models.released.mel import LogMel
from models.released.s3_codec import filled
from models.released.shapes import shapes_of
from models.released.stored import read_stored

SEED = 0  # of what validation draws


def flow_of_release(weights: Path, version: int, device: torch.device | str) -> Flow3:
    """The flow of a release, float32 whatever the language model is. On the device "meta" nothing but its shapes is read."""
    path, on_meta = part(weights, FLOW), torch.device(device).type == "meta"
    state = {} if on_meta else read_stored(path)
    with torch.device("meta"):
        flow = flow_of(read_shapes(path) if on_meta else shapes_of(state), version, path)
    assert isinstance(flow, Flow3)
    return flow.eval() if on_meta else filled(flow, state, path).to(device)


def heard(examples: Sequence[Example], version: int) -> dict[str, torch.Tensor]:
    """`mel` float32 (B, 80, 2 T), right-padded, `covered` (B,): how many of the codes it covers, at most T; `speaker` (B, 192).

    A clip has a code for what is left at its end and no frame: codes and mel are cut to what both have, for the flow would
    learn to be late, or early.
    """
    to_mel = LogMel(rate=RATE, bands=BANDS, window=1920, hop=FRAME, high=HIGH[version])
    mels = []
    for example in examples:
        if example.audio is None:
            raise UserError(f"utterance {example.id}: without its recording, from which the flow learns; run the train stage")
        mel = to_mel(torch.from_numpy(example.audio())[None])[0]
        mels.append(mel[: FRAMES * min(len(example.codes), len(mel) // FRAMES)])
    return {
        "mel": nn.utils.rnn.pad_sequence(mels, batch_first=True).transpose(1, 2),
        "covered": torch.tensor([len(mel) // FRAMES for mel in mels]),
        "speaker": torch.from_numpy(np.stack([example.speaker_embedding for example in examples])),
    }


def silent(example: Example) -> Example:
    """With a recording of nothing, as long as its codes."""
    samples = FRAME * FRAMES * len(example.codes)
    return replace(example, speaker_embedding=np.zeros(SPEAKER, np.float32), audio=lambda: np.zeros(samples, np.float32))


def loss_of(flow: Flow3, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of a batch with what `heard` gives. In training PyTorch's own numbers are drawn; for validation always the same ones."""
    mel, covered = batch["mel"], batch["covered"]
    source = None if flow.training else torch.Generator().manual_seed(SEED)
    draws = draw(FRAMES * covered, mel.shape[-1], source)
    return flow_loss(flow, batch["speech"][:, : mel.shape[-1] // FRAMES], covered, mel, batch["speaker"], draws)
