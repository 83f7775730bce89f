"""LocDiT: a small diffusion transformer that draws a patch of latents from the language model's state.

Time runs from 1, noise, to 0, data. Structure, names and solver are upstream's (OpenBMB/VoxCPM, src/voxcpm/modules/locdit).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from models.voxcpm.blocks import both_ways, transformer
from models.voxcpm.config import VoxCPMConfig

STILL = 0.04  # share of the solver's points at which a patch stays noise (CFG-Zero*, arXiv 2503.18886)


class TimeEmbedding(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return embedded


class Estimator(nn.Module):
    """The velocity of a patch: one position for state and time, then the previous patch, then this one."""

    def __init__(self, config: VoxCPMConfig):
        super().__init__()
        self.width = config.decoder.hidden
        self.in_proj, self.cond_proj = nn.Linear(config.latent, self.width), nn.Linear(config.latent, self.width)
        self.out_proj = nn.Linear(self.width, config.latent)
        # The second is told how long a step is where upstream distils; here it always hears 0, which is not nothing.
        self.time_mlp, self.delta_time_mlp = TimeEmbedding(self.width), TimeEmbedding(self.width)
        self.decoder = transformer(config, config.decoder)

    def forward(self, x: torch.Tensor, time: torch.Tensor, state: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """Patches `x` and `previous` (N, patch, latent), times (N,), states (N, width) to velocities like `x`, float32."""
        dtype = self.in_proj.weight.dtype
        now = self.time_mlp(self.sinusoid(time).to(dtype)) + self.delta_time_mlp(self.sinusoid(torch.zeros_like(time)).to(dtype))
        read = torch.cat([(state + now)[:, None], self.cond_proj(previous.to(dtype)), self.in_proj(x.to(dtype))], 1).to(dtype)
        velocity: torch.Tensor = self.out_proj(both_ways(self.decoder, read)[:, -x.shape[1] :])
        return velocity.float()

    def sinusoid(self, time: torch.Tensor) -> torch.Tensor:
        """Times (N,) to sines, then cosines (N, width), float32."""
        half = self.width // 2
        angle = 1000 * time.float()[:, None] * torch.exp(-math.log(1e4) / (half - 1) * torch.arange(half, device=time.device))
        return torch.cat([angle.sin(), angle.cos()], 1)


class FlowDecoder(nn.Module):
    """Upstream's UnifiedCFM: `estimator` has all the weights."""

    def __init__(self, config: VoxCPMConfig):
        super().__init__()
        self.estimator = Estimator(config)

    def patches(self, state: torch.Tensor, previous: torch.Tensor, noise: torch.Tensor, guidance: float, steps: int) -> torch.Tensor:
        """States (N, width), previous patches and noise (N, patch, latent) to patches: Euler's method in `steps` steps.

        `guidance` goes so much further from the velocity without the state (which still sees the previous patch) than the
        one with it. (Upstream's factor counts from there: its 2.0 is 1.0 here.)
        """
        x, times = noise, solver_times(steps)
        for step in range(max(1, int(STILL * (steps + 1))), steps):
            time = x.new_full((len(x),), times[step])
            if guidance:
                both = torch.cat([state, torch.zeros_like(state)])
                told, free = self.estimator(x.repeat(2, 1, 1), time.repeat(2), both, previous.repeat(2, 1, 1)).chunk(2)
                # The free velocity is first made as long as the other one is along it (CFG-Zero*).
                along, length = ((told * free).sum((1, 2), keepdim=True), free.square().sum((1, 2), keepdim=True))
                free = free * (along / (length + 1e-8))
                velocity = told + guidance * (told - free)
            else:
                velocity = self.estimator(x, time, state, previous)
            x = x - (times[step] - times[step + 1]) * velocity
        return x


def solver_times(steps: int) -> list[float]:
    """From 1 to 0 in `steps` steps that are shorter near 1 (sway sampling, arXiv 2410.06885)."""
    even = torch.linspace(1, 0, steps + 1)
    times: list[float] = (even + torch.cos(math.pi / 2 * even) - 1 + even).tolist()
    return times
