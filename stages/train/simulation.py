"""Training steps without memory: tensors that have a shape, a type and a device, but no numbers (PyTorch's FakeTensor).

What a step would allocate and free is added up, so that its peak is known before anything is loaded. Integers and
booleans alone are really computed, along with their shapes: masks of a batch decide how many rows the heads see.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

aten = torch.ops.aten
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class Simulation(TorchDispatchMode):
    """`live` and `peak`: bytes of what was made in here and is not gone yet, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def tensor(self, real: torch.Tensor) -> torch.Tensor:
        """A tensor like `real`, whose numbers are known where they are integers or booleans."""
        fake = self._fake.from_tensor(real)
        if not real.is_floating_point():
            fake.known = real  # type: ignore[attr-defined]
        return fake

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            known = _known(args[0])
            return 1.0 if known is None else known.item()  # a loss as a number: any will do
        if func in INDEXING:
            args = (args[0], [place for index in args[1] for place in self._places(index)], *args[2:])
        with self._fake:
            out = func(*args, **kwargs)
        self._follow(func, args, kwargs, out)
        for tensor in tree_iter(out):
            if isinstance(tensor, FakeTensor):
                self._count(tensor)
        return out

    def _places(self, index: torch.Tensor | None) -> list[torch.Tensor | None]:
        """A mask as the indices of what it lets through, one tensor a dimension; other indices as they are."""
        if index is None or index.dtype != torch.bool:
            return [index]
        known = _known(index)
        if known is None:
            raise NotImplementedError("a mask that depends on floating-point numbers decides a shape")
        return [self.tensor(places) for places in known.nonzero(as_tuple=True)]

    def _follow(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Really compute what has whole numbers alone going in and coming out."""
        made = [tensor for tensor in tree_iter(out) if isinstance(tensor, torch.Tensor)]
        if not made or any(tensor.is_floating_point() for tensor in made):
            return
        inputs = [tensor for tensor in tree_iter((args, kwargs)) if isinstance(tensor, torch.Tensor)]
        if any(_known(tensor) is None for tensor in inputs):
            return
        real = func(*tree_map_only(torch.Tensor, _known, args), **tree_map_only(torch.Tensor, _known, kwargs))
        for tensor, known in zip(made, (one for one in tree_iter(real) if isinstance(one, torch.Tensor)), strict=True):
            tensor.known = known  # type: ignore[attr-defined]

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def gone(_: object) -> None:
            del self._storages[key]
            self.live -= size

        self._storages[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


def _known(tensor: torch.Tensor) -> torch.Tensor | None:
    return getattr(tensor, "known", None) if isinstance(tensor, FakeTensor) else tensor
