"""The released codec of a weights folder, as `Codec`: s3gen.safetensors and ve.safetensors (resemble-ai/chatterbox, src/chatterbox/tts.py)."""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import torch
import torchaudio
from torch import nn

from models.chatterbox.config import S3GEN
from models.chatterbox.released.voice_encoder import VoiceEncoder
from models.parts.each import each
from models.parts.errors import UserError
from models.parts.family import Voice
from models.parts.weights import load_into, map_tensors
from models.released import campplus, s3
from models.released.flow import BANDS, FRAMES
from models.released.hift import FRAME, HARMONICS, RATE, Noise, plain_sines
from models.released.mel import LogMel
from models.released.s3_codec import Conditions, S3Codec, campplus_like, filled, flow_like, hift_like
from models.released.shapes import Shapes, below, shapes_of

VOICE_ENCODER = "ve.safetensors"
# Tables that some files have and that follow from the code.
COMPUTED = ("tokenizer._mel_filters", "tokenizer.window")
MEL = LogMel(rate=RATE, bands=BANDS, window=1920, hop=FRAME, high=8000)
CODE = FRAMES * FRAME  # samples
PROMPT_SECONDS = 6.0
SILENCE, FADE = 480, 480  # samples at the start of every take: the reference's last sound would be heard


class S3Gen(nn.Module):
    """The four parts under upstream's names, of the sizes that `shapes`, names and shapes of a file, says."""

    def __init__(self, shapes: Shapes, where: Path):
        super().__init__()
        try:
            self.tokenizer = s3.S3Tokeniser(shapes["tokenizer.encoder.conv1.bias"][0])
            self.speaker_encoder = campplus_like(below(shapes, "speaker_encoder."))
            self.flow = flow_like(below(shapes, "flow."), version=2)
            self.mel2wav = hift_like(below(shapes, "mel2wav."), plain_sines, causal=False)
        except KeyError as error:
            raise UserError(f"{where}: no tensor {error} in any of its four parts; take {S3GEN} of English Chatterbox") from None


class ReleasedCodec(S3Codec):
    """T3's codes and vector come from 16 kHz as librosa resamples it, the decoder's reference as torchaudio does."""

    def __init__(self, weights: Path):
        where = weights / S3GEN
        state = {name: tensor for name, tensor in map_tensors(where).items() if name not in COMPUTED}
        with torch.device("meta"):
            parts = S3Gen(shapes_of(state), where)
        filled(parts, state, where)
        super().__init__(2, parts.tokenizer, parts.flow, parts.mel2wav)
        self.speaker_encoder = parts.speaker_encoder.to(self.device)
        self.voice_encoder = VoiceEncoder()
        load_into(self.voice_encoder, weights / VOICE_ENCODER)
        self.voice_encoder.eval().to(self.device)

    def heard(self, wave: np.ndarray) -> np.ndarray:
        heard: np.ndarray = librosa.resample(wave, orig_sr=RATE, target_sr=s3.RATE)
        return heard

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        """Float32 (256,) of length 1, for T3."""
        return each(lambda one: self.voice_encoder.embed(self.heard(one)).cpu().numpy(), [wave], self.device)[0]

    def prompt(self, wave: np.ndarray) -> np.ndarray:
        """Codes (≤ 150, 1) of the first 6 s of a reference, heard alone."""
        start = self.heard(wave)[: int(PROMPT_SECONDS * s3.RATE)]
        return each(self.codes_of, [start], self.device)[0]

    def conditions(self, reference: np.ndarray, voice: Voice) -> Conditions:
        """Of its first 10 s, whole codes: upstream leaves a mel one frame longer than its codes and loses that frame of every take."""
        samples = min(len(reference), int(self.reference_seconds * RATE)) // CODE * CODE
        if samples < 2 * CODE:
            raise UserError(f"a reference of {len(reference) / RATE:.3f} s is too short for a speaker vector; give longer training clips")
        return self.of_reference(self.tensor(reference[:samples]))

    def of_reference(self, wave: torch.Tensor) -> Conditions:
        """A recording at 24 kHz as it is: its mel's frames may be one more than its codes have."""
        heard = torchaudio.functional.resample(wave, RATE, s3.RATE)
        mel = MEL(wave[None])[0]
        codes = self.tokeniser.encode(heard)[: len(mel) // FRAMES]
        return Conditions(codes, mel, self.speaker_encoder(campplus.filter_bank(heard)[None])[0])

    def flow_noise(self, frames: int, source: torch.Generator) -> torch.Tensor:
        return torch.randn(BANDS, frames, generator=source)

    def vocoder_noise(self, frames: int, source: torch.Generator) -> Noise:
        phases = (2 * torch.rand(HARMONICS, generator=source) - 1) * torch.pi
        return Noise(torch.randn(frames * FRAME, HARMONICS, generator=source), phases)

    def begun(self, wave: torch.Tensor) -> torch.Tensor:
        """20 ms of silence, and 20 ms in which it comes."""
        gain = torch.ones_like(wave)
        rise = (torch.linspace(torch.pi, 0, FADE, device=wave.device).cos() + 1) / 2
        gain[: SILENCE + FADE] = torch.cat([torch.zeros(SILENCE, device=wave.device), rise])
        return wave * gain
