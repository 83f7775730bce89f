"""The small codec of values: no codebook and nothing learnt by steps, a linear map of the vocoder's frames and back.

A frame of the codec is some hundredths of a second of what the vocoder measures (models/small/vocoder.py), projected onto the
directions in which speech varies most (principal components). Some frames make a patch. There is no decoder but the inverse
map and the vocoder, so whoever writes the values has to write the voice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio

from models.parts.each import each
from models.parts.family import Codec, Contract, Voice
from models.parts.weights import load_into, read_config, sha256_of
from models.small.vocoder import BANDS, PITCH, RATE, VOICE, Vocoder, analyse

HEARD = 2.0  # voice and pitch are two figures among eighty, and heard more than one band is


class LinearNetwork(torch.nn.Module):
    """`config`: `step`, the vocoder's frames in one of the codec's, and `latent`, values of one. What model.safetensors holds."""

    mean: torch.Tensor
    into: torch.Tensor
    back: torch.Tensor

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.step, self.latent = config["step"], config["latent"]
        self.register_buffer("mean", torch.zeros(self.step * BANDS))
        self.register_buffer("into", torch.zeros(self.step * BANDS, self.latent))
        self.register_buffer("back", torch.zeros(self.latent, self.step * BANDS))

    @torch.no_grad()
    def fit(self, frames: torch.Tensor) -> float:
        """Set the map from the vocoder's frames (N × step, 80); returns the share of their variance that the values explain.

        A direction that varies more stays larger, by the root of its spread, so that it is drawn first; their mean square is 1.
        """
        weights = torch.ones(BANDS, dtype=torch.float64)
        weights[[VOICE, PITCH]] = HEARD
        weights = weights.repeat(self.step)
        rows = frames.double().reshape(len(frames) // self.step, -1)
        mean = rows.mean(0)
        heard = (rows - mean) * weights
        variance, directions = torch.linalg.eigh(heard.T @ heard / len(heard))
        spread, directions = variance[-self.latent :].flip(0).sqrt(), directions[:, -self.latent :].flip(1)
        scale = spread.sqrt() * spread.mean().sqrt()  # of a direction, so that what is left has a mean square of 1
        self.mean.copy_(mean)
        self.into.copy_(weights[:, None] * directions / scale)
        self.back.copy_((directions * scale).T / weights)
        return float(spread.square().sum() / variance.sum())

    def values(self, frames: torch.Tensor) -> torch.Tensor:
        """The vocoder's frames (T × step, 80) to (T, latent)."""
        return (frames.reshape(-1, self.step * BANDS) - self.mean) @ self.into

    def frames(self, values: torch.Tensor) -> torch.Tensor:
        """And back."""
        return (values @ self.back + self.mean).reshape(-1, BANDS)


class LinearCodec(Codec):
    """Patches of `config["patch"]` frames. The vocoder's frames have `config["hop"]` samples."""

    def __init__(self, folder: Path):
        config = read_config(folder / "config.json")
        self.network = LinearNetwork(config).eval()
        load_into(self.network, folder / "model.safetensors")
        self.patch, self.vocoder = config["patch"], Vocoder(config["output_sample_rate"], config["hop"])
        self.samples = self.patch * config["step"] * config["hop"]  # of a patch, in and out
        self.output_sample_rate = config["output_sample_rate"]
        self.contract = Contract(
            tokeniser=config["id"], tokeniser_sha256=sha256_of(folder / "model.safetensors"), sample_rate=config["sample_rate"],
            token_rate=config["output_sample_rate"] / self.samples, codebooks=self.patch * config["latent"], vocabulary=(),
        )  # fmt: skip

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Whole patches: silence fills the last one."""
        return each(self._encode, waves)

    def _encode(self, wave: np.ndarray) -> np.ndarray:
        seconds = len(wave) / self.contract.sample_rate
        patches = max(1, -int(-seconds * self.contract.token_rate // 1))
        heard = torchaudio.functional.resample(torch.from_numpy(wave), self.contract.sample_rate, RATE).numpy()
        return self.patches(analyse(heard), patches)

    def patches(self, analysis: np.ndarray, count: int) -> np.ndarray:
        """Float32 (count, patch × latent) of what the vocoder measured, silent beyond its end."""
        frames = self.vocoder.frames(analysis, count * self.patch * self.network.step)
        values: np.ndarray = self.network.values(frames).reshape(count, -1).numpy()
        return values

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        """Empty: the voice is in the values."""
        return np.zeros(0, np.float32)

    def decode(self, codes: Sequence[np.ndarray], voice: Voice) -> list[np.ndarray]:
        """The voice is in the values."""
        return each(lambda one: self.vocoder.synthesise(self.network.frames(torch.from_numpy(one).reshape(-1, self.network.latent))), codes)
