"""Pickles into safetensors, once, so that no stage ever reads anything that could run code. ONNX graphs, which can't, stay as
they are: some codecs run them, and an export holds them."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from models.parts.errors import UserError
from stages.common.files import read_json

PICKLES = (".pt", ".pth", ".ckpt", ".bin")
NOTE = "make weights"
ALONE = "tensor"  # the key of a tensor that has a file to itself


def converted(name: str) -> str:
    """What a file of a release is called here."""
    path = Path(name)
    return path.with_suffix(".safetensors").as_posix() if path.suffix in PICKLES else name


def convert(path: Path, name: str, target: Path) -> None:
    """Write the tensors of `path`, a file of the release called `name`, to `target`.

    Nested dictionaries become dotted keys. Numbers and texts among the tensors are listed in the file's metadata,
    whatever else there is ends in a UserError. Nothing in a pickle is run. The same file gives the same bytes.
    """
    tensors: dict[str, torch.Tensor] = {}
    left_out: dict[str, str] = {}
    try:
        _flatten(torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)), "", tensors, left_out)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error})") from None
    except Exception as error:  # a file from somewhere else: whatever its reader stumbles over is the file's fault
        raise UserError(f"{path}: {_why(error)}") from None
    if not tensors:
        raise UserError(f"{path}: holds no tensors; download it again")
    note = json.dumps({"converted_from": name, "left_out": left_out}, sort_keys=True)
    save_file(_apart(tensors), target, metadata={NOTE: note})  # one entry: safetensors writes several in any order


def note_of(path: Path) -> dict[str, Any]:
    """What `convert` noted in a safetensors file; empty for one that was released as such."""
    with safe_open(path, "pt") as file:
        return dict(json.loads((file.metadata() or {}).get(NOTE, "{}")))


def check_readable(path: Path, suffix: str) -> None:
    """UserError for a file that is called safetensors, JSON or ONNX and is cut short or garbled."""
    if suffix == ".safetensors":
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            raise UserError(f"{path}: not a whole safetensors file ({error}); download it again") from None
    elif suffix == ".json":
        read_json(path)
    elif suffix == ".onnx":
        _check_graph(path)


def _why(error: Exception) -> str:
    if code := re.search(r"nsupported (?:global: )?GLOBAL ([\w.]+)", str(error)):
        return f"a pickle that holds more than tensors (it asks for {code[1]}), so it is not opened; download the release from where card.yaml says"
    return f"can't be read as weights ({type(error).__name__}); it is cut short or no such file, download it again"


def _flatten(value: Any, key: str, tensors: dict[str, torch.Tensor], left_out: dict[str, str]) -> None:
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_quantized:
            raise UserError(f"{key or ALONE} is a sparse or quantised tensor, which no family here reads")
        _put(tensors, key or ALONE, value.detach())
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            _flatten(inner, f"{key}.{name}" if key else str(name), tensors, left_out)
    elif _plain(value):
        _put(left_out, key, repr(value))
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            _flatten(inner, f"{key}.{place}" if key else str(place), tensors, left_out)
    else:
        raise UserError(f"{key} is neither a tensor nor a number or text ({type(value).__name__}), so it can't be taken over")


def _put(target: dict[str, Any], key: str, value: Any) -> None:
    if key in target:
        raise UserError(f"{key} is there twice, once nested and once spelled with dots")
    target[key] = value


def _plain(value: Any) -> bool:
    """A number, a text, nothing, or a list of these."""
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that share no memory, as safetensors wants them (tied weights are stored once in a pickle)."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone(memory_format=torch.contiguous_format) if place in seen else tensor.contiguous()
        seen.add(place)
    return apart


def _check_graph(path: Path) -> None:
    """An ONNX graph with all its constants in this one file."""
    import onnx  # takes half a second, and few families need it
    from onnx.external_data_helper import uses_external_data

    try:
        constants = onnx.load(path, load_external_data=False).graph.initializer
    except Exception as error:  # a file from somewhere else: whatever its reader stumbles over is the file's fault
        raise UserError(f"{path}: {_why(error)}") from None
    if not constants:
        raise UserError(f"{path}: holds no tensors; download it again")
    if outside := [constant.name for constant in constants if uses_external_data(constant)]:
        raise UserError(f"{path}: {outside[0]} is in another file; take the release's own .onnx, which holds everything")
