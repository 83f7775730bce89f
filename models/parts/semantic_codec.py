"""The small codec of paradigm A: semantic tokens in, speech of any voice out.

Encoding is `SemanticQuantiser`; decoding is `Flow` on a voiceprint and Griffin-Lim. The folder holds config.json and
model.safetensors, as `make bases` wrote them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchaudio

from models.parts import whisper
from models.parts.each import each
from models.parts.family import Codec, Contract, Voice
from models.parts.flow import Flow, FlowConfig
from models.parts.mel import Mel
from models.parts.semantic import SemanticQuantiser, surroundings
from models.parts.voiceprint import voiceprint
from models.parts.weights import load_into, read_config, sha256_of


class SemanticNetwork(torch.nn.Module):
    """Quantiser and decoder: what model.safetensors holds."""

    def __init__(self, config: dict):
        super().__init__()
        self.quantiser = SemanticQuantiser(config["codebooks"][0], config["pca"])
        self.flow = Flow(FlowConfig(codebooks=tuple(config["codebooks"]), bands=config["mel"]["bands"], **config["flow"]))


class SemanticCodec(Codec):
    """One codebook of semantic tokens; the voice comes from the speaker's voiceprint."""

    def __init__(self, folder: Path):
        self.config = read_config(folder / "config.json")
        self.network = SemanticNetwork(self.config).eval()
        load_into(self.network, folder / "model.safetensors")
        self.mel = Mel(self.config["output_sample_rate"], **self.config["mel"])
        self.output_sample_rate = self.config["output_sample_rate"]
        self.contract = Contract(
            tokeniser=self.config["id"],
            tokeniser_sha256=sha256_of(folder / "model.safetensors", whisper.weights_file()),
            sample_rate=self.config["sample_rate"],
            token_rate=self.config["token_rate"],
            codebooks=1,
            vocabulary=tuple(self.config["codebooks"]),
        )

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        return each(self._encode, waves)

    def _encode(self, wave: np.ndarray) -> np.ndarray:
        codes: np.ndarray = self.network.quantiser(self.features(wave)).numpy()[:, None].astype(np.int32)
        return codes

    def features(self, wave: np.ndarray) -> torch.Tensor:
        """The speech encoder's output around each token (T, 4 × 384), of a wave at the tokeniser's rate."""
        frames = max(1, -(-int(len(wave) * self.contract.token_rate) // self.contract.sample_rate))
        speech = torchaudio.functional.resample(torch.from_numpy(wave), self.contract.sample_rate, whisper.SAMPLE_RATE)
        return torch.from_numpy(surroundings(whisper.features(speech.numpy()), self.contract.token_rate, frames))

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        return voiceprint(self.at_output_rate(wave), self.mel)

    def at_output_rate(self, wave: np.ndarray) -> np.ndarray:
        """A wave at the tokeniser's rate, as the decoder's mels see it."""
        resampled: np.ndarray = torchaudio.functional.resample(
            torch.from_numpy(wave), self.contract.sample_rate, self.output_sample_rate
        ).numpy()
        return resampled

    def decode(self, codes: Sequence[np.ndarray], voice: Voice) -> list[np.ndarray]:
        prints = torch.from_numpy(voice.speaker_embedding)
        return each(lambda c: self.mel.griffin_lim(self.network.flow.decode(torch.from_numpy(c).long(), prints)), codes)
