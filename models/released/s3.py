"""The S3 speech tokeniser: 16 kHz speech to 25 codes a second, of 6561 kinds.

CosyVoice 2 and Chatterbox have version 2 (6 blocks), CosyVoice 3 has version 3 (12). Their codes have the same range and
another meaning. Names are those of s3tokenizer (xingchensong/S3Tokenizer), which Chatterbox's file has; CosyVoice ships
ONNX graphs, whose nodes say the same (`models.released.onnx`).
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

import librosa
import torch
from torch import nn
from torch.nn import functional as F

from models.parts.errors import UserError

RATE = 16000
TOKEN_RATE = 25.0
CODES = 3**8
BLOCKS = {2: 6, 3: 12}  # by version
BANDS = 128
HEAD = 64  # channels of an attention head
MEMORY = 31  # positions that the memory of an attention spans
# Of the mel: a clip that is longer than a window is read in windows that overlap, and each joint lies in the middle of an overlap.
WINDOW, STEP = 3000, 2600
SEAM = (WINDOW - STEP) // 8  # codes that either side of a joint leaves to the other
SHORTEST = 201  # samples: the mel reflects 200 at either end


def log_mel(wave: torch.Tensor) -> torch.Tensor:
    """A wave (N,) at 16 kHz to Whisper's log-mel (128, N // 160), whose floor is 80 dB below the loudest of this very wave."""
    spectrum = torch.stft(wave, 400, 160, window=torch.hann_window(400, device=wave.device), return_complex=True)
    powers = spectrum[..., :-1].abs() ** 2
    mel = (_filters().to(wave.device) @ powers).clamp(min=1e-10).log10()
    return (mel.maximum(mel.max() - 8.0) + 4.0) / 4.0


@lru_cache(maxsize=1)
def _filters() -> torch.Tensor:
    return torch.from_numpy(librosa.filters.mel(sr=RATE, n_fft=400, n_mels=BANDS))


