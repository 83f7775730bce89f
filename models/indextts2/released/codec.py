"""The released codec of a weights folder, as `Codec`: w2v-bert and RepCodec in, s2mel and BigVGAN out (index-tts/index-tts, indextts/infer_v2.py)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import librosa
import numpy as np
import torch
import torchaudio
from torch import nn

from models.indextts2.conditioner import SHORTEST as SHORTEST_PROMPT
from models.indextts2.conditioner import load_conditioner
from models.indextts2.network import read_network_config
from models.indextts2.released import hearing
from models.indextts2.released.bigvgan import BigVGAN
from models.indextts2.released.dit import BANDS
from models.indextts2.released.files import (
    GENERATOR,
    GPT,
    HEARING,
    REPCODEC,
    S2MEL,
    SPEAKER,
    STATISTICS,
    VOCODER,
    State,
    hearing_config,
    hearing_tensors,
    read_gpt,
    repcodec_tensors,
    s2mel_tensors,
    settings,
    vocoder_tensors,
)
from models.indextts2.released.hearing import Hearing
from models.indextts2.released.repcodec import RepCodec
from models.indextts2.released.s2mel import FRAMES, S2Mel
from models.parts.each import each
from models.parts.errors import UserError
from models.parts.family import Codec, Contract, Generation, Voice
from models.parts.precision import compute_device
from models.parts.weights import read_config, sha256_of
from models.released import campplus
from models.released.mel import LogMel
from models.released.s3_codec import campplus_like, filled
from models.released.shapes import Shapes, shapes_of
from models.released.stored import read_stored, stored

RATE, OUTPUT = 24000, 22050  # Hz; fine-tuning reads recordings at 24 kHz and hears 16 kHz of them
PROMPT_SECONDS = 15.0  # of a recording are heard, by network and decoder
# Upstream's configuration says the highest frequency as the text "None": half of the rate. Any other value is 8 kHz there.
MEL = LogMel(rate=OUTPUT, bands=BANDS, window=1024, hop=256, high=OUTPUT / 2)


Part = TypeVar("Part", bound=nn.Module)


@dataclass(frozen=True)
class Conditions:
    """What the decoder is told of a speaker's recording: conditions of its codes (F, C), its log-mel (80, F), a vector (192,)."""

    told: torch.Tensor
    mel: torch.Tensor
    style: torch.Tensor


