"""The released codec of a weights folder, as `Codec`: it decodes alone, for its encoder was never released."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from models.parts.each import each
from models.parts.errors import UserError
from models.parts.family import Codec, Contract, Voice
from models.parts.precision import compute_device
from models.parts.weights import load_network, map_tensors
from models.released.fold import fold
from models.voxtral.names import CODEC, FILE, has_encoder
from models.voxtral.released.decoder import CodecConfig, Decoder


class ReleasedCodec(Codec):
    """24 kHz out, 12.5 frames a second, float32 whatever the network runs in: bfloat16 is three hundredths of the wave away.

    Takes are decoded whole, one by one, on all cores. Upstream cuts them every 375 frames, and neither side of a cut hears
    the other.
    """

    def __init__(self, weights: Path):
        self.file = weights / FILE
        if has_encoder(self.file):
            raise UserError(
                f"{self.file}: holds an encoder of the codec ({CODEC}encoder_blocks), which no release does, and this repository has "
                "no code for it; take the release's own file"
            )
        config, self.device = CodecConfig.load(weights), compute_device()
        network = load_network(lambda: Decoder(config), self.file, device=self.device, read=read_codec)
        fold(network)
        self.network = network.requires_grad_(False)
        self.output_sample_rate = config.sampling_rate
        self.contract = Contract(
            tokeniser="Voxtral-4B-TTS-codec", tokeniser_sha256=sha256_of_codec(self.file), sample_rate=config.sampling_rate,
            token_rate=config.sampling_rate / config.frame, codebooks=len(config.entries), vocabulary=config.entries,
        )  # fmt: skip

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """UserError. Upstream's own loader refuses as well (vllm-omni, pull requests 3498 and 7012)."""
        raise UserError(
            f"{self.file}: the codec's encoder ({CODEC}input_proj, {CODEC}encoder_blocks) is not in it and was never released, so "
            "recordings can't be turned into Voxtral's codes; let one of its own voices say a corpus (`takes` in params.yaml), use "
            "profile tiny, or another family"
        )

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        """Empty: the voice is in the codes, and the network knows it by its name."""
        return np.zeros(0, np.float32)

    def decode(self, codes: Sequence[np.ndarray], voice: Voice) -> list[np.ndarray]:
        """1920 samples a frame."""
        return each(self._decode, codes, self.device)

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        if not len(codes):
            return np.zeros(0, np.float32)
        wave: np.ndarray = self.network(torch.from_numpy(codes.astype(np.int64)).to(self.device)[None])[0].cpu().numpy()
        return wave


def read_codec(path: Path) -> dict[str, torch.Tensor]:
    return map_tensors(path, CODEC)


def sha256_of_codec(path: Path) -> str:
    """Of the codec's tensors alone: a fine-tune's file has another language model and the same codes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(read_codec(path).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
