"""HiFT, the vocoder of CosyVoice 2 and 3 and of Chatterbox: 24 kHz log-mel to a wave (FunAudioLLM/CosyVoice, cosyvoice/hifigan).

A pitch is predicted, its harmonics are the source, and convolutions shape the source's spectrum (arXiv 2309.09493).
Version 3 is causal. What is random, the source's noise and phases, comes in from outside: version 2 draws it afresh for
every take, version 3 once and for all (`models.released.fixed_noise`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

RATE = 24000
FRAME = 480  # samples of a mel frame
HARMONICS = 9  # the pitch and eight above it
RATES, KERNELS = (8, 5, 3), (16, 11, 7)
N_FFT, HOP = 16, 4
DILATIONS = (1, 3, 5)
LOUD, VOICED, FROM = 0.1, 0.003, 10.0  # amplitude of a harmonic and of noise in voiced frames; Hz that count as voiced


@dataclass(frozen=True)
class Noise:
    """Of a take of T frames: float32 `samples` (480 T, 9), and `phases` (9,) in radians, for a source that begins with some."""

    samples: torch.Tensor
    phases: torch.Tensor


Source = Callable[[torch.Tensor, Noise], torch.Tensor]


def plain_sines(f0: torch.Tensor, noise: Noise) -> torch.Tensor:
    """f0 (T,) in Hz to sines (480 T, 9): each harmonic's phase summed up sample by sample. Chatterbox's source ("SineGen")."""
    harmonics = torch.arange(1, HARMONICS + 1, device=f0.device)[:, None]
    turns = f0.repeat_interleave(FRAME)[None] * harmonics / RATE
    begin = noise.phases[:, None] * (harmonics > 1)  # the pitch itself begins at 0
    angles = 2 * torch.pi * (turns.cumsum(-1) % 1) + begin
    return (LOUD * angles.sin()).T


def framed_sines(upsampling: str) -> Source:
    """The same summed up frame by frame ("SineGen2", CosyVoice's at 24 kHz): `upsampling` "linear" (version 2) or "nearest" (3).

    A frame's phase is what upstream reads in the middle of it, so the phase with which its first sample begins is never heard.
    """

    def sines(f0: torch.Tensor, noise: Noise) -> torch.Tensor:
        turns = (f0[:, None] * torch.arange(1, HARMONICS + 1, device=f0.device) / RATE) % 1
        angles = (turns.cumsum(0) * 2 * torch.pi).T[None] * FRAME
        angles = F.interpolate(angles, scale_factor=float(FRAME), mode=upsampling)
        return (LOUD * angles[0].sin()).T

    return sines


class Causal(nn.Conv1d):
    """Keeps the length; sees what comes before alone, or (`ahead`) what comes after."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, ahead: bool = False):
        super().__init__(inputs, outputs, kernel, dilation=dilation)
        edge = (kernel - 1) * dilation
        self.edges = (0, edge) if ahead else (edge, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, self.edges))


class CausalDown(nn.Conv1d):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int):
        super().__init__(inputs, outputs, kernel, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, (self.stride[0] - 1, 0)))


class CausalUp(nn.Conv1d):
    def __init__(self, inputs: int, outputs: int, kernel: int, rate: int):
        super().__init__(inputs, outputs, kernel)
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x.repeat_interleave(self.rate, -1), (self.kernel_size[0] - 1, 0)))


class Snake(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        alpha = self.alpha[:, None]
        return x + (x * alpha).sin() ** 2 / (alpha + 1e-9)


class ResBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, causal: bool):
        super().__init__()
        self.convs1 = nn.ModuleList(_same(channels, channels, kernel, causal, dilation) for dilation in DILATIONS)
        self.convs2 = nn.ModuleList(_same(channels, channels, kernel, causal) for _ in DILATIONS)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in DILATIONS)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in DILATIONS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for first, second, snake1, snake2 in zip(self.convs1, self.convs2, self.activations1, self.activations2, strict=True):
            x = x + second(snake2(first(snake1(x))))
        return x


class Pitch(nn.Module):
    """log-mel (B, 80, T) to f0 (B, T) in Hz."""

    def __init__(self, channels: int, causal: bool):
        super().__init__()
        first = weight_norm(Causal(80, channels, 4, ahead=True)) if causal else _same(80, channels, 3, causal)
        layers: list[nn.Module] = [first, nn.ELU()]
        for _ in range(4):
            layers += [_same(channels, channels, 3, causal), nn.ELU()]
        self.condnet, self.classifier = nn.Sequential(*layers), nn.Linear(channels, 1)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        f0: torch.Tensor = self.classifier(self.condnet(mel).transpose(1, 2))
        return f0[..., 0].abs()