class ReleasedCodec(Codec):
    """24 kHz in, 50 codes a second, 22.05 kHz out; float32 whatever the network runs in: half precision gives other codes.

    A clip's speaker vector is the condition (N, W) and the emotion (W,) that the base network hears in it, so that the contract's
    hash covers the base too. Clips and takes are computed one by one, each on a core: RepCodec looks 39 frames ahead, so that
    padding would change the codes at the end of a shorter clip. The noise of a take follows from its codes.
    """

    output_sample_rate = OUTPUT
    reference_seconds = PROMPT_SECONDS

    def __init__(self, weights: Path):
        self.device = compute_device()
        files = [stored(weights, name) for name in (f"{HEARING}/model.safetensors", STATISTICS, REPCODEC, S2MEL, SPEAKER, GENERATOR, GPT)]
        hears, statistics, repcodec, s2mel, speaker, generator, gpt = files
        heads = settings(weights)["s2mel"]["DiT"]["num_heads"]
        config = read_network_config(weights)
        heard = {f"model.{name}": tensor for name, tensor in hearing_tensors(read_stored(hears)).items()} | read_stored(statistics)
        self.hearing = self._made(lambda shapes: Hearing(hearing_config(weights)), heard, hears)
        self.repcodec = self._made(RepCodec.like, repcodec_tensors(read_stored(repcodec)), repcodec)
        self.s2mel = self._made(lambda shapes: S2Mel.like(shapes, heads), s2mel_tensors(read_stored(s2mel)), s2mel)
        self.speaker = self._made(campplus_like, read_stored(speaker), speaker)
        self.vocoder = self._made(lambda shapes: BigVGAN(read_config(weights / VOCODER / "config.json")), vocoder_tensors(read_stored(generator)), generator)
        self.conditioner = load_conditioner(config, gpt, read_gpt).float().to(self.device)
        self.contract = Contract("RepCodec on w2v-bert 2.0", sha256_of(hears, statistics, repcodec, gpt), RATE, 50.0, 1, (config["start_mel_token"],))
        self._known: tuple[Voice, Conditions] | None = None

    def _made(self, make: Callable[[Shapes], Part], state: State, where: Path) -> Part:
        """A part of the size that its tensors have, with them; UserError for tensors of something else."""
        try:
            with torch.device("meta"):
                module = make(shapes_of(state))
        except (KeyError, ValueError) as error:
            raise UserError(f"{where}: not the part of IndexTTS2 that it should be (no {error}); take the file as it was released") from None
        return filled(module, dict(state), where).to(self.device)

    # --- what is heard ----------------------------------------------------------------------------------------------
    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        return each(lambda wave: self._codes(self._points(self._heard(wave))[0]), waves, self.device)

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        return self.prepared([wave])[0][1]

    def prepared(self, waves: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """w2v-bert passes over a clip once, and its codes, condition and emotion come of that; over the prompt of a clip that is
        longer than one besides."""
        return each(self._prepared, waves, self.device)

    def _prepared(self, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        heard = self._heard(wave)
        points, whole = self._points(heard)
        codes, most = self._codes(points), round(PROMPT_SECONDS * hearing.RATE)
        if len(heard) > most:
            points, whole = self._points(heard[:most])
        # The last half frame has a code, and the network does not hear it, as upstream's preprocessing has it.
        return codes, self._conditioned(points[:whole], points[:whole])

    def voice_embedding(self, mean: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Of the recording alone, as upstream's inference hears it, which an export is spoken with: every frame, the emotion apart."""
        return each(self._voice_embedding, [reference], self.device)[0]

    def _voice_embedding(self, reference: np.ndarray) -> np.ndarray:
        return self._conditioned(self._points(self._as_prompt(reference)[1])[0], self._points(self._as_emotion(reference))[0])

    def _conditioned(self, points: torch.Tensor, emotional: torch.Tensor) -> np.ndarray:
        if min(len(points), len(emotional)) < SHORTEST_PROMPT:
            raise UserError(f"a clip of {len(points) / self.contract.token_rate:.2f} s is too short to be a prompt; raise corpus.min_seconds")
        latents = self.conditioner.latents(points[None], torch.tensor([len(points)], device=self.device))
        emotion = self.conditioner.emotion(emotional[None], torch.tensor([len(emotional)], device=self.device))
        return torch.cat([latents.flatten(), emotion.flatten()]).cpu().numpy()

    def _codes(self, points: torch.Tensor) -> np.ndarray:
        """Int32 (T, 1)."""
        codes: np.ndarray = self.repcodec.codes(points).cpu().numpy().astype(np.int32)[:, None]
        return codes

    def _points(self, heard: torch.Tensor) -> tuple[torch.Tensor, int]:
        if len(heard) < hearing.SHORTEST:
            raise UserError(f"a clip of {len(heard) / hearing.RATE:.3f} s is too short for a code; raise corpus.min_seconds")
        found: tuple[torch.Tensor, int] = self.hearing(heard)
        return found

    def _heard(self, wave: np.ndarray) -> torch.Tensor:
        """A training clip at 16 kHz."""
        return torchaudio.functional.resample(self._tensor(wave), RATE, hearing.RATE)

    def _as_prompt(self, wave: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """A recording as inference reads the speaker's: at 22.05 kHz, and that at 16 kHz."""
        read = librosa.resample(wave, orig_sr=RATE, target_sr=OUTPUT)[: round(PROMPT_SECONDS * OUTPUT)]
        slow = torch.from_numpy(read)
        # The transform, whose filter is of double precision before it is rounded; the function's is not.
        return slow.to(self.device), torchaudio.transforms.Resample(OUTPUT, hearing.RATE)(slow).to(self.device)

    def _as_emotion(self, wave: np.ndarray) -> torch.Tensor:
        """The same as inference reads the one of the emotion: at 16 kHz, by another resampler."""
        return self._tensor(librosa.resample(wave, orig_sr=RATE, target_sr=hearing.RATE)[: round(PROMPT_SECONDS * hearing.RATE)])

    # --- what is said -----------------------------------------------------------------------------------------------
    def decode(self, codes: Sequence[np.ndarray], voice: Voice) -> list[np.ndarray]:
        return self._waves([(one, None) for one in codes], voice)

    def render(self, generations: Sequence[Generation], voice: Voice) -> list[np.ndarray]:
        return self._waves([(one.codes, one.latents) for one in generations], voice)

    def _waves(self, spoken: Sequence[tuple[np.ndarray, np.ndarray | None]], voice: Voice) -> list[np.ndarray]:
        """1.72 x 256 samples a code, whole frames of 256; nothing for a take without codes."""
        if self._known is None or self._known[0] is not voice:
            if not len(voice.reference):
                raise UserError(f"voice {voice.speaker}: without a reference recording, which this decoder has to hear; run the tokenise stage again")
            self._known = voice, each(self.conditions, [voice.reference], self.device)[0]
        known = self._known[1]
        return each(lambda one: self._wave(*one, known), spoken, self.device)

    def conditions(self, reference: np.ndarray) -> Conditions:
        """Of its codes alone: the network said none of them, so there are no hidden states."""
        slow, heard = self._as_prompt(reference)
        vectors = self.repcodec.vectors(self.repcodec.codes(self._points(heard)[0]))
        mel = MEL(slow[None])[0].T
        return Conditions(self.s2mel.told(vectors, None, mel.shape[1]), mel, self.speaker(campplus.filter_bank(heard)[None])[0])

    def _wave(self, codes: np.ndarray, latents: np.ndarray | None, known: Conditions) -> np.ndarray:
        if not len(codes):
            return np.zeros(0, np.float32)
        source = torch.Generator().manual_seed(zlib.crc32(np.ascontiguousarray(codes).tobytes()))
        frames = int(FRAMES * len(codes))
        noise = torch.randn(BANDS, known.mel.shape[1] + frames, generator=source)
        states = None if latents is None else self._tensor(latents)
        told = self.s2mel.told(self.repcodec.vectors(self._tensor(codes[:, 0].astype(np.int64))), states, frames)
        mel = self.s2mel.cfm(torch.cat([known.told, told]), known.mel, known.style, noise.to(self.device))
        wave: np.ndarray = self.vocoder(mel).cpu().numpy()
        return wave

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)
