"""Generation with Voxtral: one batch, a KV cache, every row as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch
from transformers import DynamicCache

from models.parts.family import Generation, Sampling
from models.parts.sampling import draw, generators, logprob, normals, uniforms
from models.parts.takes import Takes, frames_left
from models.small.scalars import to_values
from models.voxtral.network import VoxtralNetwork
from models.voxtral.prompt import Layout


@torch.inference_mode()
def generate(
    network: VoxtralNetwork, prompts: Sequence[Layout], sampling: Sampling, seeds: Sequence[int],
    max_frames: Sequence[int],
) -> list[Generation]:
    """Prompts to codes. Rows end by themselves; an ended row leaves the batch at once.

    Prompts are padded on the left, so that every row's next frame comes last; a row's mask hides the padding, and its
    positions count its own tokens alone.
    """
    config, device = network.config, network.audio_embeddings.weight.device
    limits = frames_left([len(prompt) for prompt in prompts], max_frames, config.max_seq_len)
    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(prompt)) + prompt.tokens for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    embeds = network.embed(tokens, torch.cat([prompt.reference for prompt in prompts]).to(device))
    positions, cache = (mask.cumsum(1) - 1).clamp(min=0), DynamicCache()

    takes, sources = Takes(limits, config.codebooks), generators(seeds)
    for step in count():
        hidden = network.trunk(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        logits = network.semantic_logits(hidden).float()
        choice = draw(logits, uniforms(sources, 1)[:, 0], sampling)
        noise = normals(sources, config.n_acoustic_codebook).to(device)
        values = network.acoustic_transformer.values(hidden, noise, sampling.guidance, sampling.euler_steps)
        levels = network.acoustic_codes(values)
        score = network.acoustic_transformer.score(to_values(levels, config.acoustic_codebook_size), hidden, [step] * len(levels))
        codes = torch.cat([choice[:, None] - 1, levels], 1)
        # At the end the acoustic values mean nothing.
        going = takes.add(codes, torch.stack([logprob(logits, choice), score], 1), codes[:, 0] < 0)
        if not going:
            break
        if len(going) < len(codes):
            keep, sources = torch.tensor(going, device=device), [sources[place] for place in going]
            codes, mask, positions = codes[keep], mask[keep], positions[keep]
            cache.batch_select_indices(keep)
        embeds, positions = network.frames(codes)[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return takes.generations()
