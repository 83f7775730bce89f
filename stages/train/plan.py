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
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import models
from models.parts.checkpointing import blocks, checkpoint_gradients
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
    processes: int = 1  # each of which takes as much

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations

    def table(self, name: str, device: Device) -> str:
        each = f" in each of {self.processes} processes" if self.processes > 1 else ""
        head = f"plan {name}: {self.parameters:,} parameters, {self.trainable:,} of them trained; GiB{each}:"
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
    needed = planned.total if device.is_gpu else planned.total * planned.processes  # a GPU serves one
    if needed > device.memory:
        needs = f"{family.name}: training takes {needed / GIB:.1f} GiB and {device.name} has {device.memory / GIB:.1f} free"
        raise UserError(f"{needs}; in its block of params.yaml, {' or '.join(ways_out(block, device.is_gpu))}")


def ways_out(block: FamilyParams, on_gpu: bool) -> list[str]:
    """What takes less memory."""
    train = block.train
    ways = [
        (train.processes > 1 and not on_gpu, f"lower train.processes ({train.processes})"),
        (block.dtype == "float32" and train.mode == "lora", "set dtype: bfloat16"),
        (train.mode == "sft", "set train.mode: lora and dtype: bfloat16"),
        (not train.gradient_checkpointing, "set train.gradient_checkpointing: true"),
        (on_gpu and not train.shard, "set train.shard: true, with several GPUs"),
        (True, f"lower train.batch_frames ({train.batch_frames}; a longer clip stands alone: corpus.max_seconds)"),
    ]
    return [way for helps, way in ways if helps]


def plan(family: Family, block: FamilyParams, on_gpu: bool, examples: Examples) -> Plan:
    """What training takes on the examples that `examples` has for a network, by their most expensive batch."""
    train = block.train
    network = family.network_to_train(block.weights, adapt_settings(train), block.torch_dtype, "meta")
    parameters = sum(parameter.numel() for parameter in network.parameters())
    batch = family.batch(network, largest(length_batches(examples(network), train.batch_frames)))
    if train.gradient_checkpointing:
        checkpoint_gradients(network)
    network.requires_grad_(False)
    if train.epochs:
        network = family.adapt(network, adapt_settings(train)).train()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients, shares = sum(parameter.nbytes for parameter in trained), train.processes if train.shard else 1
    return Plan(
        parameters, sum(parameter.numel() for parameter in trained), held(network, shares, weights_of), held(network, shares, gradients_of),
        MOMENTS * gradients // shares, peak_of_a_step(family, network, batch, on_gpu), train.processes if train.epochs else 1,
    )  # fmt: skip


def weights_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def gradients_of(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)


def held(network: nn.Module, shares: int, size: Callable[[nn.Module], int]) -> int:
    """What a process holds of it at most: its share, and whole what is in no block, the block that computes, and the next."""
    whole, of_blocks = size(network), [size(block) for block in blocks(network)]
    return whole if shares == 1 else whole // shares + whole - sum(of_blocks) + 2 * max(of_blocks, default=0)


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


@contextmanager
def _no_attention_dropout() -> Iterator[None]:
    """The processor's fused attention has no dropout. A GPU's has, and keeps nothing for it. (A mode of PyTorch's would not see
    what gradient checkpointing computes again.)"""
    attend = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda *args, **kwargs: attend(*args, **kwargs | {"dropout_p": 0.0})  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = attend


if __name__ == "__main__":
    run(main)
