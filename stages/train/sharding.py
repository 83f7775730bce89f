"""Several processes that hold a network together, none of them the whole of it: PyTorch's FSDP, for bases that do not fit on a card.

Weights, gradients and the optimizer's state are cut among the processes, and each block is whole only while it computes. What a
checkpoint and a resumable state hold is gathered tensor by tensor, so that the files are those of an unsharded run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from models.parts.checkpointing import blocks
from models.parts.family import AdaptSettings, Family, Loss
from models.parts.precision import compute_device
from stages.common.checkpoints import ResumeState
from stages.train.processes import Item, LossOf, Rank


class Objective(nn.Module):
    """The loss as a module: what belongs to no block is whole while it is called."""

    def __init__(self, family: Family, network: nn.Module):
        super().__init__()
        self.family, self.network = family, network

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float], int]:
        loss = self.family.loss(self.network, batch)
        return loss.total, loss.parts, loss.labels  # FSDP looks for tensors in tuples and dictionaries


class Shard(Rank):
    """One of several that hold the network together. It loads on the processor, where there is room for the whole."""

    loads_on = torch.device("cpu")

    def prepare(self, family: Family, network: nn.Module) -> LossOf:
        mesh, objective = init_device_mesh(compute_device().type, (self.count,)), Objective(family, network)
        for module in (*blocks(network), objective):
            sharded = fully_shard(module, mesh=mesh)
            assert isinstance(sharded, FSDPModule)
            sharded.set_gradient_divide_factor(1.0)  # the sum over processes, by operations that gloo has too
            sharded.set_force_sum_reduction_for_comms(True)
        root = sharded

        def loss_of(batch: dict[str, torch.Tensor]) -> Loss:
            loss = Loss(*objective(batch))
            if not torch.is_grad_enabled():
                root.reshard()  # which the backward pass does otherwise: what was whole would not hear of new weights
            return loss

        return loss_of

    def share(self, items: Sequence[Item]) -> Iterator[Item]:
        """Every process is needed for every block: one that has nothing left works on the last item, and it does not count."""
        rounds = -(-len(items) // self.count)
        for index in range(self._state.process_index, rounds * self.count, self.count):
            self._counts = index < len(items)
            yield items[min(index, len(items) - 1)]

    def backward(self, loss: torch.Tensor) -> None:
        (loss if self._counts else 0.0 * loss).backward()

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """The backward passes did."""

    def state(self, path: Path) -> ResumeState:
        return ShardedState(path, self.first)

    def saves(self, due: bool = True) -> bool:
        """All of them together, when the first finds it due."""
        return self.merge([due], self.count)[0]

    def save_checkpoint(self, folder: Path, family: Family, network: nn.Module, settings: AdaptSettings) -> None:
        """What is stored of the network is whole for a moment in the first process, on the processor."""
        cut = []
        for module in network.modules():
            for name, parameter in [*module.named_parameters(recurse=False)]:
                if parameter.requires_grad or settings.mode == "sft":
                    tensor = whole(parameter.detach())
                    if self.first:
                        cut.append((module, name, parameter))
                        module._parameters[name] = nn.Parameter(tensor.cpu(), requires_grad=parameter.requires_grad)
        super().save_checkpoint(folder, family, network, settings)
        for module, name, parameter in cut:
            module._parameters[name] = parameter


class ShardedState(ResumeState):
    """The first process writes what all hold."""

    def __init__(self, path: Path, first: bool):
        super().__init__(path)
        self._first = first

    def write(self, tensors: dict[str, torch.Tensor], place: dict[str, Any]) -> None:
        if self._first:
            super().write(tensors, place)

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        return whole(tensor)

    def part(self, tensor: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
        assert isinstance(parameter, DTensor)
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
