"""What the codecs of CosyVoice and Chatterbox have in common: S3 codes in, a flow and HiFT out, a recording as the voice."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from models.parts.each import each
from models.parts.errors import UserError
from models.parts.family import Codec, Contract, Voice
from models.parts.precision import compute_device
from models.parts.weights import check_fit
from models.released import s3
from models.released.campplus import CAMPPlus
from models.released.flow import FRAMES, Flow
from models.released.flow2 import Estimator, Flow2
from models.released.flow3 import DiT, Flow3
from models.released.hift import RATE, HiFT, Noise, Source
from models.released.shapes import Shapes, count

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Conditions:
    """What the decoder is told of a speaker: int64 codes (P,) and log-mel (F, 80) of a recording, a vector (192,)."""

    codes: torch.Tensor
    mel: torch.Tensor
    vector: torch.Tensor


class S3Codec(Codec):
    """24 kHz in and out, 25 codes a second, float32 whatever the network runs in: half precision gives other codes.

    The tokeniser hears 16 kHz, the decoder's reference has 24. Clips and takes are computed one by one: a padded batch
    changes the end of each shorter take, for the flow looks three codes ahead. What is random follows from a take's codes,
    so that the same take always sounds the same.
    """

    output_sample_rate = RATE
    reference_seconds = 10.0

    def __init__(self, version: int, tokeniser: s3.S3Tokeniser, flow: Flow, vocoder: HiFT):
        self.device = compute_device()
        self.contract = Contract(f"S3 version {version}", tokeniser.sha256(), RATE, s3.TOKEN_RATE, 1, (s3.CODES,))
        self.tokeniser, self.flow, self.vocoder = tokeniser.to(self.device), flow.to(self.device), vocoder.double_pitch().to(self.device)
        self._known: tuple[Voice, Conditions] | None = None

    @abstractmethod
    def heard(self, wave: np.ndarray) -> np.ndarray:
        """A wave at 24 kHz as the tokeniser hears it, at 16 kHz: upstreams differ in how they resample."""

    @abstractmethod
    def conditions(self, reference: np.ndarray, voice: Voice) -> Conditions:
        """What the decoder is told of `voice`, whose recording at 24 kHz is `reference`."""

    @abstractmethod
    def flow_noise(self, frames: int, source: torch.Generator) -> torch.Tensor:
        """Float32 (80, frames): what a mel begins as."""

    @abstractmethod
    def vocoder_noise(self, frames: int, source: torch.Generator) -> Noise: ...

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        return each(self._encode, waves, self.device)

    def _encode(self, wave: np.ndarray) -> np.ndarray:
        heard = self.heard(wave)
        if len(heard) < s3.SHORTEST:
            raise UserError(f"a clip of {len(wave)} samples ({len(wave) / RATE:.3f} s) is too short for a code; raise corpus.min_seconds")
        return self.codes_of(heard)

    def codes_of(self, heard: np.ndarray) -> np.ndarray:
        """A wave at 16 kHz to int32 codes (T, 1)."""
        codes: np.ndarray = self.tokeniser.encode(self.tensor(heard)).cpu().numpy().astype(np.int32)[:, None]
        return codes

    def decode(self, codes: Sequence[np.ndarray], voice: Voice) -> list[np.ndarray]:
        """960 samples a code, within ±0.99; nothing for a take without codes."""
        if self._known is None or self._known[0] is not voice:
            if not len(voice.reference):
                raise UserError(f"voice {voice.speaker}: without a reference recording, which this decoder has to hear; run the tokenise stage again")
            with torch.no_grad():
                self._known = voice, self.conditions(voice.reference, voice)
        told = self._known[1]
        return each(lambda one: self._decode(one, told), codes, self.device)

    def _decode(self, codes: np.ndarray, told: Conditions) -> np.ndarray:
        if not len(codes):
            return np.zeros(0, np.float32)
        source = torch.Generator().manual_seed(zlib.crc32(np.ascontiguousarray(codes).tobytes()))
        noise = self.flow_noise(FRAMES * (len(told.codes) + len(codes)), source).to(self.device)
        mel = self.flow(self.tensor(codes[:, 0].astype(np.int64)), told.vector, told.codes, told.mel, noise)
        drawn = self.vocoder_noise(mel.shape[1], source)
        wave = self.vocoder(mel, Noise(drawn.samples.to(self.device), drawn.phases.to(self.device)))
        return self.begun(wave).cpu().numpy()

    def begun(self, wave: torch.Tensor) -> torch.Tensor:
        """A wave as it is to begin."""
        return wave

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


def filled(module: Module, state: dict[str, torch.Tensor], where: Path) -> Module:
    """`module`, made without memory, with its tensors, read from `where`, as float32, in eval mode. Strict.

    In memory of their own: where a tensor lies in a mapped file decides how products of it are rounded.
    """
    check_fit(module.state_dict(), state, where)
    own = {name: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True) for name, tensor in state.items()}
    module.load_state_dict(own, assign=True)
    return module.eval().requires_grad_(False)


def flow_like(shapes: Shapes, version: int) -> Flow:
    """A flow of the sizes that the tensors of a file have; KeyError for one that is no flow of that version."""
    estimator = "decoder.estimator."
    if version == 3:
        width, layers = shapes[f"{estimator}proj_out.weight"][1], count(shapes, f"{estimator}transformer_blocks.")
        return Flow3(shapes["pre_lookahead_layer.conv1.weight"][0], DiT(width, layers))
    first = f"{estimator}down_blocks.0.1."
    sizes = shapes[f"{estimator}final_proj.weight"][1], count(shapes, f"{estimator}mid_blocks."), count(shapes, first), shapes[f"{first}0.attn1.to_q.weight"][0]
    return Flow2(count(shapes, "encoder.encoders."), shapes["encoder.encoders.0.feed_forward.w_1.weight"][0], Estimator(*sizes))


def hift_like(shapes: Shapes, sines: Source, causal: bool) -> HiFT:
    return HiFT(sines, causal, shapes["conv_pre.bias"][0], shapes["f0_predictor.classifier.weight"][1])


def campplus_like(shapes: Shapes) -> CAMPPlus:
    return CAMPPlus(growth=shapes["xvector.tdnn.linear.weight"][0] // 4)
