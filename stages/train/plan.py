"""How much memory training takes, before anything is loaded: `make plan MODEL=qwen3_tts`.

    python -m stages.train.plan --model qwen3_tts            # on this machine
    python -m stages.train.plan --model qwen3_tts --gpu 24   # on a GPU of so many GiB

Only config.json and the tokenizer are read. Weights, gradients and the optimizer's state follow from shapes; what forward
and backward pass hold at their peak from a simulated step (stages/train/simulation.py). What is not in it: half a GiB or
so that CUDA takes for itself.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import psutil
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import models
from models.parts.checkpointing import checkpoint_gradients
from models.parts.errors import UserError
from models.parts.family import Example, Family
from models.parts.precision import training_arithmetic
from stages.common.checkpoints import adapt_settings
from stages.common.cli import run
from stages.common.params import FamilyParams, load_params
from stages.train.batching import length_batches
from stages.train.simulation import Simulation

GIB = 2**30
MOMENTS = 2  # AdamW keeps two numbers, as large as the gradient, for each trained one
CHARACTERS = 15  # a second of read text
Examples = Callable[[nn.Module], Sequence[Example]]
WORDS = "Every word that is read aloud takes memory. "


@dataclass(frozen=True)
class Device:
    """Where training runs. `memory`: free bytes."""

    name: str
    memory: int
    is_gpu: bool

    @classmethod
    def here(cls) -> Device:
        if torch.cuda.is_available():
            return cls(torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0], True)
        return cls("this computer", psutil.virtual_memory().available, False)


@dataclass(frozen=True)
class Plan:
    """Numbers of parameters, and bytes."""

    parameters: int
    trainable: int
    weights: int
    gradients: int
    optimizer: int
    activations: int  # and what else forward and backward pass hold at their peak

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations

    def table(self, name: str, device: Device) -> str:
        head = f"plan {name}: {self.parameters:,} parameters, {self.trainable:,} of them trained; GiB:"
        figures = {part: getattr(self, part) for part in ("weights", "gradients", "optimizer", "activations", "total")}
        rows = [*figures.items(), (f"free on {device.name}", device.memory)]
        return "\n".join([head, *(f"  {part:<24} {size / GIB:8.2f}" for part, size in rows)])


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.train.plan", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--gpu", type=float, metavar="GIB", help="plan for a GPU with so much free memory, not for this machine")
    asked = parser.parse_args(argv)
    params = load_params()
    device = Device("the GPU", round(asked.gpu * GIB), True) if asked.gpu else Device.here()
    family, block = models.load(asked.model), params.family(asked.model)
    seconds, frames = params.corpus.max_seconds, block.train.batch_frames
    announce(family, block, device, lambda network: longest_clips(family, network, frames, seconds))


def announce(family: Family, block: FamilyParams, device: Device, examples: Examples) -> None:
    """Print the plan; UserError where the device has too little memory."""
    planned = plan(family, block, device.is_gpu, examples)
    print(planned.table(family.name, device), flush=True)
    if planned.total > device.memory:
        needs = f"{family.name}: training takes {planned.total / GIB:.1f} GiB and {device.name} has {device.memory / GIB:.1f} free"
        raise UserError(f"{needs}; in its block of params.yaml, {' or '.join(ways_out(block))}")


def ways_out(block: FamilyParams) -> list[str]:
    """What takes less memory."""
    train = block.train
    ways = [
        (block.dtype == "float32" and train.mode == "lora", "set dtype: bfloat16"),
        (train.mode == "sft", "set train.mode: lora and dtype: bfloat16"),
        (not train.gradient_checkpointing, "set train.gradient_checkpointing: true"),
        (True, f"lower train.batch_frames ({train.batch_frames}; a longer clip stands alone: corpus.max_seconds)"),
    ]
    return [way for helps, way in ways if helps]


def plan(family: Family, block: FamilyParams, on_gpu: bool, examples: Examples) -> Plan:
    """What training takes on the examples that `examples` has for a network, by their most expensive batch."""
    train = block.train
    network = family.network(block.weights, getattr(torch, block.dtype), "meta")
    parameters = sum(parameter.numel() for parameter in network.parameters())
    batch = family.batch(network, largest(length_batches(examples(network), train.batch_frames)))
    if train.gradient_checkpointing:
        checkpoint_gradients(network)
    network.requires_grad_(False)
    if train.epochs:
        network = family.adapt(network, adapt_settings(train)).train()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = sum(parameter.nbytes for parameter in trained)
    return Plan(
        parameters, sum(parameter.numel() for parameter in trained),
        sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers())),
        gradients, MOMENTS * gradients, peak_of_a_step(family, network, batch, on_gpu),
    )  # fmt: skip


def longest_clips(family: Family, network: nn.Module, batch_frames: int, max_seconds: float) -> list[Example]:
    """As few clips as fill a batch; one, where the longest is more than a batch."""
    longest = math.ceil(max_seconds * family.card["token_rate"])
    count = math.ceil(batch_frames / longest)
    frames = batch_frames // count if count > 1 else longest
    characters = math.ceil(CHARACTERS * frames / family.card["token_rate"])
    text = (WORDS * math.ceil(characters / len(WORDS)))[:characters]
    return [family.blank(network, text, frames)] * count


def largest(batches: Sequence[Sequence[Example]]) -> Sequence[Example]:
    """The batch with the most positions, or nearly so: texts count by their letters."""
    return max(batches, key=lambda batch: len(batch) * max(len(one.codes) + len(one.text) for one in batch))


def peak_of_a_step(family: Family, network: nn.Module, batch: dict[str, torch.Tensor], on_gpu: bool) -> int:
    """The most bytes that the loss and its gradients hold at once; what they start from and give is not in it."""
    with Simulation() as simulation, _arithmetic(on_gpu):
        network.to_empty(device="cpu")
        batch = {name: simulation.tensor(tensor) for name, tensor in batch.items()}
        before = simulation.peak = simulation.live
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_forget_gradient)
        loss = family.loss(network, batch).total
        if loss.requires_grad:
            loss.backward()
        return simulation.peak - before


def _forget_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


@contextmanager
def _arithmetic(on_gpu: bool) -> Iterator[None]:
    """`training_arithmetic` for simulated tensors, which say that they are on the processor: those of a GPU are as large."""
    if on_gpu:
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.FLASH_ATTENTION), _no_attention_dropout():
            yield
    else:
        with training_arithmetic(torch.device("cpu")):
            yield


def _no_attention_dropout() -> AbstractContextManager[Any]:
    """The processor's fused attention has no dropout. A GPU's has, and keeps nothing for it."""
    attention = F.scaled_dot_product_attention
    return patch.object(F, "scaled_dot_product_attention", lambda *args, **kwargs: attention(*args, **kwargs | {"dropout_p": 0.0}))


if __name__ == "__main__":
    run(main)
