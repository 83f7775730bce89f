"""The parameters of an ONNX graph under the names of the modules that it was exported from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch

from models.parts.errors import UserError


def read_parameters(path: Path) -> dict[str, torch.Tensor]:
    """Float32 tensors by dotted module names, `weight` or `bias` behind them, matrices as `torch.nn.Linear` has them.

    Exporters number initialisers ("onnx::MatMul_2536"), but a node is called after its module: `/blocks.0/attn/query/MatMul`.
    Some parameters are constants of the graph instead. UserError for a file that is no graph.
    """
    try:
        graph = onnx.load(path).graph
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; copy or download the whole release") from None
    except Exception as error:  # the parser has classes of its own
        raise UserError(f"{path}: not an ONNX graph ({type(error).__name__}); download it again") from None
    stored = {constant.name: constant for constant in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            stored |= {output: attribute.t for output in node.output for attribute in node.attribute if attribute.name == "value"}
    found: dict[str, torch.Tensor] = {}
    for node in graph.node:
        module = ".".join(node.name.strip("/").split("/")[:-1])
        arrays = [onnx.numpy_helper.to_array(stored[name]) for name in node.input if name in stored]
        for name, array in zip(_NAMES.get(node.op_type, ()), [array for array in arrays if array.ndim], strict=False):
            array = array.T if node.op_type == "MatMul" else array
            found[f"{module}.{name}"] = torch.from_numpy(np.array(array, np.float32, order="C"))
    return found


# What the parameters of a node are to its module, in order. A norm is one node or, in older graphs, Mul and Add.
_NAMES = {
    "Conv": ("weight", "bias"), "LayerNormalization": ("weight", "bias"), "MatMul": ("weight",), "Mul": ("weight",), "Add": ("bias",),
}  # fmt: skip
