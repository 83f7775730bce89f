"""Generation with IndexTTS2: one batch, one cache, every row as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import DynamicCache

from models.indextts2.network import UnifiedVoice
from models.parts import sampling as drawing
from models.parts.family import Generation, Sampling
from models.parts.takes import Takes


@torch.no_grad()
def generate(
    network: UnifiedVoice, texts: Sequence[Sequence[int]], condition: torch.Tensor, emotion: torch.Tensor,
    sampling: Sampling, seeds: Sequence[int], max_frames: Sequence[int],
) -> list[Generation]:  # fmt: skip
    """Text ids (with start and stop) to codes, under one prompt: condition (N, W), emotion (W,).

    Rows are padded on the left, so that every row's next position is the last; an ended row leaves the batch at once.
    The code of step k stands at speech position k + 1, as in training. (Upstream's cached generation leaves position
    1 out.)
    """
    device, config = network.device, network.config
    limits = [min(limit, config["max_mel_tokens"]) for limit in max_frames]
    prompt = network.prompt(condition[None], emotion[None])[0]
    start = network.mel_embedding.weight[config["start_mel_token"]] + network.mel_pos_embedding(1)[0]
    width = len(prompt) + max(map(len, texts)) + 1
    embeds = prompt.new_zeros(len(texts), width, prompt.shape[1])
    mask = torch.zeros(len(texts), width, dtype=torch.long, device=device)
    for row, ids in enumerate(texts):
        written = network.text_embedding(torch.tensor(ids, device=device)) + network.text_pos_embedding(len(ids))
        embeds[row, width - len(prompt) - len(ids) - 1 :] = torch.cat([prompt, written, start[None]])
        mask[row, width - len(prompt) - len(ids) - 1 :] = 1

    sources, takes, cache = drawing.generators(seeds), Takes(limits, 1), DynamicCache()
    latents: list[list[torch.Tensor]] = [[] for _ in texts]  # they leave the device at the end, all at once
    for step in range(max(limits)):
        states = network.gpt(inputs_embeds=embeds, attention_mask=mask, past_key_values=cache, use_cache=True)
        hidden = network.final_norm(states.last_hidden_state[:, -1])
        logits = network.mel_head(hidden).float()
        allowed = logits.clone()
        allowed[:, config["start_mel_token"]] = -torch.inf  # never a label
        token = drawing.draw(allowed, drawing.uniforms([sources[row] for row in takes.rows], 1)[:, 0], sampling)
        for row, state in zip(takes.rows, hidden.float(), strict=True):
            latents[row].append(state)
        going = takes.add(token[:, None], drawing.logprob(logits, token)[:, None], token == network.stop)
        if not going:
            break
        if len(going) < len(token):
            keep = torch.tensor(going, device=device)
            token, mask = token[keep], mask[keep]
            cache.batch_select_indices(keep)
        embeds = (network.mel_embedding(token) + network.mel_pos_embedding.emb.weight[step + 1])[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    # The state that decided the stop belongs to no code.
    return [
        replace(take, latents=torch.stack(states)[: len(take.codes)].cpu().numpy())
        for take, states in zip(takes.generations(), latents, strict=True)
    ]
