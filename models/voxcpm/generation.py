"""Generation with VoxCPM: one batch, a cache for each language model, every row as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from transformers import DynamicCache

from models.parts.family import Generation, Sampling
from models.parts.sampling import generators, logprob, normals
from models.parts.takes import Takes, frames_left
from models.voxcpm.network import PATCH, VoxCPMNetwork

# OpenBMB/VoxCPM, src/voxcpm/model/voxcpm.py: the stop is not obeyed before the fourth patch; a take of so many patches a
# text token is a bad one.
MIN_PATCHES, BAD_RATIO = 3, 6


@dataclass(frozen=True)
class Request:
    """`tokens` (L,) up to where speech starts, `reference` (P, patch × latent): patches that are there already. `words`: of
    the text to say."""

    tokens: list[int]
    reference: np.ndarray
    words: int

    def __len__(self) -> int:
        return len(self.tokens) + len(self.reference)


def generate(
    network: VoxCPMNetwork, requests: Sequence[Request], sampling: Sampling, seeds: Sequence[int], max_frames: Sequence[int]
) -> list[Generation]:
    """Requests to patches. A take that does not end, or is far too long for its text, is made again with the next seed, at
    most `sampling.retries` times; the last one is kept, whatever it is."""
    takes = attempt(network, requests, sampling, seeds, max_frames)
    for retry in range(1, sampling.retries + 1):
        bad = [i for i, take in enumerate(takes) if take.finish == "length" or len(take.codes) >= BAD_RATIO * requests[i].words]
        if not bad:
            break
        again = attempt(network, [requests[i] for i in bad], sampling, [seeds[i] + retry for i in bad], [max_frames[i] for i in bad])
        for i, take in zip(bad, again, strict=True):
            takes[i] = take
    return takes


@torch.inference_mode()
def attempt(
    network: VoxCPMNetwork, requests: Sequence[Request], sampling: Sampling, seeds: Sequence[int], max_frames: Sequence[int]
) -> list[Generation]:
    """Rows end by themselves; an ended row leaves the batch at once. Prompts are padded on the left, out of sight: a row's
    positions count its own tokens alone."""
    config, device = network.config, network.device
    limits = frames_left([len(request) for request in requests], max_frames, config.max_length)
    tokens, values, mask = (tensor.to(device) for tensor in _left_padded(requests, config.frame))
    positions, caches = (mask.cumsum(1) - 1).clamp(min=0), (DynamicCache(), DynamicCache())
    takes, sources = Takes(limits, config.frame, values=True, last=True), generators(seeds)
    for step in count():
        state, residual = (states[:, -1] for states in network.states(tokens, values, caches, mask, positions))
        condition, previous = network.condition(state, residual), values[:, -1]
        logits = network.stop_logits(state).float()
        ends = logits.argmax(-1) if step >= MIN_PATCHES else torch.zeros(len(logits), dtype=torch.int64, device=device)
        # As upstream draws it, the patch's frames last.
        noise = normals(sources, config.frame).view(-1, config.latent, config.patch).transpose(1, 2).to(device)
        patches = network.feat_decoder.patches(
            condition, network.as_patches(previous), sampling.temperature * noise, sampling.guidance, sampling.euler_steps
        ).flatten(1)
        scores = network.scores(condition, previous, patches, [step] * len(patches))
        going = takes.add(patches, torch.stack([logprob(logits, ends), scores], 1), ends == 1)
        if not going:
            break
        if len(going) < len(patches):
            keep, sources = torch.tensor(going, device=device), [sources[place] for place in going]
            patches, mask, positions = patches[keep], mask[keep], positions[keep]
            for cache in caches:
                cache.batch_select_indices(keep)
        values, tokens = patches[:, None], torch.full((len(patches), 1), PATCH, device=device)
        positions, mask = positions[:, -1:] + 1, torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return takes.generations()


def _left_padded(requests: Sequence[Request], frame: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens and mask (B, L) int64, values (B, L, frame)."""
    width = max(map(len, requests))
    tokens, mask = torch.zeros(len(requests), width, dtype=torch.int64), torch.zeros(len(requests), width, dtype=torch.int64)
    values = torch.zeros(len(requests), width, frame)
    for row, request in enumerate(requests):
        start, speech = width - len(request), width - len(request.reference)
        tokens[row, start:speech], tokens[row, speech:] = torch.tensor(request.tokens), PATCH
        values[row, speech:], mask[row, start:] = torch.from_numpy(request.reference), 1
    return tokens, values, mask