class Harmonics(nn.Module):
    """One source out of nine sines."""

    def __init__(self) -> None:
        super().__init__()
        self.l_linear = nn.Linear(HARMONICS, 1)

    def forward(self, f0: torch.Tensor, noise: Noise, sines: Source) -> torch.Tensor:
        """f0 (T,) to a source (480 T,)."""
        voiced = (f0 > FROM).float().repeat_interleave(FRAME)[:, None]
        loudness = voiced * VOICED + (1 - voiced) * LOUD / 3
        source: torch.Tensor = self.l_linear(sines(f0, noise) * voiced + loudness * noise.samples)
        return source[:, 0].tanh()


class HiFT(nn.Module):
    """`channels` of the widest layer, `pitch_channels` of the predictor, `causal` (version 3), `sines` of the source.

    Version 3 predicts the pitch in double precision, as upstream does once it has run.
    """

    def __init__(self, sines: Source, causal: bool, channels: int = 512, pitch_channels: int = 512):
        super().__init__()
        self.sines, self.causal = sines, causal
        self.m_source = Harmonics()
        self.conv_pre = weight_norm(Causal(80, channels, 5, ahead=True)) if causal else _same(80, channels, 7, causal)
        self.ups, self.source_downs = nn.ModuleList(), nn.ModuleList()
        self.source_resblocks, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for index, (rate, kernel, source_kernel) in enumerate(zip(RATES, KERNELS, (7, 7, 11), strict=True)):
            wide, narrow = channels >> index, channels >> (index + 1)
            up: nn.Module = CausalUp(wide, narrow, kernel, rate) if causal else nn.ConvTranspose1d(wide, narrow, kernel, rate, (kernel - rate) // 2)
            self.ups.append(weight_norm(up))
            self.source_downs.append(_down(narrow, (15, 3, 1)[index], causal))
            self.source_resblocks.append(ResBlock(narrow, source_kernel, causal))
            self.resblocks.extend(ResBlock(narrow, kernel, causal) for kernel in (3, 7, 11))
        self.conv_post = _same(narrow, N_FFT + 2, 7, causal)
        self.f0_predictor = Pitch(pitch_channels, causal)

    def forward(self, mel: torch.Tensor, noise: Noise) -> torch.Tensor:
        """log-mel (80, T) to a wave (480 T,) within ±0.99."""
        return self.decode(mel, self.m_source(self.pitch(mel), noise, self.sines))

    def pitch(self, mel: torch.Tensor) -> torch.Tensor:
        """log-mel (80, T) to f0 (T,) in Hz."""
        dtype = self.f0_predictor.classifier.weight.dtype  # double in version 3
        f0: torch.Tensor = self.f0_predictor(mel[None].to(dtype))[0]
        return f0.to(mel.dtype)

    def decode(self, mel: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """log-mel (80, T) and the source (480 T,) to a wave (480 T,) within ±0.99."""
        return self.spoken(mel, source).clamp(-0.99, 0.99)

    def spoken(self, mel: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """The same before it is clipped."""
        window = torch.hann_window(N_FFT, device=mel.device)
        spectrum = torch.view_as_real(torch.stft(source[None], N_FFT, HOP, window=window, return_complex=True))
        excitation = torch.cat([spectrum[..., 0], spectrum[..., 1]], 1)
        x = self.conv_pre(mel[None])
        for index, (up, down, shaped) in enumerate(zip(self.ups, self.source_downs, self.source_resblocks, strict=True)):
            x = up(F.leaky_relu(x, 0.1))
            if index == len(self.ups) - 1:
                x = F.pad(x, (1, 0), mode="reflect")
            x = x + shaped(down(excitation))
            blocks = self.resblocks[3 * index : 3 * index + 3]
            x = sum(block(x) for block in blocks) / len(blocks)
        x = self.conv_post(F.leaky_relu(x))  # 0.01, unlike all before it
        magnitude, phase = x[:, : N_FFT // 2 + 1].exp().clamp(max=100.0), x[:, N_FFT // 2 + 1 :].sin()
        return torch.istft(torch.complex(magnitude * phase.cos(), magnitude * phase.sin()), N_FFT, HOP, window=window)[0]

    def double_pitch(self) -> HiFT:
        """With the predictor in double precision where upstream has it so; to be called once the weights are there."""
        if self.causal:
            self.f0_predictor.double()
        return self


def _same(inputs: int, outputs: int, kernel: int, causal: bool, dilation: int = 1) -> nn.Module:
    if causal:
        return weight_norm(Causal(inputs, outputs, kernel, dilation))
    return weight_norm(nn.Conv1d(inputs, outputs, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2))


def _down(outputs: int, rate: int, causal: bool) -> nn.Module:
    """The source's spectrum to an earlier layer's rate."""
    if rate == 1:
        return Causal(N_FFT + 2, outputs, 1) if causal else nn.Conv1d(N_FFT + 2, outputs, 1)
    if causal:
        return CausalDown(N_FFT + 2, outputs, 2 * rate, rate)
    return nn.Conv1d(N_FFT + 2, outputs, 2 * rate, rate, rate // 2)
