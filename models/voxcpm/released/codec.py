"""The released AudioVAE of a weights folder, as `Codec`: patches of latents, float32 values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from models.parts.each import each
from models.parts.errors import UserError
from models.parts.family import Codec, Contract, Voice
from models.parts.precision import compute_device
from models.parts.weights import load_network, map_tensors, read_config, sha256_of
from models.voxcpm.released.files import VAE
from models.voxcpm.released.vae import AudioVAE, Sizes

NESTED = "state_dict."  # where a release keeps its tensors one level down
CONTEXT = 2  # patches of a reference that the decoder hears before the first one of a take (upstream's)


class ReleasedCodec(Codec):
    """44.1 kHz in and out, 6.25 patches a second, float32 whatever the network runs in.

    Clips and takes are computed one by one, on all cores: a batch would round in another way. A voice comes with a recording,
    from which both base and tuned networks go on, and so does the decoder.
    """

    reference_seconds = 10.0

    def __init__(self, weights: Path):
        where, file = weights / "config.json", weights / VAE
        config = read_config(where)
        self.sizes, self.patch = Sizes.of(config, str(where)), int(config["patch_size"])
        self.device = compute_device()
        network = load_network(lambda: AudioVAE(self.sizes), file, device=self.device, read=read_vae)
        self.network = network.requires_grad_(False)
        self.samples = self.patch * self.sizes.hop  # of a patch
        self.output_sample_rate = self.sizes.sample_rate
        self.contract = Contract(
            tokeniser="VoxCPM-1.5-AudioVAE", tokeniser_sha256=sha256_of(file), sample_rate=self.sizes.sample_rate,
            token_rate=self.sizes.sample_rate / self.samples, codebooks=self.patch * self.sizes.latent_dim, vocabulary=(),
        )  # fmt: skip

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Whole patches: silence fills the last one."""
        return each(lambda wave: self._encode(wave, (0, -len(wave) % self.samples)), waves, self.device)

    def prompt(self, wave: np.ndarray) -> np.ndarray:
        """Silence fills the first patch, so that speech goes on from the last."""
        return each(lambda one: self._encode(one, (-len(one) % self.samples, 0)), [wave], self.device)[0]

    def _encode(self, wave: np.ndarray, padding: tuple[int, int]) -> np.ndarray:
        if not len(wave):
            raise UserError("a clip without samples can't be encoded; leave it out of the corpus")
        heard = F.pad(torch.from_numpy(wave).to(self.device)[None, None], padding)
        latents: np.ndarray = self.network.encoder(heard)[0].T.cpu().numpy()
        return latents.reshape(-1, self.contract.codebooks)

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        """Empty: the voice is in the latents."""
        return np.zeros(0, np.float32)

    def decode(self, codes: Sequence[np.ndarray], voice: Voice) -> list[np.ndarray]:
        """The voice is in the latents; where it has a reference, the decoder has just heard the end of it."""
        before = voice.prompts[0].codes[-CONTEXT:] if voice.prompts else np.zeros((0, self.contract.codebooks), np.float32)
        return each(lambda patches: self._decode(patches, before), codes, self.device)

    def _decode(self, patches: np.ndarray, before: np.ndarray) -> np.ndarray:
        latents = np.concatenate([before, patches]).reshape(-1, self.sizes.latent_dim).T
        wave: np.ndarray = self.network.decoder(torch.from_numpy(latents.copy()).to(self.device)[None])[0, 0].cpu().numpy()
        return wave[len(before) * self.samples :]


def read_vae(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of audiovae.pth, which is a state dict or holds one."""
    return {name.removeprefix(NESTED): tensor for name, tensor in map_tensors(path).items()}
