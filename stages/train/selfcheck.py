"""What every training run proves before its first step. Each check has caught a bug in a released trainer."""

from __future__ import annotations

import math

import numpy as np
import torch

from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Contract, Example, Family, Loss, Sampling, Voice

# Nats. Sums in another order differ by some 1e-5 in float32 and by 0.07 in bfloat16 (tiny bases), a shifted label by whole ones.
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.5}


def contracts(family: Family, network: torch.nn.Module, tokens: Contract, codec: Contract, where: str) -> None:
    """The tokens were made by this network's own codec, and head, embeddings and special ids fit each other."""
    codec.check(tokens, where)
    family.check_shapes(network, codec)


def largest_code(examples: list[Example], contract: Contract, where: str) -> None:
    """No code lies outside of the vocabulary, and no utterance is without codes."""
    for example in examples:
        if not len(example.codes):
            raise UserError(f"{where}: utterance {example.id} has no codes, so nothing to learn; run the tokenise stage again")
        if not contract.fits(example.codes):
            wrong = f"code {int(example.codes.max())}, the vocabulary is {contract.vocabulary}"
            if not contract.vocabulary:
                wrong = f"values that are not {contract.codebooks} finite numbers a frame"
            raise UserError(f"{where}: utterance {example.id} has {wrong}; run the tokenise stage again")


def alignment(family: Family, network: torch.nn.Module, text: str, voice: Voice, seed: int) -> float:
    """Teacher-forced log-probabilities equal the ones that generation computed, step by step; returns the largest gap.

    A label shifted once too often, a template that differs, a scale left out: all of them show here. Values have a score in
    the place of a log-probability, so that what they are drawn from is compared as well.
    """
    (take,) = family.generate(network, [text], voice, Sampling(), [seed], [40])
    forced = family.decision_logprobs(network, text, voice, take)
    if forced.shape != take.logprobs.shape:
        raise UserError(f"{family.name}: generation made {len(take.logprobs)} decisions, training scores {len(forced)}; batch() and generate() of models/{family.name} are misaligned")
    gaps = np.abs(forced - take.logprobs)
    worst = int(gaps.argmax())  # the first NaN, if there is one
    if not gaps[worst] < _tolerance(network):
        step, decision = divmod(worst, len(family.decisions))
        where = f"by {gaps[worst]:.3f} on the same {family.decisions[decision]}, in step {step + 1}"
        raise UserError(f"{family.name}: training and generation disagree {where}; batch() and generate() of models/{family.name} are misaligned")
    return float(gaps[worst])


def usable(loss: Loss, where: str) -> None:
    """A loss that can be learnt from: some label, and neither NaN, infinite nor exactly zero.

    A batch without a label gives NaN, which some trainers show as 0.0.
    """
    if loss.labels <= 0:
        raise UserError(f"{where}: no supervised token in the batch, so its loss means nothing; look at the corpus audit for empty clips")
    value = float(loss.total.detach())
    if not math.isfinite(value) or value == 0.0:
        raise UserError(f"{where}: the loss is {value}; lower lr, or look at the corpus audit for broken clips")


def same_after_wrapping(family: Family, network: torch.nn.Module, settings: AdaptSettings, batch: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Wrap for training, and prove that a fresh adapter leaves the loss of the bare base as it was."""
    with torch.no_grad():
        bare = family.loss(network, batch)
        usable(bare, f"{family.name}: base")
        wrapped = family.adapt(network, settings)
        adapted = family.loss(wrapped, batch)
    gap = abs(float(bare.total) - float(adapted.total))
    if not gap < _tolerance(network):
        raise UserError(f"{family.name}: the loss of the base is {float(bare.total):.4f} and with a fresh adapter {float(adapted.total):.4f}; the adapter has lost the pretrained weights")
    return wrapped


def _tolerance(network: torch.nn.Module) -> float:
    """By the precision of the base: an adapter is float32 beside a bfloat16 one."""
    return max(TOLERANCE[parameter.dtype] for parameter in network.parameters())
