"""Fit a tiny codec: discriminants and k-means on encoder features, then the decoder by flow matching."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from models.small import whisper
from models.small.flow import Flow
from models.small.flow_codec import token_rate
from models.small.residual_codec import ResidualNetwork
from models.small.scalar_codec import ScalarNetwork
from models.small.semantic import surroundings
from models.small.semantic_codec import SemanticNetwork
from models.small.vocoder import BANDS, Vocoder
from models.small.voiceprint import voiceprint
from stages.bases.loop import optimise
from stages.bases.voices import Phone, phone_labels
from stages.common.shards import Shards
from stages.tokenise import VOICE_CLIPS

CROP_TOKENS, CROP_SECONDS = 80, 3.2  # of a training example of the decoder: at least so many of both
BATCH = 24
FEWEST = 5  # frames of a pair of phones that count
GAIN_CLIPS = 150  # of each source: how much its bands vary
RESIDUAL_CLIPS = 4_000  # synthetic ones, for the residual codebooks
FRAMES = 60_000  # of each source, for the semantic codebook
NETWORKS: dict[str, Callable[[dict], torch.nn.Module]] = {
    "semantic-flow": SemanticNetwork, "residual-flow": ResidualNetwork, "scalar-flow": ScalarNetwork,
}  # fmt: skip


@dataclass
class Utterance:
    """What the decoder learns from: codes (T, K) int16, frames (T × patch, 80) half precision, voiceprint (160,).

    `latents` (T, W): the language model's hidden states, half precision, or None where codes alone are decoded.
    `alike` (T, K) int16: the codes of other frames of this voice, with the same semantic code at every place.
    """

    codes: torch.Tensor
    frames: torch.Tensor
    print: torch.Tensor
    latents: torch.Tensor | None = None
    alike: torch.Tensor | None = None


@dataclass(frozen=True)
class Measured:
    """Half-precision frames (n, width) of many clips in one file: where each begins, and how many they are."""

    index: dict[str, tuple[int, int]]
    stored: np.ndarray

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self.index

    def __getitem__(self, clip_id: str) -> np.ndarray:
        start, count = self.index[clip_id]
        return np.asarray(self.stored[start : start + count], np.float32)


@dataclass(frozen=True)
class Source:
    """Recordings; what the speech encoder makes of them, `features(clip id)`, (n, 384) at 50 Hz; and the vocoder,
    `analysis(clip id)`, (n, 80) at 100 Hz. `voices` says who speaks in a clip, and how fast it was played.
    """

    audio: Shards
    features: Callable[[str], np.ndarray]
    analysis: Callable[[str], np.ndarray]
    ids: list[str]
    voices: dict[str, str]


class CodecFit:
    """Fits the codec of `config`; afterwards `network` is the codec and `codes(source)` what it makes of a source."""

    def __init__(self, config: dict[str, Any], recipe: dict[str, Any]):
        self.config, self.recipe, self.seed = config, recipe, recipe["seed"]
        self.residual = config["kind"] != "semantic-flow"  # has codebooks for what the semantic one does not say
        self.vocoder = Vocoder(config["output_sample_rate"], config["hop"])
        self.rate = token_rate(config)
        torch.manual_seed(self.seed)
        self.network: Any = NETWORKS[config["kind"]](config)

    def fit_quantisers(self, spoken: Source, phones: dict[str, list[Phone]], people: Sequence[Source]) -> list[float]:
        """Quantisers from frames; returns the shares of variance explained, stage by stage.

        Which directions tell what is said is learnt from the synthetic clips with `phones` alone; where in them the entries
        lie, and how a voice sounds, from the people as well, or a person's speech would fall between the entries.
        """
        quantiser, features, labels = self.network.quantiser, [], []
        for clip_id in tqdm([i for i in spoken.ids if i in phones], desc="phones", mininterval=5):
            features.append(self._features(spoken, clip_id))
            labels += phone_labels(phones[clip_id], (np.arange(len(features[-1])) + 0.5) / self.rate)
        common = {label for label, count in Counter(labels).items() if count >= FEWEST}
        numbers = {label: number for number, label in enumerate(sorted(common))}
        kept = np.array([label in common for label in labels])
        said = torch.tensor([numbers[label] for label in labels if label in common])
        quantiser.fit_discriminants(torch.from_numpy(np.concatenate(features)[kept]), said)
        explained = [quantiser.fit_entries(self._frames([spoken, *people]), self.seed)]
        if self.residual:
            thinned = spoken.ids[:: -(-len(spoken.ids) // RESIDUAL_CLIPS)]
            clips = [(spoken, i) for i in thinned] + [(source, i) for source in people for i in source.ids]
            semantic = [self._semantic(source, clip_id) for source, clip_id in clips]
            patches = [self._patches(source, clip_id, len(s)) for (source, clip_id), s in zip(clips, semantic, strict=True)]
            explained += self.network.residual.fit(torch.cat(patches), torch.cat(semantic), self.seed)
        return explained

    def _frames(self, sources: Sequence[Source]) -> torch.Tensor:
        """What the semantic codebook is fitted to: points (N, D), as many from each source."""
        rng, chosen = random.Random(self.seed), []
        for source in sources:
            some, count = [], 0
            for clip_id in rng.sample(source.ids, len(source.ids)):
                if count >= FRAMES:
                    break
                some.append(torch.from_numpy(self.points(source, clip_id)))
                count += len(some[-1])
            repeats = -(-FRAMES // count)  # the smaller ones are heard again
            chosen.append(torch.cat(some).repeat(repeats, 1)[:FRAMES])
        return torch.cat(chosen)

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
            stored = sorted(ids, key={clip_id: at for at, clip_id in enumerate(source.ids)}.__getitem__)  # quick to read
            found = {i: self._utterance(source, i, codes[i]) for i in tqdm(stored, desc="frames", mininterval=5)}
            give_voice_statistics(found, source.voices)
            if self.residual:
                give_alike_frames(found, source.voices, self.seed)
            heard.append([found[i] for i in ids])
        flow = self.network.flow
        start_from_codebooks(self.network, self.seed)
        flow.average.copy_(torch.stack([torch.stack([u.print for u in utterances]).mean(0) for utterances in heard]).mean(0))
        codes_alone = [p for name, p in flow.named_parameters() if not name.startswith("latent.")]
        curve = self._fit("decoder", codes_alone, heard, scratch)
        flow.fit_gain([(u.frames.float(), u.codes.long(), u.print) for utterances in heard for u in utterances[:GAIN_CLIPS]])
        return curve

    def fit_latents(self, source: Source, codes: dict[str, torch.Tensor], latents: dict[str, np.ndarray], scratch: Path) -> list[dict]:
        """Train the layer through which `latents` (T, W) by clip enter the finished flow, and nothing else of it.

        It starts at zero, where the decoder hears codes alone: what they say already is not learnt anew.
        """
        layer = self.network.flow.latent
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        utterances = {i: self._utterance(source, i, codes[i]) for i in tqdm(latents, desc="frames", mininterval=5)}
        give_voice_statistics(utterances, source.voices)
        for clip_id, hidden in latents.items():
            utterances[clip_id].latents = torch.from_numpy(hidden).half()
        return self._fit("latents", list(layer.parameters()), [list(utterances.values())], scratch)

    def points(self, source: Source, clip_id: str) -> np.ndarray:
        """What is quantised of a clip: float32 (T, D)."""
        with torch.autocast("cpu", enabled=False):  # the codec hears prompts in full precision, too
            points: np.ndarray = self.network.quantiser.points(torch.from_numpy(self._features(source, clip_id))).numpy()
        return points

    def _fit(self, name: str, parameters: list[torch.nn.Parameter], heard: list[list[Utterance]], scratch: Path) -> list[dict]:
        flow, crop = self.network.flow, max(CROP_TOKENS, round(CROP_SECONDS * self.rate))
        flow.train()
        curve = optimise(
            name, parameters, lambda step: decoder_loss(flow, heard, crop, random.Random(self.seed * 1_000_000 + step)),
            self.recipe[f"{name}_steps"], self.recipe[f"{name}_lr"], self.seed, scratch,
        )
        flow.eval()
        return curve

    def _features(self, source: Source, clip_id: str) -> np.ndarray:
        features = source.features(clip_id)
        return surroundings(features, self.rate, max(1, -(-int(len(features) * self.rate) // whisper.FRAME_RATE)))

    def _semantic(self, source: Source, clip_id: str) -> torch.Tensor:
        ids: torch.Tensor = self.network.quantiser(torch.from_numpy(self._features(source, clip_id)))
        return ids

    def _patches(self, source: Source, clip_id: str, tokens: int) -> torch.Tensor:
        return self.vocoder.frames(source.analysis(clip_id), tokens * self.config["flow"]["patch"]).reshape(tokens, -1)

    def _utterance(self, source: Source, clip_id: str, codes: torch.Tensor) -> Utterance:
        analysis = source.analysis(clip_id)
        frames = self.vocoder.frames(analysis, len(codes) * self.config["flow"]["patch"])
        return Utterance(codes.short(), frames.half(), torch.from_numpy(voiceprint(analysis)))


@torch.no_grad()
def start_from_codebooks(network: Any, seed: int) -> None:
    """The decoder's tables start as random projections of the codebooks: entries that are alike start alike.

    From unrelated rows it learns every entry by itself (loss after 250 steps 0.63 instead of 0.54).
    """
    generator, tables, width = torch.Generator().manual_seed(seed), network.flow.embed, network.flow.config.width

    def projection(size: int) -> torch.Tensor:
        return torch.randn(size, width, generator=generator) / size**0.5

    entries = network.quantiser.entries
    tables[0].weight.copy_((entries - entries.mean(0)) / entries.std() @ projection(entries.shape[1]))
    if isinstance(network, ResidualNetwork):
        means, stages = network.residual.means, network.residual.stages
        shared = projection(means.shape[1]) / stages[0].std()
        tables[0].weight.add_((means - means.mean(0)) @ shared)
        for table, stage in zip(tables[1:], stages, strict=True):
            table.weight.copy_(stage @ shared)


def by_voice(utterances: dict[str, Utterance], voices: dict[str, str]) -> list[list[Utterance]]:
    """The utterances of each voice."""
    members: dict[str, list[Utterance]] = {}
    for clip_id, utterance in utterances.items():
        members.setdefault(voices[clip_id], []).append(utterance)
    return list(members.values())


def give_voice_statistics(utterances: dict[str, Utterance], voices: dict[str, str]) -> None:
    """Every utterance gets the voiceprint of its voice, as in decoding, where its own is not known."""
    for some in by_voice(utterances, voices):
        voice = torch.stack([u.print for u in sorted(some, key=lambda u: -len(u.codes))[:VOICE_CLIPS]]).mean(0)
        for utterance in some:
            utterance.print = voice


def give_alike_frames(utterances: dict[str, Utterance], voices: dict[str, str], seed: int) -> None:
    """Every utterance gets a second reading: at each frame all codes of a random one of its voice with its semantic code.

    A language model's residual codes fit the voice and the sound, and seldom this very frame. A decoder that has heard
    exact ones alone trusts them for what is said, and loses words when they are guessed.
    """
    generator = torch.Generator().manual_seed(seed)
    for some in by_voice(utterances, voices):
        codes = torch.cat([u.codes for u in some])
        semantic = codes[:, 0].long()
        counts, order = semantic.bincount(), semantic.argsort(stable=True)
        place = (torch.rand(len(codes), generator=generator) * counts[semantic]).long()  # among those with the same code
        alike = codes[order[(counts.cumsum(0) - counts)[semantic] + place]]
        for utterance, part in zip(some, alike.split([len(u.codes) for u in some]), strict=True):
            utterance.alike = part


def decoder_loss(flow: Flow, heard: list[list[Utterance]], crop: int, rng: random.Random) -> torch.Tensor:
    """The flow's loss on random crops (of `crop` tokens) of random utterances, as many of each source.

    Where there are residual codes, a random share of each crop's frames has those of frames that are alike.
    """
    patch = flow.config.patch
    chosen = [u for utterances in heard for u in rng.choices(utterances, k=BATCH // len(heard))]
    mask = torch.zeros(BATCH, crop, dtype=torch.bool)
    codes = torch.zeros(BATCH, crop, chosen[0].codes.shape[1], dtype=torch.long)
    frames = torch.zeros(BATCH, crop * patch, BANDS)
    latents = torch.zeros(BATCH, crop, flow.config.latents) if chosen[0].latents is not None else None
    for row, u in enumerate(chosen):
        start = rng.randrange(max(1, len(u.codes) - crop + 1))
        part = u.codes[start : start + crop]
        if u.alike is not None:
            guessed = torch.rand(len(part), 1) < torch.rand(1)
            part = torch.where(guessed, u.alike[start : start + crop], part)
        codes[row, : len(part)], mask[row, : len(part)] = part.long(), True
        frames[row, : len(part) * patch] = u.frames[start * patch : (start + len(part)) * patch].float()
        if latents is not None and u.latents is not None:
            latents[row, : len(part)] = u.latents[start : start + len(part)].float()
    prints = torch.stack([u.print for u in chosen])
    return flow.loss(frames, codes, prints, mask, latents)
