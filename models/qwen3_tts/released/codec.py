"""The released 12 Hz codec and speaker encoder of a weights folder, as `Codec`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.parts.each import each
from models.parts.errors import UserError
from models.parts.family import Codec, Contract, Voice
from models.parts.precision import compute_device
from models.parts.weights import load_into, read_config, sha256_of
from models.qwen3_tts.released.decoder import Decoder
from models.qwen3_tts.released.encoder import Encoder
from models.qwen3_tts.released.files import FOLDER
from models.qwen3_tts.speaker import SpeakerEncoder
from models.released.mel import LogMel

SPEAKER = "speaker_encoder."  # of the main file's names, in Base alone
KIND = "qwen3_tts_tokenizer_12hz"
# What the speaker encoder hears (QwenLM/Qwen3-TTS, qwen_tts/core/models/modeling_qwen3_tts.py).
MEL = LogMel(rate=24000, bands=128, window=1024, hop=256, high=12000)
LEAST = 5 * MEL.hop  # samples that make the five mel frames that the speaker encoder's reflecting edges need


class SpeechTokenizer(nn.Module):
    """Encoder and decoder under the release's names; `config` is speech_tokenizer/config.json, `where` its path."""

    def __init__(self, config: dict[str, Any], where: Path):
        super().__init__()
        if config.get("model_type") != KIND:
            raise UserError(f"{where}: model_type is {config.get('model_type')}, not {KIND}; take {FOLDER}/ of a 12 Hz release")
        try:
            self.encoder = Encoder(config["encoder_config"], config["encoder_valid_num_quantizers"])
            self.decoder = Decoder(config["decoder_config"])
            self.rates: tuple[int, int] = config["input_sample_rate"], config["output_sample_rate"]
            self.frame: int = config["encode_downsample_rate"]
            self.vocabulary = (config["encoder_config"]["codebook_size"],) * self.encoder.codebooks
        except (KeyError, TypeError) as error:
            raise UserError(f"{where}: not the codec's configuration (no {error}); use the file that came with the weights") from None


class ReleasedCodec(Codec):
    """24 kHz in and out, 12.5 frames a second, float32 whatever the network runs in: half precision gives other codes.

    Clips and takes are computed one by one. A batch, even of equal lengths, rounds in another way (measured: 2e-4 of the
    wave), and a batch of unequal ones changes each shorter clip's last frame.
    """

    def __init__(self, weights: Path):
        self.weights = weights
        self.device = compute_device()
        file, where = weights / FOLDER / "model.safetensors", weights / FOLDER / "config.json"
        network = SpeechTokenizer(read_config(where), where)
        load_into(network, file)
        self.network = network.eval().to(self.device)
        self.speaker_encoder = read_speaker_encoder(weights)
        decides = [sha256_of(file)]
        if self.speaker_encoder:
            decides.append(_sha256_of(self.speaker_encoder))
            self.speaker_encoder.to(self.device)
        rate, self.output_sample_rate = network.rates
        self.contract = Contract(
            tokeniser="Qwen3-TTS-Tokenizer-12Hz",
            tokeniser_sha256=hashlib.sha256(" ".join(decides).encode()).hexdigest(),
            sample_rate=rate, token_rate=rate / network.frame, codebooks=len(network.vocabulary), vocabulary=network.vocabulary,
        )  # fmt: skip

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        return each(self._encode, waves, self.device)

    def _encode(self, wave: np.ndarray) -> np.ndarray:
        if not len(wave):
            raise UserError("a clip without samples can't be encoded; leave it out of the corpus")
        codes: np.ndarray = self.network.encoder(self._tensor(wave))[0].cpu().numpy().astype(np.int32)
        return codes

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        """Float32 (2048,), or (1024,) in 0.6B: the Base's own speaker encoder, as loud as it comes."""
        if self.speaker_encoder is None:
            raise UserError(f"{self.weights}: only a Base release has the encoder that measures a speaker; take Base weights")
        if len(wave) < LEAST:
            raise UserError(
                f"a clip of {len(wave)} samples is too short for a speaker vector, which takes {LEAST} "
                f"({LEAST / self.contract.sample_rate:.3f} s); raise corpus.min_seconds"
            )
        vectors: np.ndarray = each(lambda one: self.speaker_encoder(MEL(self._tensor(one)))[0].cpu().numpy(), [wave], self.device)[0]  # type: ignore[misc]
        return vectors

    def decode(self, codes: Sequence[np.ndarray], voice: Voice) -> list[np.ndarray]:
        """The voice is in the codes. 1920 samples a frame, clipped to [-1, 1] as upstream does.

        The decoder hears the reference that a voice is cloned from before each take; its share of the samples is cut off
        (QwenLM/Qwen3-TTS, qwen_tts/inference/qwen3_tts_model.py).
        """
        if not voice.prompts:
            return each(self._decode, codes, self.device)
        heard = voice.prompts[0].codes
        waves = each(self._decode, [np.concatenate([heard, take]) for take in codes], self.device)
        shares = (len(heard) / (len(heard) + len(take)) for take in codes)
        return [wave[int(share * len(wave)) :] for wave, share in zip(waves, shares, strict=True)]

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        wave: np.ndarray = self.network.decoder.chunked(self._tensor(codes.astype(np.int64)))[0].clamp(-1, 1).cpu().numpy()
        return wave

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)[None]


def read_speaker_encoder(weights: Path) -> SpeakerEncoder | None:
    """The Base's speaker encoder, float32, eval mode; None for the other releases, which have none."""
    config, file = read_config(weights / "config.json"), weights / "model.safetensors"
    if config.get("tts_model_type") != "base":
        return None
    if "enc_dim" not in config.get("speaker_encoder_config", {}):
        raise UserError(f"{weights}/config.json: speaker_encoder_config has no enc_dim; use the file that came with the weights")
    encoder = SpeakerEncoder(config["speaker_encoder_config"])
    load_into(encoder, file, SPEAKER)
    return encoder.eval()


def _sha256_of(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
