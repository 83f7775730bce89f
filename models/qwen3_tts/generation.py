"""Generation with Qwen3-TTS: one batch, a cache for each transformer, every row as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch
from transformers import DynamicCache

from models.parts.family import Generation, Sampling
from models.parts.sampling import draw, generators, logprob, uniforms
from models.parts.takes import Takes, frames_left
from models.qwen3_tts.network import Qwen3TTSNetwork
from models.qwen3_tts.prompt import NOTHING, Layout

# QwenLM/Qwen3-TTS, qwen_tts/core/models/modeling_qwen3_tts.py: no take ends before this many frames, and an entry of
# codebook 0 that the take has already used gets less likely by this factor.
MIN_FRAMES, REPETITION_PENALTY = 2, 1.05


@torch.inference_mode()
def generate(
    network: Qwen3TTSNetwork, prompts: Sequence[Layout], speaker: torch.Tensor, sampling: Sampling,
    seeds: Sequence[int], max_frames: Sequence[int],
) -> list[Generation]:
    """Prompts and one speaker vector (E,) to codes. Rows end by themselves; an ended row leaves the batch at once.

    Prompts are padded on the left, out of sight: a row's positions count its own tokens alone.
    """
    device, stop, pad = network.device, network.ids.codes, network.ids.tts_pad
    width = max(map(len, prompts))
    limits = frames_left([len(prompt) for prompt in prompts], max_frames, network.max_length)
    text = torch.zeros(len(prompts), width, dtype=torch.int64)
    codec = torch.full((len(prompts), width, network.codebooks), NOTHING)
    mask = torch.zeros(len(prompts), width, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        start = width - len(prompt)
        text[row, start:], codec[row, start:], mask[row, start:] = prompt.text, prompt.codec, 1
    text, codec, mask = text.to(device), codec.to(device), mask.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    speakers = speaker.to(device).expand(len(prompts), -1)
    used = torch.zeros(len(prompts), stop + 1, dtype=torch.bool, device=device)
    cache, sources, takes = DynamicCache(), generators(seeds), Takes(limits, network.codebooks)
    for step in count():
        hidden = network.talker.model.run(network.embed(text, codec, speakers), cache, mask, positions)[:, -1]
        random = uniforms([sources[row] for row in takes.rows], network.codebooks)
        frame, taken = _frame(network, hidden, used, step >= MIN_FRAMES, random, sampling)
        going = takes.add(frame, taken, frame[:, 0] == stop)
        if not going:
            break
        if len(going) < len(frame):
            keep = torch.tensor(going, device=device)
            frame, used, mask, positions, speakers = (t[keep] for t in (frame, used, mask, positions, speakers))
            cache.batch_select_indices(keep)
        used = used.scatter(1, frame[:, :1], True)
        along = [prompts[row].following[step : step + 1] or [pad] for row in takes.rows]
        text, codec = torch.tensor(along, device=device), frame[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        positions = positions[:, -1:] + 1
    return takes.generations()


def _frame(
    network: Qwen3TTSNetwork, hidden: torch.Tensor, used: torch.Tensor, may_stop: bool, random: torch.Tensor,
    sampling: Sampling,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the next frame of every row: codes (B, K), where codebook 0 may be the stop, and their log-probabilities."""
    predictor, stop = network.talker.code_predictor, network.ids.codes
    logits = network.first_logits(hidden).float()
    less = torch.where(logits > 0, logits / REPETITION_PENALTY, logits * REPETITION_PENALTY)
    penalised = torch.where(used, less, logits)
    if not may_stop:
        penalised[:, stop] = -torch.inf
    codes = [draw(penalised, random[:, 0], sampling)]
    taken = [logprob(logits, codes[0])]
    # The rest of a frame that is a stop is drawn too, after some code that exists, and then thrown away.
    embeds = torch.stack([hidden, network.embed_first(codes[0].clamp(max=stop - 1))], 1)
    cache = DynamicCache()
    for codebook, head in enumerate(predictor.lm_head, start=1):
        logits = head(predictor.run(embeds, cache)[:, -1])
        codes.append(draw(logits, random[:, codebook], sampling))
        taken.append(logprob(logits, codes[-1]))
        embeds = predictor.model.codec_embedding[codebook - 1](codes[-1])[:, None]
    return torch.stack(codes, -1), torch.stack(taken, -1)
