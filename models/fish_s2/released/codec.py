"""The released codec of a weights folder, as `Codec`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from models.fish_s2.released.dac import DAC, Sizes
from models.fish_s2.released.files import CODEC
from models.parts.each import each
from models.parts.errors import UserError
from models.parts.family import Codec, Contract, Voice
from models.parts.precision import compute_device
from models.parts.weights import load_network, map_tensors, read_shapes, sha256_of
from models.released.fold import fold

RATE = 44100  # Hz, in and out; no file of the release says so (fish_speech/configs/modded_dac_vq.yaml)
# Tables and masks that upstream's class made of its configuration, and that the file has all the same.
BUFFERS = (".freqs_cis", ".causal_mask")


class ReleasedCodec(Codec):
    """44.1 kHz in and out, 21.5 frames a second, float32 whatever the network runs in: bfloat16 gives other codes.

    Clips and takes are computed one by one, on all cores: a batch would round in another way.

    The reference is for the network, which reads its codes; the decoder hears nothing of it.
    """

    reference_seconds = 10.0

    def __init__(self, weights: Path):
        file = weights / CODEC
        sizes = sizes_of(file)
        self.device = compute_device()
        network = load_network(lambda: DAC(sizes), file, device=self.device, read=read_codec)
        fold(network)
        self.network = network.requires_grad_(False)
        self.output_sample_rate = RATE
        self.contract = Contract(
            tokeniser="Fish-S2-Pro-codec", tokeniser_sha256=sha256_of(file), sample_rate=RATE, token_rate=RATE / sizes.frame,
            codebooks=len(sizes.entries), vocabulary=sizes.entries,
        )  # fmt: skip

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        return each(self._encode, waves, self.device)

    def _encode(self, wave: np.ndarray) -> np.ndarray:
        if not len(wave):
            raise UserError("a clip without samples can't be encoded; leave it out of the corpus")
        codes: np.ndarray = self.network.encode(self._tensor(wave))[0].T.cpu().numpy().astype(np.int32)
        return codes

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        """Empty: the voice is in the codes."""
        return np.zeros(0, np.float32)

    def decode(self, codes: Sequence[np.ndarray], voice: Voice) -> list[np.ndarray]:
        """The voice is in the codes. 2048 samples a frame."""
        return each(self._decode, codes, self.device)

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        wave: np.ndarray = self.network.decode(self._tensor(codes.T.astype(np.int64)))[0].cpu().numpy()
        return wave

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)[None]


def read_codec(path: Path) -> dict[str, torch.Tensor]:
    """What decides a wave: the file's tensors as they are stored, without `BUFFERS`."""
    return {name: tensor for name, tensor in map_tensors(path).items() if not name.endswith(BUFFERS)}


def sizes_of(path: Path) -> Sizes:
    """UserError for a file that is another codec's."""
    try:
        return Sizes.of(read_shapes(path))
    except KeyError as error:
        raise UserError(f"{path}: not S2's codec (it has no {error}); take codec.pth of the release") from None
