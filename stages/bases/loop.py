"""The optimisation loop of the bases: AdamW, one cycle of the rate, bfloat16 where the processor has it, resumable.

Everything random in a step comes from the seed and the step's number, so that a loop that was killed goes on exactly.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from tqdm import tqdm

from models.parts.precision import training_arithmetic
from stages.common.checkpoints import ResumeState

SAVE_SECONDS = 60.0
LOG_EVERY = 50


def optimise(
    name: str, parameters: Iterable[torch.nn.Parameter], loss_of: Callable[[int], torch.Tensor], steps: int, peak: float,
    seed: int, scratch: Path, warmup: int = 200, weight_decay: float = 0.02,
    evaluate: Callable[[], float] | None = None, evaluate_every: int = 500,
) -> list[dict]:
    """Minimise `loss_of(step)` for `steps` steps; returns the curve: step, train (running mean), validation where measured.

    `scratch` holds the state and the curve of an interrupted run.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=weight_decay)
    state = ResumeState(scratch / f"{name}.safetensors")
    place = state.load(parameters, optimizer) or {"step": 0, "running": None, "curve": []}
    last_save = time.monotonic()
    bar = tqdm(range(place["step"], steps), initial=place["step"], total=steps, desc=name, unit="step", mininterval=5)
    for step in bar:
        torch.manual_seed(seed * 1_000_000 + step)
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        with training_arithmetic(torch.device("cpu")):
            loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        value = loss.item()
        place["running"] = value if place["running"] is None else 0.98 * place["running"] + 0.02 * value
        place["step"] = step + 1
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            point = {"step": step + 1, "train": round(place["running"], 4)}
            if evaluate and ((step + 1) % evaluate_every == 0 or step + 1 == steps):
                point["validation"] = round(evaluate(), 4)
            place["curve"].append(point)
            bar.set_postfix(point)
        if time.monotonic() - last_save > SAVE_SECONDS or step + 1 == steps:
            state.save(parameters, optimizer, place)
            last_save = time.monotonic()
    return list(place["curve"])


def write_curve(path: Path, curve: list[dict]) -> None:
    path.write_text("".join(json.dumps(point) + "\n" for point in curve))
