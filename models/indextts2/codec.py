"""IndexTTS2's tokeniser and decoder, and what the base network's conditioner makes of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from models.indextts2.conditioner import load_conditioner
from models.indextts2.network import read_network_config
from models.parts.each import each
from models.parts.errors import UserError
from models.parts.family import Generation, Voice
from models.parts.weights import sha256_of
from models.small import whisper
from models.small.semantic_codec import SemanticCodec
from models.small.voiceprint import SIZE

PROMPT_SECONDS = 15  # upstream's inference cuts a prompt here, its preprocessing does not


class IndexCodec(SemanticCodec):
    """24 kHz in (16 kHz inside), 50 codes a second, 22.05 kHz out.

    The decoder reads codes and the language model's hidden states; codes alone where there are none. A speaker vector is
    the decoder's style, then the condition (N, W) and the emotion (W,) that the base network hears in the clip. So the
    contract's hash covers the base's weights too.
    """

    def __init__(self, weights: Path):
        super().__init__(weights / "codec")
        gpt, flow = read_network_config(weights), self.config["flow"]
        if (gpt["condition_width"], gpt["model_dim"]) != (self.config["pca"], flow["latents"]):
            raise UserError(
                f"{weights}/codec/config.json: pca {self.config['pca']} and latents {flow['latents']}, but the network "
                f"hears {gpt['condition_width']} and gives {gpt['model_dim']}; codec and weights are of two models"
            )
        self.conditioner = load_conditioner(gpt, weights / "model.safetensors")
        files = weights / "codec" / "model.safetensors", whisper.weights_file(), weights / "model.safetensors"
        self.contract = replace(self.contract, tokeniser_sha256=sha256_of(*files))

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        prompt = self.around_tokens(wave[: PROMPT_SECONDS * self.contract.sample_rate])
        with torch.no_grad():
            points = self.network.quantiser.points(prompt)
            condition, emotion = self.conditioner.condition(points[None], torch.tensor([len(points)]))
        style = super().speaker_embedding(wave)
        return np.concatenate([style, condition.numpy().ravel(), emotion.numpy().ravel()])

    def decode(self, codes: Sequence[np.ndarray], voice: Voice) -> list[np.ndarray]:
        return self._decode([(one, None) for one in codes], voice)

    def render(self, generations: Sequence[Generation], voice: Voice) -> list[np.ndarray]:
        return self._decode([(one.codes, one.latents) for one in generations], voice)

    def _decode(self, spoken: Sequence[tuple[np.ndarray, np.ndarray | None]], voice: Voice) -> list[np.ndarray]:
        style = torch.from_numpy(voice.speaker_embedding[:SIZE])

        def wave(one: tuple[np.ndarray, np.ndarray | None]) -> np.ndarray:
            codes, latents = one
            return self.synthesise(codes, style, None if latents is None else torch.from_numpy(latents))

        return each(wave, spoken)
