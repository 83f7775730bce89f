"""Generation with Voxtral: one batch, a KV cache, every row as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import DynamicCache

from models.parts.errors import UserError
from models.parts.family import Generation, Sampling
from models.parts.sampling import draw, generators, normals, uniforms
from models.voxtral.network import VoxtralNetwork


@torch.inference_mode()
def generate(
    network: VoxtralNetwork, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int],
    max_frames: Sequence[int],
) -> list[Generation]:
    """Prompts (token ids) to codes. Rows end by themselves; an ended row leaves the batch at once.

    Prompts are padded on the left, so that every row's next frame comes last; a row's mask hides the padding, and its
    positions count its own tokens alone.
    """
    config, device = network.config, network.audio_embeddings.weight.device
    limits = [min(limit, config.max_seq_len - len(prompt)) for prompt, limit in zip(prompts, max_frames, strict=True)]
    width = max(map(len, prompts))
    if min(limits) < 1:
        raise UserError(f"a text of {width} tokens leaves no room of {config.max_seq_len} for speech; cut it in parts")
    tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    embeds, positions, cache = network.trunk.embed_tokens(tokens), (mask.cumsum(1) - 1).clamp(min=0), DynamicCache()

    frames: list[list[np.ndarray]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    finish = ["length"] * len(prompts)
    rows, sources = list(range(len(prompts))), generators(seeds)
    while True:
        hidden = network.trunk(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        logits = network.semantic_logits(hidden).float()
        choice = draw(logits, uniforms(sources, 1)[:, 0], sampling)
        noise = normals(sources, config.n_acoustic_codebook).to(device)
        values = network.acoustic_transformer.values(hidden, noise, sampling.guidance, sampling.euler_steps)
        codes = torch.cat([choice[:, None] - 1, network.acoustic_codes(values)], 1)
        taken = logits.log_softmax(-1).gather(-1, choice[:, None])[:, 0]
        going = []
        for place, (row, frame, logprob) in enumerate(zip(rows, codes.cpu().numpy(), taken.tolist(), strict=True)):
            logprobs[row].append(logprob)
            if frame[0] < 0:  # the end; its acoustic values mean nothing
                finish[row] = "stop"
                continue
            frames[row].append(frame)
            if len(frames[row]) < limits[row]:
                going.append(place)
        if not going:
            break
        if len(going) < len(rows):
            keep = torch.tensor(going, device=device)
            rows, sources = [rows[place] for place in going], [sources[place] for place in going]
            codes, mask, positions = codes[keep], mask[keep], positions[keep]
            cache.batch_select_indices(keep)
        embeds, positions = network.frames(codes)[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return [
        Generation(
            np.array(frames[row], np.int32).reshape(-1, config.codebooks), finish[row],
            np.array(logprobs[row], np.float32),
        )
        for row in range(len(prompts))
    ]
