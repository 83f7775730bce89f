"""Names and shapes of what is on disk and in memory: the releases' own code says how large a network is, their files do as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

Shapes = Mapping[str, Sequence[int]]


def shapes_of(held: nn.Module | Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """What a module's file holds, or what was read from one."""
    state = held.state_dict() if isinstance(held, nn.Module) else held
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def below(shapes: Shapes, prefix: str) -> dict[str, Sequence[int]]:
    """Those under `prefix`, named without it."""
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def count(shapes: Shapes, prefix: str) -> int:
    """How many numbered modules `prefix` has."""
    return len({name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)})
