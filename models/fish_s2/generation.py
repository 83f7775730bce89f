"""Generation with Fish S2: one batch, a cache for each transformer, every row as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch

from models.fish_s2.network import Cache, FishNetwork
from models.fish_s2.prompt import Layout
from models.parts.family import Generation, Sampling
from models.parts.sampling import draw, draw_unrepeated, generators, logprob, uniforms
from models.parts.takes import Takes, frames_left

# Upstream's repetition-aware sampling (fishaudio/fish-speech, fish_speech/models/text2semantic/inference.py):
# a semantic code that occurred within so many frames is drawn again, at this temperature and top-p.
WINDOW, FALLBACK_TEMPERATURE, FALLBACK_TOP_P = 10, 1.0, 0.9


@torch.inference_mode()
def generate(
    network: FishNetwork, prompts: Sequence[Layout], sampling: Sampling, seeds: Sequence[int],
    max_frames: Sequence[int],
) -> list[Generation]:
    """Prompts to codes. Rows end by themselves; an ended row leaves the batch at once.

    Prompts are padded on the right and frames follow in the same cache slot for all rows: a row's mask hides the
    padding in between, and its positions count its own tokens alone. So the padding changes nothing.

    A released network draws as upstream does: the entry that crosses top-p is left out, and a take's first code is never
    among the recent ones. The tiny bases' figures were measured with both kept in.
    """
    config, device = network.config, network.embeddings.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    limits = frames_left([len(prompt) for prompt in prompts], max_frames, config.max_seq_len)
    width, sources = int(lengths.max()), generators(seeds)
    fallback = Sampling(FALLBACK_TEMPERATURE, sampling.top_k, FALLBACK_TOP_P)
    tokens = torch.zeros(len(prompts), width, dtype=torch.int64)
    codes = torch.zeros(len(prompts), width, config.num_codebooks, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt.tokens)
        codes[row, : len(prompt)] = torch.from_numpy(prompt.codes)
    slots = torch.arange(width + max(limits), device=device)
    visible = (slots < lengths[:, None]) | (slots >= width)
    cache = Cache(config, config.n_layer, len(prompts), len(slots), network.norm.weight)
    hidden = network.slow(tokens.to(device), codes.to(device), cache=cache)
    hidden = hidden[torch.arange(len(prompts), device=device), lengths - 1]

    takes = Takes(limits, config.num_codebooks)
    recent = torch.full((len(prompts), WINDOW), -1, device=device)
    for step in count():
        random = uniforms([sources[row] for row in takes.rows], config.num_codebooks + 1)
        frame, taken = _frame(network, hidden, recent, random, sampling, fallback)
        going = takes.add(frame, taken, frame[:, 0] == config.stop)
        if not going:
            break
        if len(going) < len(frame):
            keep = torch.tensor(going, device=device)
            frame, recent, visible, lengths = frame[keep], recent[keep], visible[keep], lengths[keep]
            cache.keep(keep)
        if step or not network.prompt.released:
            recent = torch.cat([recent[:, 1:], frame[:, :1]], 1)
        positions, mask = (lengths + cache.used - width)[:, None], visible[:, None, None, : cache.used + 1]
        hidden = network.slow(frame[:, :1] + config.semantic_begin_id, frame[:, None], positions, cache, mask)[:, 0]
    return takes.generations()


def _frame(
    network: FishNetwork, hidden: torch.Tensor, recent: torch.Tensor, random: torch.Tensor,
    sampling: Sampling, fallback: Sampling,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the next frame of every row: codes (B, K), where codebook 0 may be the stop, and their log-probabilities."""
    config, crossing = network.config, not network.prompt.released
    logits = network.slow_logits(hidden)
    codes = [draw_unrepeated(logits, random[:, :2], sampling, recent, fallback, crossing)]
    taken = [logprob(logits, codes[0])]
    cache = Cache(config.fast(), config.n_fast_layer, len(hidden), config.num_codebooks, network.norm.weight)
    # The rest of a frame that is a stop is drawn too, after some code that exists, and then thrown away.
    step = codes[0].clamp(max=config.stop - 1)
    for codebook in range(1, config.num_codebooks):
        logits = network.fast(hidden if codebook == 1 else None, step[:, None], cache)[:, -1]
        step = draw(logits, random[:, codebook + 1], sampling, crossing)
        codes.append(step)
        taken.append(logprob(logits, step))
    return torch.stack(codes, -1), torch.stack(taken, -1)
