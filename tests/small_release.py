"""A family with a release of five small files of every kind: safetensors, JSON, a pickle, a pickled tensor, ONNX."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors import safe_open
from safetensors.torch import save_file

from models.parts.errors import UserError
from models.parts.family import Family

AS_IT_IS = "tokeniser.onnx"
SHAPES = {
    "model.safetensors": {"embed.weight": [8, 4], "head.weight": [8, 4]},
    "codec.safetensors": {"encoder.weight": [4, 3], "encoder.tied": [4, 3], "decoder.layers.0": [2], "decoder.layers.1": [2]},
    "voices/anna.safetensors": {"tensor": [5, 4]},
}


class Small(Family):
    name = "small"

    def __init__(self) -> None:
        self.card = {
            "title": "Small",
            "licence": {"weights": {"name": "MIT", "commercial": True, "says": "Free."}},
            "release": {
                "repositories": [
                    {"id": {"big": "somebody/small-big", "tiny": "somebody/small-tiny"}, "files": ["config.json", "model.safetensors", "codec.pt", AS_IT_IS]},
                    {"id": "else/voices", "files": [{"first.pt": "voices/anna.pt"}]},
                ]
            },
        }

    def check_release(self, weights: Path) -> None:
        for name, shapes in SHAPES.items():
            with safe_open(weights / name, "pt") as file:
                names = file.keys()
                found = {key: file.get_slice(key).get_shape() for key in names}
            if found != shapes:
                raise UserError(f"{weights / name}: holds other tensors than Small has; take its own release")


def small() -> Small:
    Small.__abstractmethods__ = frozenset()  # nothing else is asked of it
    return Small()  # type: ignore[abstract]


def write_release(folder: Path) -> Path:
    """The release as the user's folder, or both repositories laid over each other, would have it."""
    generator = torch.Generator().manual_seed(1)
    (folder / "voices").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"width": 4}))
    save_file({name: torch.rand(shape, generator=generator) for name, shape in SHAPES["model.safetensors"].items()}, folder / "model.safetensors")
    weight = torch.rand(4, 3, generator=generator)
    layers = [torch.rand(2, generator=generator) for _ in range(2)]
    torch.save({"encoder": {"weight": weight, "tied": weight}, "decoder": {"layers": layers}, "epoch": 3, "by": ["Anna", 2]}, folder / "codec.pt")
    torch.save(torch.rand(5, 4, generator=generator).bfloat16(), folder / "voices/anna.pt")
    constants = {"onnx::MatMul_7": torch.rand(3, 2, generator=generator), "/bias": torch.rand(2, generator=generator)}
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name, width in (("x", 3), ("product", 2), ("y", 2))]
    nodes = [helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["product"]), helper.make_node("Add", ["product", "/bias"], ["y"])]
    stored = [numpy_helper.from_array(value.numpy(), name) for name, value in constants.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "graph", shapes[:1], shapes[2:], stored)), folder / "tokeniser.onnx")
    return folder
