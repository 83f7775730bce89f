"""From semantic codes and the language model's hidden states to a log-mel (index-tts/index-tts, indextts/s2mel): the parts of s2mel.pth."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from models.indextts2.released.dit import DiT
from models.released.shapes import Shapes, below

FRAMES = 1.72  # mel frames of a code
STEPS = 25
GUIDANCE = 0.7
CONVOLUTIONS = 4  # of the length regulator


class LengthRegulator(nn.Module):
    """Vectors at 50 a second to conditions at the rate of the mel: the nearest one, and convolutions."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.content_in_proj = nn.Linear(inputs, width)
        layers = [layer for _ in range(CONVOLUTIONS) for layer in (nn.Conv1d(width, width, 3, padding=1), nn.GroupNorm(1, width), nn.Mish())]
        self.model = nn.Sequential(*layers, nn.Conv1d(width, width, 1))

    def forward(self, vectors: torch.Tensor, frames: int) -> torch.Tensor:
        """(T, inputs) to (frames, width)."""
        x = F.interpolate(self.content_in_proj(vectors).T[None], size=frames, mode="nearest")
        y: torch.Tensor = self.model(x)[0].T
        return y


class Flow(nn.Module):
    def __init__(self, estimator: DiT):
        super().__init__()
        self.estimator = estimator

    def forward(self, told: torch.Tensor, prompt: torch.Tensor, style: torch.Tensor, noise: torch.Tensor, steps: int = STEPS) -> torch.Tensor:
        """told (T, C), of the reference first; the reference's log-mel (80, F), style (192,), noise (80, T) -> log-mel (80, T - F).

        Euler's steps, all alike. The second row of each evaluation is told nothing. The reference's frames of x are 0 in every step.
        """
        heard = prompt.shape[-1]
        known = F.pad(prompt, (0, noise.shape[-1] - heard))
        both = [torch.stack([given, torch.zeros_like(given)]) for given in (known, told, style)]
        x = F.pad(noise[:, heard:], (heard, 0))
        times = torch.linspace(0, 1, steps + 1, device=x.device)
        now = times[:1]
        for step in range(steps):
            guided, free = self.estimator(x.expand(2, -1, -1), *both, now.expand(2))
            ahead = times[step + 1] - times[step]
            x = x + ahead * ((1 + GUIDANCE) * guided - GUIDANCE * free)
            x = F.pad(x[:, heard:], (heard, 0))
            now = now + ahead
        return x[:, heard:]


class S2Mel(nn.Module):
    """`gpt_layer` has no activation between its layers."""

    def __init__(self, estimator: DiT, vectors: int, told: int, latents: tuple[int, ...]):
        super().__init__()
        self.cfm, self.length_regulator = Flow(estimator), LengthRegulator(vectors, told)
        self.gpt_layer = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(latents, latents[1:], strict=False)))

    @classmethod
    def like(cls, shapes: Shapes, heads: int) -> S2Mel:
        """Of the sizes that the tensors of a file have; KeyError for one that is no such network."""
        told, vectors = shapes["length_regulator.content_in_proj.weight"]
        layers = [shapes[f"gpt_layer.{layer}.weight"] for layer in range(3)]
        return cls(DiT.like(below(shapes, "cfm.estimator."), heads), vectors, told, (layers[0][1], *(layer[0] for layer in layers)))

    def told(self, vectors: torch.Tensor, latents: torch.Tensor | None, frames: int) -> torch.Tensor:
        """Vectors of codes (T, V) and, of what was generated, the hidden states that decided them (T, W), to conditions (frames, C)."""
        if latents is not None:
            vectors = vectors + self.gpt_layer(latents)
        told: torch.Tensor = self.length_regulator(vectors, frames)
        return told

