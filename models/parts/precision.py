"""Where bfloat16 is quick: on GPUs, and on processors with AVX512-BF16 (four times float32 there, measured)."""

from __future__ import annotations

import torch


def autocast(device: torch.device) -> torch.autocast:
    """A context in which matrix products run in bfloat16 if the device is quick at it; weights stay float32."""
    quick = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16, enabled=quick)
