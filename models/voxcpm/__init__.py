"""VoxCPM 1.5: a language model whose state a diffusion transformer draws patches of continuous latents from (paradigm D)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from models.parts.evaluating import evaluating
from models.parts.family import AdaptSettings, Codec, Contract, Example, Generation, Loss, Sampling, Voice
from models.parts.peft_lora import PeftFamily
from models.parts.sampling import generators, logprob
from models.parts.takes import check_length
from models.parts.text import token_id
from models.parts.weights import check_facts, draw_weights
from models.small.phones import phone_tokenizer
from models.voxcpm import dataset, generation
from models.voxcpm.adapter import target_layers
from models.voxcpm.config import VoxCPMConfig
from models.voxcpm.generation import Request
from models.voxcpm.network import PATCH, VoxCPMNetwork
from models.voxcpm.released.files import REPOSITORY, VAE

IGNORED, GOES_ON, LAST = -100, 0, 1
# OpenBMB/VoxCPM, src/voxcpm/modules/locdit/unified_cfm.py: share of the patches that train without the state, and where a
# patch is on its way from data to noise, before the logistic function.
WITHOUT_STATE = 0.1
TIME_MEAN, TIME_SPREAD = -0.4, 1.0
# Of a tiny base: its only control token, how loud words start (as loud as patches do), and noise on what it reads.
START, LOUDNESS, MOST_NOISE = "<|audio_start|>", 0.6, 0.5


class VoxCPM(PeftFamily):
    name = "voxcpm"
    decisions = ("stop", "patch")

    # --- data -----------------------------------------------------------------------------------------------------
    def codec(self, weights: Path) -> Codec:
        """The released codec where the folder has one, else the tiny base's."""
        from models.voxcpm.codec import VoxCPMCodec
        from models.voxcpm.released.codec import ReleasedCodec

        return ReleasedCodec(weights) if (weights / VAE).is_file() else VoxCPMCodec(weights / "codec")

    def check_release(self, weights: Path) -> None:
        from models.voxcpm.released.check import check_release

        check_release(weights)

    def write(self, examples: Sequence[Example], folder: Path) -> None:
        dataset.write(examples, folder)

    def read(self, folder: Path) -> list[Example]:
        return dataset.read(folder)

    # --- network --------------------------------------------------------------------------------------------------
    def network(
        self, weights: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> VoxCPMNetwork:
        return VoxCPMNetwork.load(weights, dtype, device)

    def create(self, config: dict[str, Any], seed: int) -> VoxCPMNetwork:
        """`config` is config.json without the tokens."""
        tokenizer, source = phone_tokenizer([START]), torch.Generator().manual_seed(seed)
        words = {"vocab_size": tokenizer.get_vocab_size()}
        values = config | {"lm_config": config["lm_config"] | words, "audio_start_token": token_id(tokenizer, START)}
        network = VoxCPMNetwork(VoxCPMConfig(values), tokenizer)
        draw_weights(network, source, LOUDNESS)
        nn.init.normal_(network.feat_encoder.special_token, generator=source)
        return network

    def save(self, network: nn.Module, folder: Path) -> None:
        assert isinstance(network, VoxCPMNetwork)
        network.save(folder)

    def export(self, network: nn.Module, voice: Voice, weights: Path, folder: Path) -> None:
        from models.voxcpm.released.export import write

        assert isinstance(network, VoxCPMNetwork)
        if (weights / VAE).is_file():
            write(weights, network, folder)
        else:
            super().export(network, voice, weights, folder)

    def export_adapter(
        self, state: dict[str, torch.Tensor], settings: AdaptSettings, scale: float, weights: Path, folder: Path
    ) -> None:
        from models.voxcpm.adapter import write

        if (weights / VAE).is_file():
            write(state, settings, scale, REPOSITORY["id"], folder)

    def write_release(self, folder: Path, size: str) -> None:
        from models.voxcpm.released import rehearsal

        rehearsal.write(folder, size)

    def add_lora(self, network: nn.Module, settings: AdaptSettings) -> None:
        super().add_lora(network, _resolved(network, settings))

    def merge_lora(
        self, network: nn.Module, state: dict[str, torch.Tensor], settings: AdaptSettings, scale: float
    ) -> None:
        super().merge_lora(network, state, _resolved(network, settings), scale)

    def batch(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """`tokens` (B, L) int64 and `values` (B, L, K) float32 are the input: prompt, then patches (tokens: PATCH).

        `labels` (B, L) is the stop's decision at each position (goes on, last, or -100: none) and `targets` (B, L, K) the
        patch that follows it. `seeds` (B,) decides time and noise of a loss in eval mode, by the utterance alone.
        """
        assert isinstance(network, VoxCPMNetwork)
        nothing = np.zeros((0, network.config.frame), np.float32)
        for example in examples:
            example.check((), network.config.frame)
        prompts = [network.prompt(example.text) for example in examples]
        return _pad(network, [(prompt, nothing, example.codes, True) for prompt, example in zip(prompts, examples, strict=True)])

    def base_batch(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Patches are read with some noise on them, more in some utterances than in others: those that generation reads are
        not as clean as recordings either, and small errors would add up."""
        batch = self.batch(network, examples)
        noise = MOST_NOISE * torch.rand(len(examples), 1, 1) * torch.randn_like(batch["values"])
        is_patch = (batch["tokens"] == PATCH)[..., None]
        return batch | {"values": batch["values"] + is_patch * noise}

    def blank(self, network: nn.Module, text: str, frames: int) -> Example:
        assert isinstance(network, VoxCPMNetwork)
        return Example("", text, "", np.zeros((frames, network.config.frame), np.float32))

    def loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> Loss:
        """The mean squared error of the velocity, plus the mean over the stop's decisions (both with weight 1).

        In eval mode time and noise are the utterance's own and no state is left out, so that the same weights always have
        the same loss (upstream's validation draws all three).
        """
        return self.base_loss(network, batch)[0]

    def base_loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[Loss, torch.Tensor]:
        assert isinstance(network, VoxCPMNetwork)
        logits, ends, condition, previous, wanted = decisions(network, batch)
        noise, time = _draws(network, batch, wanted)
        told = (torch.rand_like(time) >= WITHOUT_STATE)[:, None] if network.training else 1
        diffusion = velocity_error(network, condition * told, previous, wanted, noise, time)
        stop = F.cross_entropy(logits.float(), ends)
        return Loss(diffusion + stop, {"diffusion": diffusion.item(), "stop": stop.item()}, ends.numel()), condition

    def generate(
        self, network: nn.Module, texts: Sequence[str], voice: Voice, sampling: Sampling, seeds: Sequence[int],
        max_frames: Sequence[int],
    ) -> list[Generation]:
        """A voice with a reference goes on from it, as upstream's own prompts do. Training has none."""
        assert isinstance(network, VoxCPMNetwork)
        with evaluating(network):
            requests = [_request(network, text, voice) for text in texts]
            return generation.generate(network, requests, sampling, seeds, max_frames)

    @torch.no_grad()
    def decision_logprobs(self, network: nn.Module, text: str, voice: Voice, generation: Generation) -> np.ndarray:
        assert isinstance(network, VoxCPMNetwork)
        request = _request(network, text, voice)
        batch = _pad(network, [(request.tokens, request.reference, generation.codes, generation.finish == "stop")])
        with evaluating(network):
            logits, ends, condition, previous, wanted = decisions(network, {k: v.to(network.device) for k, v in batch.items()})
            scores = network.scores(condition, previous.flatten(1), wanted.flatten(1), range(len(wanted)))
        both: np.ndarray = torch.stack([logprob(logits, ends), scores], 1).flatten().cpu().numpy()
        return both

    def check_shapes(self, network: nn.Module, contract: Contract) -> None:
        assert isinstance(network, VoxCPMNetwork)
        config, last = network.config, max(network.prompt.tokenizer.get_vocab().values())
        check_facts(self.name, [
            (contract.vocabulary == (), config.frame, f"values a patch, but the codec has codes ({contract.vocabulary})"),
            (contract.codebooks == config.frame, config.frame, f"values a patch, but the codec {contract.codebooks}"),
            (last < config.words, config.words, f"text embeddings, but the last token is {last}"),
            (config.audio_start < config.words, config.words, f"text embeddings, but speech starts with token {config.audio_start}"),
        ])  # fmt: skip


FAMILY = VoxCPM


def decisions(
    network: VoxCPMNetwork, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What generation decides, teacher-forced, for each of N patches: the stop's logits (N, 2) and choices (N,), the condition
    (N, width) and previous patch (N, patch, latent) that it is drawn from, and itself (N, patch, latent).

    The state that stands one position before a patch decides it. Right-padded and causal: no real position sees padding.
    """
    state, residual = network.states(batch["tokens"], batch["values"])
    decides = batch["labels"] != IGNORED
    state, residual = state[decides], residual[decides]
    # Where speech starts there is no patch, so the first one follows zeros, as upstream has it.
    previous, wanted = (network.as_patches(batch[name][decides]) for name in ("values", "targets"))
    return network.stop_logits(state), batch["labels"][decides], network.condition(state, residual), previous, wanted


def velocity_error(
    network: VoxCPMNetwork, condition: torch.Tensor, previous: torch.Tensor, wanted: torch.Tensor, noise: torch.Tensor,
    time: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Mean squared error of the velocity of patches `wanted` (N, patch, latent) that are on their way to `noise` since `time` (N,)."""
    at = wanted + time[:, None, None] * (noise - wanted)
    return F.mse_loss(network.feat_decoder.estimator(at, time, condition, previous), noise - wanted)


def _draws(
    network: VoxCPMNetwork, batch: dict[str, torch.Tensor], wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise (N, patch, latent) and time (N,) of each patch: new ones in training, else each utterance's own."""
    if network.training:
        return torch.randn_like(wanted), torch.sigmoid(TIME_MEAN + TIME_SPREAD * torch.randn_like(wanted[:, 0, 0]))
    counts = (batch["labels"] != IGNORED).sum(1).tolist()
    sources = list(zip(generators(batch["seeds"].tolist()), counts, strict=True))
    noise = torch.cat([torch.randn(count, *wanted.shape[1:], generator=source) for source, count in sources])
    time = torch.cat([torch.randn(count, generator=source) for source, count in sources])
    return noise.to(wanted.device), torch.sigmoid(TIME_MEAN + TIME_SPREAD * time).to(wanted.device)


def _resolved(network: nn.Module, settings: AdaptSettings) -> AdaptSettings:
    return replace(settings, targets=tuple(target_layers(network, settings.targets)))


def _request(network: VoxCPMNetwork, text: str, voice: Voice) -> Request:
    reference = voice.prompts[0] if voice.prompts else None
    if reference is None:
        codes, before = np.zeros((0, network.config.frame), np.float32), ""
    else:
        reference.check((), network.config.frame)
        codes, before = reference.codes, reference.text
    return Request(network.prompt(text, before), codes, len(network.prompt.words(text)))


def _pad(
    network: VoxCPMNetwork, takes: Sequence[tuple[list[int], np.ndarray, np.ndarray, bool]]
) -> dict[str, torch.Tensor]:
    """Prompt, patches of a reference, patches, and whether the last one ends it. The one place where labels are shifted:
    position p decides what stands at p + 1. Padded on the right. (Upstream also has a token where speech ends, which nothing
    sees.)"""
    length = max(len(prompt) + len(reference) + len(patches) for prompt, reference, patches, _ in takes)
    check_length(length, network.config.max_length)
    tokens, labels = torch.zeros(len(takes), length, dtype=torch.int64), torch.full((len(takes), length), IGNORED)
    values = torch.zeros(len(takes), length, network.config.frame)
    targets = torch.zeros_like(values)
    for row, (prompt, reference, patches, ends) in enumerate(takes):
        speech = torch.from_numpy(np.concatenate([reference, patches]))
        start, end = len(prompt), len(prompt) + len(speech)
        first = end - len(patches)
        tokens[row, :start], tokens[row, start:end] = torch.tensor(prompt), PATCH
        values[row, start:end] = speech
        labels[row, first - 1 : end - 1] = GOES_ON
        labels[row, end - 2] = LAST if ends else GOES_ON
        targets[row, first - 1 : end - 1] = speech[len(reference) :]
    seeds = torch.tensor([zlib.crc32(np.ascontiguousarray(patches, "<f4").tobytes()) for _, _, patches, _ in takes])
    return {"tokens": tokens, "values": values, "labels": labels, "targets": targets, "seeds": seeds}


