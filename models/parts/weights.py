"""Weights on disk: safetensors alone (no pickle is ever loaded).

A large network never stands in memory twice: it is built without its parameters, and the file is mapped into memory and
copied from tensor by tensor, or not at all where it has the wanted precision already.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from models.parts.errors import UserError

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}  # safetensors' names
Network = TypeVar("Network", bound=nn.Module)


def read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: not there; tiny bases come with the repository (`make bases` rebuilds them), released weights go into the folder that params.yaml names")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); restore the file") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a JSON object; restore the file")
    return config


def read_tensors(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of a safetensors file, floating ones as float32; with `prefix` only those, named without it."""
    return {name: t.float() if t.is_floating_point() else t for name, t in map_tensors(path, prefix).items()}


def map_tensors(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """The same as they are stored: views into the mapped file, read from disk when they are used."""
    if not path.is_file():
        raise UserError(f"{path}: weights are missing; tiny bases come with the repository (`make bases` rebuilds them)")
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({error}); restore or download it again") from None


def load_network(
    make: Callable[[], Network], path: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    read: Callable[[Path], dict[str, torch.Tensor]] = map_tensors,
) -> Network:  # fmt: skip
    """What `make()` builds, in eval mode, with the parameters of `path` as `dtype` on `device`; buffers as they are stored.

    `read` gives the tensors by the network's own names. Strict: see `check_fit`. On the device "meta" nothing is read, and
    the network knows its shapes alone.
    """
    with _parameters_on_meta():
        network = make()
    wanted = network.state_dict(keep_vars=True)
    if torch.device(device).type == "meta":
        state = dict(wanted)
    else:
        check_fit(wanted, state := read(path), path)
    loaded: dict[int, torch.Tensor] = {}  # by what it takes the place of: tied parameters stay one
    for name, old in wanted.items():
        tensor, (owner, _, last) = state.pop(name), name.rpartition(".")
        if id(old) not in loaded:
            is_parameter = isinstance(old, nn.Parameter)
            tensor = tensor.detach().to(device, dtype if is_parameter else old.dtype)
            loaded[id(old)] = nn.Parameter(tensor, old.requires_grad) if is_parameter else tensor
        setattr(network.get_submodule(owner), last, loaded[id(old)])
    return network.to(device).eval()  # the buffers that no file has


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules that are built in here have parameters without memory, so that no random weight is drawn. Buffers are real."""

    def without_memory(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        return parameter if parameter.is_meta else nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    handle = register_module_parameter_registration_hook(without_memory)  # type: ignore[arg-type]  # it may return one
    try:
        yield
    finally:
        handle.remove()


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


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file, of which nothing but the header is read."""
    return {name: shape for name, (shape, _) in _read_header(path).items()}


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
    written = json.dumps(header, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)
    with path.open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        for name in shapes:
            file.write(value(name).to(dtype).contiguous().view(-1).view(torch.uint8).numpy().data)


def load_into(module: torch.nn.Module, path: Path, prefix: str = "") -> None:
    """Load a file, or what stands in it under `prefix`, strictly and as float32: a missing or an unexpected key is named."""
    state = read_tensors(path, prefix)
    check_fit(module.state_dict(), state, path)
    module.load_state_dict(state)


def check_fit(wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], path: Path) -> None:
    """UserError for a key of `state`, read from `path`, that is missing, unexpected or of another shape than `wanted`."""
    missing, unexpected = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or unexpected:
        raise UserError(f"{path}: keys do not fit the network: missing {missing[:3]}, unexpected {unexpected[:3]}; these are other weights than config.json says")
    wrong = [name for name in wanted if wanted[name].shape != state[name].shape]
    if wrong:
        name = wrong[0]
        raise UserError(f"{path}: {name} is {tuple(state[name].shape)}, config.json makes it {tuple(wanted[name].shape)}; use the config.json that came with the weights")


def save_half(module: torch.nn.Module, path: Path) -> None:
    """The module's weights in half precision, for the tiny bases in git."""
    save_half_state(module.state_dict(), path)


def save_half_state(state: dict[str, torch.Tensor], path: Path) -> None:
    """Tensors in half precision, by the names that they have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {name: t.half().contiguous() if t.is_floating_point() else t.contiguous() for name, t in state.items()}
    partial = path.with_name(f".{path.name}.partial")  # the old file may still be mapped
    save_file(half, partial, metadata={"format": "pt"})
    partial.rename(path)


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
    """One hash of several files, in the order given, read piece by piece."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            hashlib.file_digest(handle, lambda: digest)
    return digest.hexdigest()