class Attention(nn.Module):
    """Rotary attention, plus a memory: a convolution over the values, added behind the output's projection."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = width // HEAD
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.fsmn_block = nn.Conv1d(width, width, MEMORY, padding=MEMORY // 2, groups=width, bias=False)

    def forward(self, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], filled: torch.Tensor) -> torch.Tensor:
        """x (B, T, width); filled bool (B, T)."""

        def heads(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.unflatten(-1, (self.heads, HEAD)).transpose(1, 2)

        value = self.value(x)
        kept = value * filled[..., None]
        memory = (self.fsmn_block(kept.transpose(1, 2)).transpose(1, 2) + kept) * filled[..., None]
        query, key = _turned(heads(self.query(x)), rotary), _turned(heads(self.key(x)), rotary)
        attended = F.scaled_dot_product_attention(query, key, heads(value), attn_mask=filled[:, None, None])
        out: torch.Tensor = self.out(attended.transpose(1, 2).flatten(2)) + memory
        return out


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.attn, self.attn_ln = Attention(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], filled: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.attn_ln(x), rotary, filled)
        return x + self.mlp(self.mlp_ln(x))


class Encoder(nn.Module):
    """A quarter of the mel's frames, each a vector of `width`."""

    def __init__(self, width: int, blocks: int):
        super().__init__()
        self.conv1 = nn.Conv1d(BANDS, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))

    def forward(self, mel: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """mel (B, 128, F), right-padded, lengths (B,) of it -> (B, ceil(F / 4), width), and bool (B, ceil(F / 4)) where there is something."""
        x = mel
        for conv in (self.conv1, self.conv2):
            x = F.gelu(conv(x * _places(x, lengths)[:, None]))
            lengths = (lengths + 1) // 2
        x, filled = x.transpose(1, 2), _places(x, lengths)
        rotary = _rotary(x.shape[1], x.device)
        for block in self.blocks:
            x = block(x, rotary, filled)
        return x, filled


class Codebook(nn.Module):
    """Finite scalar quantisation: eight digits of three values each, the first counts least."""

    def __init__(self, width: int):
        super().__init__()
        self.project_down = nn.Linear(width, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        digits = (self.project_down(x).tanh() * 0.9990000128746033).round().long() + 1
        return (digits * 3 ** torch.arange(8, device=x.device)).sum(-1)


class Quantizer(nn.Module):
    """Upstream's names have one level more than the codebook needs."""

    def __init__(self, width: int):
        super().__init__()
        self._codebook = Codebook(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        codes: torch.Tensor = self._codebook(x)
        return codes


class S3Tokeniser(nn.Module):
    def __init__(self, width: int = 1280, blocks: int = BLOCKS[2]):
        super().__init__()
        self.encoder = Encoder(width, blocks)
        self.quantizer = Quantizer(width)

    def forward(self, mel: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """mel (B, 128, F), right-padded, at most 3000 frames, lengths (B,) -> codes (B, ceil(F / 4)). A row's codes do not change with its neighbours."""
        hidden, _ = self.encoder(mel, lengths)
        codes: torch.Tensor = self.quantizer(hidden)
        return codes

    def encode(self, wave: torch.Tensor) -> torch.Tensor:
        """A wave (N,) at 16 kHz, of any length from 201 samples on, to codes (ceil(N // 160 / 4),)."""
        return self.encode_mel(log_mel(wave))

    def encode_mel(self, mel: torch.Tensor) -> torch.Tensor:
        """`log_mel` of a wave (128, F) to codes (ceil(F / 4),).

        More than 30 s are read in windows of 30 s, one every 26 s, of which each joint takes the middle. Upstream opens
        another window where the last one reached the end already, and so loses up to 2 s of it.
        """
        frames = mel.shape[1]
        starts = range(0, max(1, frames - (WINDOW - STEP)), STEP)
        pieces = []
        for start in starts:
            window = mel[:, start : start + WINDOW]
            codes = self(window[None], torch.tensor([window.shape[1]], device=mel.device))[0]
            pieces.append(codes[SEAM if start else 0 : -SEAM if start != starts[-1] else None])
        return torch.cat(pieces)

    def sha256(self) -> str:
        """Of its weights, whatever file they came from: CosyVoice 2's and Chatterbox's codes are the same codes."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def from_onnx(path: Path, version: int) -> S3Tokeniser:
    """The tokeniser of one of CosyVoice's ONNX graphs, in eval mode. UserError unless every one of its tensors is read, and for the other version."""
    from models.released.onnx import read_parameters  # takes half a second

    found = {_ours(name): tensor for name, tensor in read_parameters(path).items()}
    blocks = 1 + max((int(name.split(".")[2]) for name in found if name.startswith("encoder.blocks.")), default=-1)
    if blocks != BLOCKS[version]:
        raise UserError(f"{path}: an S3 tokeniser of version {version} has {BLOCKS[version]} blocks, this has {blocks}; take the file of the same release")
    network = S3Tokeniser(len(found["encoder.conv1.bias"]) if "encoder.conv1.bias" in found else HEAD, blocks)
    wanted = network.state_dict()
    read = {name: found[name] for name in wanted if name in found and found[name].shape == wanted[name].shape}
    if missing := [name for name in wanted if name not in read]:
        raise UserError(f"{path}: {len(read)} of the {len(wanted)} tensors of an S3 tokeniser found, not {', '.join(missing[:3])}; take the file as it was released")
    network.load_state_dict(read)
    return network.eval()


def _ours(name: str) -> str:
    """The name of a tensor whose ONNX node belongs to module and parameter `name`."""
    name = re.sub(r"^(conv|blocks)", r"encoder.\1", name).replace(".mlp.mlp.", ".mlp.")
    return name.replace("quantizer.project_in", "quantizer._codebook.project_down")


def _places(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Bool (B, T): which of the last axis of x (B, C, T) are within `lengths` (B,)."""
    return torch.arange(x.shape[-1], device=x.device) < lengths[:, None]


def _rotary(length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    rates = 10000.0 ** -(torch.arange(0, HEAD, 2, device=device).float() / HEAD)
    angles = (torch.arange(length, device=device).float()[:, None] * rates).repeat(1, 2)
    return angles.cos(), angles.sin()


def _turned(x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    cos, sin = rotary
    return x * cos + torch.cat([-second, first], -1) * sin
