"""Generation with IndexTTS2: one batch, one cache, every row as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from transformers import DynamicCache

from models.indextts2.network import UnifiedVoice
from models.parts import sampling as drawing
from models.parts.family import Generation, Sampling
from models.parts.takes import Takes

POSITIONS = {"contiguous": 0, "cached": 1}  # how many are left out behind the start
# Upstream's sequences hold this id where the prompt stands, so that its repetition penalty counts it as said.
PLACEHOLDER = 1


@torch.no_grad()
def generate(
    network: UnifiedVoice, texts: Sequence[Sequence[int]], condition: torch.Tensor, emotion: torch.Tensor,
    sampling: Sampling, seeds: Sequence[int], max_frames: Sequence[int],
) -> list[Generation]:  # fmt: skip
    """Text ids (with start and stop) to codes, under one prompt: condition (N, W), emotion (W,).

    Rows are padded on the left, so that every row's next position is the last; an ended row leaves the batch at once.
    The code of step k stands at speech position k + 1, as in training. With `sampling.positions` "cached" it stands at k + 2:
    upstream's cached generation leaves position 1 out. Its hidden states then come of a second pass without cache, which has
    the positions of training, there and here.
    """
    device, config = network.device, network.config
    skipped = POSITIONS[sampling.positions]
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
    said = torch.full((len(texts), 1), PLACEHOLDER, device=device)
    for step in range(max(limits)):
        states = network.gpt(inputs_embeds=embeds, attention_mask=mask, past_key_values=cache, use_cache=True)
        hidden = network.final_norm(states.last_hidden_state[:, -1])
        logits = network.mel_head(hidden).float()
        allowed = drawing.penalised(logits, said, sampling.repetition_penalty)
        allowed[:, config["start_mel_token"]] = -torch.inf  # never a label
        token = drawing.draw(allowed, drawing.uniforms([sources[row] for row in takes.rows], 1)[:, 0], sampling)
        for row, state in zip(takes.rows, hidden.float(), strict=True):
            latents[row].append(state)
        going = takes.add(token[:, None], drawing.logprob(logits, token)[:, None], token == network.stop)
        if not going:
            break
        if len(going) < len(token):
            keep = torch.tensor(going, device=device)
            token, mask, said = token[keep], mask[keep], said[keep]
            cache.batch_select_indices(keep)
        said = torch.cat([said, token[:, None]], 1)
        embeds = (network.mel_embedding(token) + network.mel_pos_embedding.emb.weight[step + 1 + skipped])[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    if skipped:
        return [replace(take, latents=second_pass(network, ids, take.codes, condition, emotion)) for take, ids in zip(takes.generations(), texts, strict=True)]
    # The state that decided the stop belongs to no code.
    return [
        replace(take, latents=torch.stack(states)[: len(take.codes)].cpu().numpy())
        for take, states in zip(takes.generations(), latents, strict=True)
    ]


def second_pass(network: UnifiedVoice, ids: Sequence[int], codes: np.ndarray, condition: torch.Tensor, emotion: torch.Tensor) -> np.ndarray:
    """The hidden states (T, W) that decide codes (T, 1), teacher-forced: float32."""
    text = torch.tensor([list(ids)], device=network.device)
    speech = torch.tensor([[network.config["start_mel_token"], *codes[:, 0].tolist()]], device=network.device)
    lengths = torch.tensor([[text.shape[1], speech.shape[1]]], device=network.device)
    hidden = network.hidden(network.embed(condition[None], emotion[None], text, speech, lengths))
    first = network.prompt_length + text.shape[1]
    states: np.ndarray = hidden[0, first : first + len(codes)].float().cpu().numpy()
    return states
