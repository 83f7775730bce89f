"""Drawing tokens. Every utterance brings its own random numbers, so that its seed alone decides what is drawn.

A batched `torch.multinomial` would share one generator: an utterance would change with its neighbours. Here each
utterance has a generator, and a token is drawn from its distribution by one uniform number (inverse transform).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from models.parts.family import Sampling


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator an utterance, on the CPU whatever the network's device: a seed means the same everywhere."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def uniforms(sources: Sequence[torch.Generator], count: int) -> torch.Tensor:
    """The next `count` numbers in [0, 1) of every generator: float32 (B, count), on the CPU."""
    return torch.stack([torch.rand(count, generator=source) for source in sources])


def normals(sources: Sequence[torch.Generator], count: int) -> torch.Tensor:
    """The next `count` numbers of a standard normal from every generator: float32 (B, count), on the CPU."""
    return torch.stack([torch.randn(count, generator=source) for source in sources])


def logprob(logits: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    """Log-probability (…) of `choice` (…) in logits (…, V), before penalty, temperature and truncation."""
    return logits.float().log_softmax(-1).gather(-1, choice[..., None])[..., 0]


def draw(logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling, crossing: bool = True) -> torch.Tensor:
    """One token a row: logits (B, V) and uniform (B,) on the CPU to int64 (B,) beside the logits.

    The distribution is cut first, to its `top_k` likeliest entries (0: all) and to the smallest set of them that holds
    `top_p` of the whole mass, and sharpened by `temperature` afterwards (0: the likeliest entry). That order is Fish's
    (fishaudio/fish-speech, fish_speech/models/text2semantic/inference.py): a low temperature leaves the set as it is.
    `min_p` cuts what was sharpened, as in transformers.
    `crossing`: does the entry with which the mass reaches `top_p` belong to the set? In transformers it does, in Fish it doesn't.
    """
    entries = logits.shape[-1]
    likeliest = logits.float().log_softmax(-1).topk(min(sampling.top_k or entries, entries))
    if sampling.temperature == 0:
        return likeliest.indices[:, 0]
    top, index = likeliest.values.cpu(), likeliest.indices  # sums along a row are not deterministic on a GPU
    mass = top.exp()
    reached = mass.cumsum(-1)
    limit = sampling.top_p if sampling.top_p < 1 else torch.inf  # rounding may bring the sum of all above 1
    outside = reached - mass >= sampling.top_p if crossing else reached > limit
    outside[:, 0] = False  # the likeliest always stays
    weights = (top / sampling.temperature).masked_fill(outside, -torch.inf).softmax(-1)
    if sampling.min_p:
        weights = weights.masked_fill(weights < sampling.min_p * weights[:, :1], 0.0)
    weights = weights.cumsum(-1)
    # Rounding may leave the last sum below 1: the target is scaled by it, so that no number falls behind the end.
    choice = (weights <= uniform[:, None] * weights[:, -1:]).sum(-1)
    return index.gather(-1, choice.clamp(max=index.shape[-1] - 1).to(index.device)[:, None])[:, 0]


def draw_unrepeated(
    logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling, recent: torch.Tensor, fallback: Sampling,
    crossing: bool = True, leave_out: bool = False,
) -> torch.Tensor:  # fmt: skip
    """`draw`, but a token that is among `recent` (B, window) is drawn once more, with `fallback`, or another one (`leave_out`).
    `uniform`: (B, 2).

    Repetition-aware sampling (VALL-E 2, arXiv 2406.05370): it lets a decoder out of loops. -1 in `recent` means none.
    """
    first = draw(logits, uniform[:, 0], sampling, crossing)
    repeated = (recent == first[:, None]).any(-1)
    if not repeated.any():
        return first
    others = logits.scatter(-1, first[:, None], -torch.inf) if leave_out else logits
    return torch.where(repeated, draw(others, uniform[:, 1], fallback, crossing), first)


def penalised(logits: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Logits (B, V) in which those of the tokens `seen` (B, T) are lowered once, however often they were there: divided by
    `penalty`, or multiplied where they are negative (CTRL, arXiv 1909.05858)."""
    scores = logits.gather(-1, seen)
    return logits.scatter(-1, seen, torch.where(scores < 0, scores * penalty, scores / penalty))
