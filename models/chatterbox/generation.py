"""Generation with T3: one batch with a cache, classifier-free guidance where it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from models.chatterbox.network import T3, positions
from models.parts.family import Generation, Sampling
from models.parts.sampling import draw, generators, logprob, penalised, uniforms
from models.parts.takes import cut


@torch.no_grad()
def generate(
    network: T3, batch: dict[str, torch.Tensor], sampling: Sampling, seeds: Sequence[int], limits: Sequence[int]
) -> list[Generation]:
    """`batch` as of `T3.embed`, its `speech` the two starts; at most `limits[i]` codes for row i.

    With guidance w every utterance has a second row without its text, and tokens are drawn from
    `told + w × (told − untold)`, once what was said already is penalised. The log-probabilities are those of the row with
    the text: what training scores.
    """
    config, rows, device = network.config, len(seeds), network.speech_emb.weight.device
    without_text = torch.zeros(rows, dtype=torch.bool, device=device)
    if sampling.guidance:
        batch = {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()}
        without_text = torch.cat([without_text, ~without_text])
    embeds, mask = network.embed(batch, without_text)
    places, cache, sources = positions(mask), DynamicCache(), generators(seeds)
    ends = torch.tensor(list(limits), device=device)
    stopped = torch.full((rows,), -1, device=device)
    # Start and the rows that no token has are never labels.
    banned = torch.ones(config.speech_tokens_dict_size, dtype=torch.bool, device=device)
    banned[: config.start_speech_token] = banned[config.stop_speech_token] = False
    codes: list[torch.Tensor] = []
    logprobs: list[torch.Tensor] = []
    for step in range(int(ends.max()) + 1):
        hidden = network.tfmr(
            inputs_embeds=embeds, attention_mask=mask.long(), position_ids=places, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        scores = network.speech_head(hidden).float()
        told = scores[:rows]
        logits = told + sampling.guidance * (told - scores[rows:]) if sampling.guidance else told
        if sampling.repetition_penalty > 1 and codes:
            logits = penalised(logits, torch.stack(codes, 1), sampling.repetition_penalty)
        token = draw(logits.masked_fill(banned, -torch.inf), uniforms(sources, 1)[:, 0], sampling)
        codes.append(token)
        logprobs.append(logprob(told, token))
        stopped = torch.where((stopped < 0) & (token == config.stop_speech_token), step, stopped)
        if bool(((stopped >= 0) | (ends <= step)).all()):
            break
        embeds = (network.speech_emb(token) + network.speech_pos_emb(torch.full_like(token, step + 1)))[:, None]
        embeds = embeds.repeat(len(mask) // rows, 1, 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        places = places[:, -1:] + 1
    return cut(codes, logprobs, stopped, limits)
