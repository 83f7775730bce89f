"""Weights on disk: safetensors alone (no pickle is ever loaded), half precision on disk, float32 in memory."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn

from models.parts.errors import UserError

PIECE = 1 << 24  # bytes of a file that are in memory while it is hashed
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}  # safetensors' names


def read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: not there; tiny bases come with the repository (`make bases` rebuilds them), released weights go into the folder that params.yaml names")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}); restore the file") from None
    return config


def read_tensors(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of a safetensors file, floating ones as float32; with `prefix` only those, named without it."""
    if not path.is_file():
        raise UserError(f"{path}: weights are missing; tiny bases come with the repository (`make bases` rebuilds them)")
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error}); restore or download it again") from None
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def check_header(path: Path, wanted: Mapping[str, Sequence[int]], dtypes: Collection[str]) -> None:
    """UserError unless a safetensors file is whole and holds exactly the tensors `wanted` (name to shape), each of one of
    `dtypes` ("F32", "BF16", …). Nothing but its header is read."""
    header = _read_header(path)
    missing, unexpected = sorted(wanted.keys() - header.keys()), sorted(header.keys() - wanted.keys())
    if missing or unexpected:
        raise UserError(f"{path}: {len(missing)} tensors are missing {missing[:3]}, {len(unexpected)} unexpected {unexpected[:3]}; this is another model's file than config.json says")
    for name, shape in wanted.items():
        found, dtype = header[name]
        if found != tuple(shape):
            raise UserError(f"{path}: {name} is {found}, config.json makes it {tuple(shape)}; use the config.json that came with the weights")
        if dtype not in dtypes:
            raise UserError(f"{path}: {name} is {dtype}, not {' or '.join(dtypes)}; take the file as it was released")


def _read_header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every tensor (huggingface/safetensors, README: Format); UserError if the file isn't as long as it says."""
    if not path.is_file():
        raise UserError(f"{path}: not there; copy or download the whole release")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size - 8:
                raise ValueError("it is shorter than its header")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        header = {name: (tuple(entry["shape"]), entry["dtype"]) for name, entry in entries.items()}
        whole = 8 + length + max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a safetensors file, or cut short ({error}); download it again") from None
    if size != whole:
        raise UserError(f"{path}: {size:,} bytes, but its header speaks of {whole:,}; download it again")
    return header


def write_tensors(path: Path, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype, value: Callable[[str], torch.Tensor]) -> None:
    """A safetensors file of the tensors that `value` gives for each name, one after the other: never all in memory."""
    header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    with path.open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        for name in shapes:
            file.write(value(name).to(dtype).contiguous().view(-1).view(torch.uint8).numpy().data)


def load_into(module: torch.nn.Module, path: Path) -> None:
    """Load a file strictly: a missing or an unexpected key is named, never skipped."""
    load_state(module, read_tensors(path), path)


def load_state(module: torch.nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load tensors by the module's own names, as strictly; `path` is where they came from."""
    wanted = module.state_dict()
    missing, unexpected = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or unexpected:
        raise UserError(f"{path}: keys do not fit the network: missing {missing[:3]}, unexpected {unexpected[:3]}; these are other weights than config.json says")
    wrong = [name for name in wanted if wanted[name].shape != state[name].shape]
    if wrong:
        name = wrong[0]
        raise UserError(f"{path}: {name} is {tuple(state[name].shape)}, config.json makes it {tuple(wanted[name].shape)}; use the config.json that came with the weights")
    module.load_state_dict(state)


def save_half(module: torch.nn.Module, path: Path) -> None:
    """The module's weights in half precision, for the tiny bases in git."""
    save_half_state(module.state_dict(), path)


def save_half_state(state: dict[str, torch.Tensor], path: Path) -> None:
    """Tensors in half precision, by the names that they have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {name: t.half().contiguous() if t.is_floating_point() else t.contiguous() for name, t in state.items()}
    save_file(half, path, metadata={"format": "pt"})


def save_base(
    folder: Path, state: dict[str, torch.Tensor], config: dict[str, Any], tokenizer: Tokenizer,
    name: str = "model.safetensors",
) -> None:  # fmt: skip
    """A weights folder: the tensors in half precision, config.json and tokenizer.json."""
    save_half_state(state, folder / name)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))


def draw_weights(network: torch.nn.Module, source: torch.Generator, embeddings: float = 0.02) -> None:
    """Random weights to train from nothing: embeddings of this deviation, linear layers that keep loudness, no biases."""
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=embeddings, generator=source)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.6 * module.in_features**-0.5, generator=source)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_facts(family: str, facts: Iterable[tuple[bool, int, str]]) -> None:
    """UserError for the first fact (does it hold, a count of the network, what is wrong with that) that does not hold."""
    for holds, count, problem in facts:
        if not holds:
            raise UserError(f"{family}: the network has {count} {problem}; use the files that came with its weights")


def sha256_of(*files: Path) -> str:
    """One hash of several files, in the order given, read a piece at a time."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
    return digest.hexdigest()
