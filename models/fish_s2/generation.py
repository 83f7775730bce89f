"""Generation with Fish S2: one batch, a cache for each transformer, every row as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from models.fish_s2.network import Cache, FishNetwork
from models.parts.errors import UserError
from models.parts.family import Generation, Sampling
from models.parts.sampling import draw, draw_unrepeated, generators, uniforms

# Upstream's repetition-aware sampling (fishaudio/fish-speech, fish_speech/models/text2semantic/inference.py):
# a semantic code that occurred within so many frames is drawn again, at this temperature and top-p.
WINDOW, FALLBACK_TEMPERATURE, FALLBACK_TOP_P = 10, 1.0, 0.9


@torch.inference_mode()
def generate(
    network: FishNetwork, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int],
    max_frames: Sequence[int],
) -> list[Generation]:
    """Prompts (token ids) to codes. Rows end by themselves; an ended row leaves the batch at once.

    Prompts are padded on the right and frames follow in the same cache slot for all rows: a row's mask hides the
    padding in between, and its positions count its own tokens alone. So the padding changes nothing.
    """
    config, device = network.config, network.embeddings.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    limits = [min(limit, config.max_seq_len - len(prompt)) for prompt, limit in zip(prompts, max_frames, strict=True)]
    width, sources = int(lengths.max()), generators(seeds)
    if min(limits) < 1:
        raise UserError(f"a text of {width} tokens leaves no room of {config.max_seq_len} for speech; cut it in parts")
    fallback = Sampling(FALLBACK_TEMPERATURE, sampling.top_k, FALLBACK_TOP_P)
    tokens = torch.tensor([list(prompt) + [0] * (width - len(prompt)) for prompt in prompts], device=device)
    slots = torch.arange(width + max(limits), device=device)
    visible = (slots < lengths[:, None]) | (slots >= width)
    cache = Cache(config, config.n_layer, len(prompts), len(slots), network.norm.weight)
    hidden = network.slow(tokens, tokens.new_zeros(*tokens.shape, config.num_codebooks), cache=cache)
    hidden = hidden[torch.arange(len(prompts), device=device), lengths - 1]

    frames: list[list[np.ndarray]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    finish = ["length"] * len(prompts)
    rows = list(range(len(prompts)))
    recent = torch.full((len(prompts), WINDOW), -1, device=device)
    while True:
        random = uniforms([sources[row] for row in rows], config.num_codebooks + 1)
        frame, taken = _frame(network, hidden, recent, random, sampling, fallback)
        going = []
        for place, (row, codes, steps) in enumerate(zip(rows, frame.cpu().numpy(), taken.tolist(), strict=True)):
            if codes[0] == config.stop:
                logprobs[row].append(steps[0])
                finish[row] = "stop"
                continue
            frames[row].append(codes)
            logprobs[row].extend(steps)
            if len(frames[row]) < limits[row]:
                going.append(place)
        if not going:
            break
        if len(going) < len(rows):
            rows, keep = [rows[place] for place in going], torch.tensor(going, device=device)
            frame, recent, visible, lengths = frame[keep], recent[keep], visible[keep], lengths[keep]
            cache.keep(keep)
        recent = torch.cat([recent[:, 1:], frame[:, :1]], 1)
        positions, mask = (lengths + cache.used - width)[:, None], visible[:, None, None, : cache.used + 1]
        hidden = network.slow(frame[:, :1] + config.semantic_begin_id, frame[:, None], positions, cache, mask)[:, 0]
    return [
        Generation(
            np.array(frames[row], np.int32).reshape(-1, config.num_codebooks),
            finish[row],
            np.array(logprobs[row], np.float32),
        )
        for row in range(len(prompts))
    ]


def _frame(
    network: FishNetwork, hidden: torch.Tensor, recent: torch.Tensor, random: torch.Tensor,
    sampling: Sampling, fallback: Sampling,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the next frame of every row: codes (B, K), where codebook 0 may be the stop, and their log-probabilities."""
    config = network.config
    logits = network.slow_logits(hidden)
    codes = [draw_unrepeated(logits, random[:, :2], sampling, recent, fallback)]
    taken = [_logprob(logits, codes[0])]
    cache = Cache(config.fast(), config.n_fast_layer, len(hidden), config.num_codebooks, network.norm.weight)
    # The rest of a frame that is a stop is drawn too, after some code that exists, and then thrown away.
    step = codes[0].clamp(max=config.stop - 1)
    for codebook in range(1, config.num_codebooks):
        logits = network.fast(hidden if codebook == 1 else None, step[:, None], cache)[:, -1]
        step = draw(logits, random[:, codebook + 1], sampling)
        codes.append(step)
        taken.append(_logprob(logits, step))
    return torch.stack(codes, -1), torch.stack(taken, -1)


def _logprob(logits: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    """Log-probability (B,) of `choice` (B,) in logits (B, V), before temperature and truncation."""
    return logits.float().log_softmax(-1).gather(-1, choice[:, None])[:, 0]
