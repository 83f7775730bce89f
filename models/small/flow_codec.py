"""What the small codecs share: a folder with config.json and model.safetensors (written by `make bases`), a contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio

from models.parts.family import Codec, Contract
from models.parts.weights import load_into, read_config, sha256_of
from models.small import whisper
from models.small.semantic import surroundings
from models.small.vocoder import RATE, Vocoder


def token_rate(config: dict[str, Any]) -> float:
    """Tokens a second: as the configuration says, or one for each `frame` of samples."""
    rate: float = config["token_rate"] if "token_rate" in config else config["sample_rate"] / config["frame"]
    return rate


class FlowCodec(Codec):
    """Semantic tokens from Whisper's encoder, a `Flow` back to the vocoder's frames. `network_type` holds the weights."""

    network_type: type[torch.nn.Module]

    def __init__(self, folder: Path):
        self.config = read_config(folder / "config.json")
        self.network: Any = self.network_type(self.config).eval()
        load_into(self.network, folder / "model.safetensors")
        self.vocoder = Vocoder(self.config["output_sample_rate"], self.config["hop"])
        self.output_sample_rate = self.config["output_sample_rate"]
        self.contract = Contract(
            tokeniser=self.config["id"],
            tokeniser_sha256=sha256_of(folder / "model.safetensors", whisper.weights_file()),
            sample_rate=self.config["sample_rate"],
            token_rate=token_rate(self.config),
            codebooks=len(self.config["codebooks"]),
            vocabulary=tuple(self.config["codebooks"]),
        )

    def heard(self, wave: np.ndarray) -> np.ndarray:
        """A wave at the tokeniser's rate -> at 16 kHz, as the speech encoder and the vocoder both take it."""
        resampled: np.ndarray = torchaudio.functional.resample(torch.from_numpy(wave), self.contract.sample_rate, RATE).numpy()
        return resampled

    def features(self, heard: np.ndarray, frames: int) -> torch.Tensor:
        """The speech encoder's output around each of `frames` tokens (frames, 4 × 384)."""
        return torch.from_numpy(surroundings(whisper.features(heard), self.contract.token_rate, frames))

    def synthesise(self, codes: np.ndarray, prints: torch.Tensor, latents: torch.Tensor | None = None) -> np.ndarray:
        """One utterance: codes (T, K) -> a wave at the output rate."""
        return self.vocoder.synthesise(self.network.flow.decode(torch.from_numpy(codes).long(), prints, latents))
