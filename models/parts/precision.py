"""How the stages compute: exactly repeatable, and as quick as the processor allows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def repeatable(threads: int = 1) -> None:
    """The same numbers in every run of whatever computes after this, or an error where PyTorch has no such kernel.

    A processor's threads share a sum out among them, and its rounding depends on how many they are: so it is the same number
    on every machine. One does for generating: a step of a small network is so short that threads would only wait.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses to be deterministic
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")  # `use_deterministic_algorithms(True)`, but for its import of PyTorch's compiler
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # guards against reading what nobody wrote, and costs a tenth


def compute_device() -> torch.device:
    """What networks compute on: the graphics card where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cards() -> list[str]:
    """Every graphics card that this process may use, as CUDA_VISIBLE_DEVICES names it."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    return seen.split(",")[: torch.cuda.device_count()]


@contextmanager
def training_arithmetic(device: torch.device) -> Iterator[None]:
    """Forward passes in here multiply in bfloat16 where that is quick; weights stay float32.

    Quick are GPUs, and processors with AVX512-BF16 (four times float32 there, measured). On a processor attention runs as
    plain matrix products: the backward pass of the fused kernel takes three times as long as everything else together.
    """
    on_cpu = device.type == "cpu"
    quick = device.type == "cuda" or (on_cpu and torch.cpu._is_avx512_bf16_supported())
    with torch.autocast(device.type, torch.bfloat16, enabled=quick), sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext():
        yield
