"""Fit a tiny codec: k-means on encoder features, then the mel decoder by flow matching."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from tqdm import tqdm

from models.parts import voiceprint, whisper
from models.parts.flow import Flow
from models.parts.mel import Mel
from models.parts.residual_codec import ResidualNetwork
from models.parts.semantic import at_token_rate
from models.parts.semantic_codec import SemanticNetwork
from stages.bases.loop import optimise
from stages.common.shards import Shards

CROP_SECONDS = 3.2  # of a training example of the decoder
BATCH = 24


@dataclass
class Utterance:
    """What the decoder learns from: codes (T, K) int16, log-mel (T × patch, bands) half precision, voiceprint (192,).

    `latents` (T, W): the language model's hidden states, half precision, or None where codes alone are decoded.
    """

    codes: torch.Tensor
    mel: torch.Tensor
    print: torch.Tensor
    latents: torch.Tensor | None = None


@dataclass(frozen=True)
class Source:
    """Recordings and what the speech encoder makes of them: `features(clip id)` is (n, 384) at 50 Hz."""

    audio: Shards
    features: Callable[[str], np.ndarray]
    ids: list[str]


class CodecFit:
    """Fits the codec of `config`; afterwards `network` is the codec and `codes(source)` what it makes of a source."""

    def __init__(self, config: dict[str, Any], recipe: dict[str, Any]):
        self.config, self.recipe, self.seed = config, recipe, recipe["seed"]
        self.residual = len(config["codebooks"]) > 1
        self.mel = Mel(config["output_sample_rate"], **config["mel"])
        self.rate = config["sample_rate"] / config["frame"] if self.residual else config["token_rate"]
        torch.manual_seed(self.seed)
        self.network: Any = ResidualNetwork(config) if self.residual else SemanticNetwork(config)

    def fit_quantisers(self, source: Source) -> list[float]:
        """k-means on a share of all frames; returns the shares of variance explained, stage by stage."""
        rng = np.random.default_rng(self.seed)
        sample = []
        for clip_id in tqdm(source.ids, desc="token features", mininterval=5):
            at_rate = self._features(source, clip_id)
            sample.append(at_rate[rng.random(len(at_rate)) < self.recipe["kmeans_share"]])
        explained = [self.network.quantiser.fit(torch.from_numpy(np.concatenate(sample)), self.seed)]
        if self.residual:
            third = source.ids[::3]
            semantic = [self._semantic(source, clip_id) for clip_id in third]
            patches = [self._patches(source, clip_id, len(s)) for clip_id, s in zip(third, semantic, strict=True)]
            explained += self.network.residual.fit(torch.cat(patches), torch.cat(semantic), self.seed)
        return explained

    def codes(self, source: Source) -> dict[str, torch.Tensor]:
        """Codes (T, K) of every clip."""
        result = {}
        for clip_id in tqdm(source.ids, desc="codes", mininterval=5):
            semantic = self._semantic(source, clip_id)
            result[clip_id] = semantic[:, None]
            if self.residual:
                patches = self._patches(source, clip_id, len(semantic))
                result[clip_id] = torch.cat([semantic[:, None], self.network.residual(patches, semantic)], 1)
        return result

    def fit_decoder(self, sources: list[tuple[Source, dict[str, torch.Tensor]]], scratch: Path) -> list[dict]:
        """Train the flow on sources with their codes; returns the curve."""
        heard: list[list[Utterance]] = []
        for source, codes in sources:
            ids = [clip_id for clip_id in source.ids if len(codes[clip_id]) >= 8]
            ids = random.Random(self.seed).sample(ids, min(len(ids), self.recipe["decoder_clips"]))
            heard.append([self._utterance(source, i, codes[i]) for i in tqdm(ids, desc="mels", mininterval=5)])
        flow = self.network.flow
        flow.average.copy_(torch.stack([torch.stack([u.print for u in utterances]).mean(0) for utterances in heard]).mean(0))
        codes_alone = [p for name, p in flow.named_parameters() if not name.startswith("latent.")]
        return self._fit("decoder", codes_alone, heard, scratch)

    def fit_latents(self, source: Source, codes: dict[str, torch.Tensor], latents: dict[str, np.ndarray], scratch: Path) -> list[dict]:
        """Train the layer through which `latents` (T, W) by clip enter the finished flow, and nothing else of it.

        It starts at zero, where the decoder hears codes alone: what they say already is not learnt anew.
        """
        layer = self.network.flow.latent
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        utterances = [self._utterance(source, i, codes[i]) for i in tqdm(latents, desc="mels", mininterval=5)]
        for utterance, hidden in zip(utterances, latents.values(), strict=True):
            utterance.latents = torch.from_numpy(hidden).half()
        return self._fit("latents", list(layer.parameters()), [utterances], scratch)

    def points(self, source: Source, clip_id: str) -> np.ndarray:
        """What is quantised of a clip: float32 (T, D)."""
        with torch.autocast("cpu", enabled=False):  # the codec hears prompts in full precision, too
            points: np.ndarray = self.network.quantiser.points(torch.from_numpy(self._features(source, clip_id))).numpy()
        return points

    def _fit(self, name: str, parameters: list[torch.nn.Parameter], heard: list[list[Utterance]], scratch: Path) -> list[dict]:
        flow, crop = self.network.flow, round(CROP_SECONDS * self.rate)
        flow.train()
        curve = optimise(
            name, parameters, lambda step: decoder_loss(flow, heard, crop, random.Random(self.seed * 1_000_000 + step)),
            self.recipe[f"{name}_steps"], self.recipe[f"{name}_lr"], self.seed, scratch,
        )
        flow.eval()
        return curve

    def _features(self, source: Source, clip_id: str) -> np.ndarray:
        features = source.features(clip_id)
        return at_token_rate(features, self.rate, max(1, -(-int(len(features) * self.rate) // whisper.FRAME_RATE)))

    def _semantic(self, source: Source, clip_id: str) -> torch.Tensor:
        ids: torch.Tensor = self.network.quantiser(torch.from_numpy(self._features(source, clip_id)))
        return ids

    def _wave(self, source: Source, clip_id: str, tokens: int) -> np.ndarray:
        """The clip at the codec's output rate, exactly as long as its tokens."""
        clip, samples = source.audio[clip_id], tokens * self.config["flow"]["patch"] * self.mel.hop
        wave = torchaudio.functional.resample(torch.from_numpy(clip.audio), clip.sample_rate, self.mel.sample_rate).numpy()
        padded: np.ndarray = np.pad(wave, (0, max(0, samples - len(wave))))[:samples]
        return padded

    def _patches(self, source: Source, clip_id: str, tokens: int) -> torch.Tensor:
        return self.mel(self._wave(source, clip_id, tokens)).reshape(tokens, -1)

    def _utterance(self, source: Source, clip_id: str, codes: torch.Tensor) -> Utterance:
        wave = self._wave(source, clip_id, len(codes))
        log_mel = self.mel(wave)
        return Utterance(codes.short(), log_mel.half(), torch.from_numpy(voiceprint.voiceprint(wave, self.mel, log_mel)))


def decoder_loss(flow: Flow, heard: list[list[Utterance]], crop: int, rng: random.Random) -> torch.Tensor:
    """The flow's loss on random crops (of `crop` tokens) of random utterances, as many of each source."""
    patch = flow.config.patch
    chosen = [u for utterances in heard for u in rng.sample(utterances, BATCH // len(heard))]
    mask = torch.zeros(BATCH, crop, dtype=torch.bool)
    codes = torch.zeros(BATCH, crop, chosen[0].codes.shape[1], dtype=torch.long)
    mel = torch.zeros(BATCH, crop * patch, flow.config.bands)
    latents = torch.zeros(BATCH, crop, flow.config.latents) if chosen[0].latents is not None else None
    for row, u in enumerate(chosen):
        start = rng.randrange(max(1, len(u.codes) - crop + 1))
        part = u.codes[start : start + crop]
        codes[row, : len(part)], mask[row, : len(part)] = part.long(), True
        mel[row, : len(part) * patch] = u.mel[start * patch : (start + len(part)) * patch].float()
        if latents is not None and u.latents is not None:
            latents[row, : len(part)] = u.latents[start : start + len(part)].float()
    prints = torch.stack([u.print for u in chosen])
    return flow.loss(mel, codes, prints, mask, latents)
