"""The network of a tiny base, trained from seeded random weights; and what of it a decoder hears besides codes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from models.parts.evaluating import evaluating
from models.parts.family import Example, Family
from models.small.phones import PAUSE, PHONES
from stages.bases.loop import optimise
from stages.train.batching import length_batches

ALPHABET = [PAUSE, *PHONES]
READING = 0.5  # weight of what is told of the phones


class PhoneReader(torch.nn.Module):
    """A layer that is thrown away. The error of a value says little about which word it belongs to; so in training it tells the
    phones from what each frame is drawn from, and that is how a network that writes values finds its place in the text.

    `said`: the phones (frames, n) of each utterance, as places in `ALPHABET`.
    """

    def __init__(self, family: Family, network: torch.nn.Module, example: Example, said: dict[str, np.ndarray], seed: int):
        super().__init__()
        self.family, self.said = family, said
        with torch.no_grad():
            _, drawn_from = family.base_loss(network, family.batch(network, [example]))
        torch.manual_seed(seed)
        self.layer = torch.nn.Linear(drawn_from.shape[1], said[example.id].shape[1] * len(ALPHABET))

    def loss(self, network: torch.nn.Module, batch: dict[str, torch.Tensor], examples: list[Example]) -> torch.Tensor:
        """The family's loss, and the error of the phones that are told."""
        loss, drawn_from = self.family.base_loss(network, batch)
        said = torch.from_numpy(np.concatenate([self.said[example.id] for example in examples]))
        return loss.total + READING * F.cross_entropy(self.layer(drawn_from).view(-1, len(ALPHABET)).float(), said.flatten())


def train(
    family: Family, recipe: dict, examples: list[Example], last: set[str], scratch: Path, said: dict[str, np.ndarray] | None = None
) -> tuple[torch.nn.Module, list[dict]]:
    """Train `family`'s network; short utterances first, since they teach which letter sounds how.

    `last`: the utterances that it learns from alone from `natural_from` of the steps on, and is measured on. `said`: as
    `PhoneReader` takes it, for a network that writes values.
    """
    settings, seed = recipe["train"], recipe["train"]["seed"]
    network = family.create(recipe["network"], seed)
    reader = PhoneReader(family, network, examples[0], said, seed) if said else None

    def loss_of(step: int) -> torch.Tensor:
        batch = family.base_batch(network, plan[step])
        return reader.loss(network, batch, plan[step]) if reader else family.loss(network, batch).total

    rng = random.Random(seed)
    rng.shuffle(examples)
    validation = [e for e in examples if e.id in last][: settings["validation"]]
    kept = {e.id for e in validation}
    training = [e for e in examples if e.id not in kept]
    plan: list[list[Example]] = []
    while len(plan) < settings["steps"]:
        longest = next(limit for until, limit in settings["longest"] if len(plan) <= until * settings["steps"])
        alone = len(plan) >= settings.get("natural_from", 1) * settings["steps"]
        plan += length_batches([e for e in training if len(e.codes) <= longest and (e.id in last or not alone)], settings["batch_frames"], rng)

    def evaluate() -> float:
        with evaluating(network), torch.no_grad():
            losses = [family.loss(network, family.batch(network, b)) for b in length_batches(validation, settings["batch_frames"])]
        return sum(float(x.total) * x.labels for x in losses) / sum(x.labels for x in losses)

    network.train()
    curve = optimise(
        "network", [*network.parameters(), *(reader.parameters() if reader else ())], loss_of, settings["steps"], settings["lr"], seed, scratch, evaluate=evaluate
    )
    return network.eval(), curve


def hidden_states(family: Family, network: torch.nn.Module, examples: list[Example], of: set[str], recipe: dict) -> dict[str, np.ndarray]:
    """`family.latents` by utterance, of as many of `of` as the recipe says; none for a decoder of codes alone."""
    chosen = sorted((e for e in examples if e.id in of), key=lambda e: e.id)
    chosen = random.Random(recipe["train"]["seed"]).sample(chosen, min(len(chosen), recipe["codec"].get("latents_clips", 0)))
    found: dict[str, np.ndarray] = {}
    for batch in length_batches(chosen, recipe["train"]["batch_frames"]):
        found |= {e.id: hidden for e, hidden in zip(batch, family.latents(network, batch), strict=True)}
    return found


def phones_at(said: list[tuple[str, float]], times: np.ndarray) -> np.ndarray:
    """Which phone (place in ALPHABET) is being said at `times` (seconds): int64, like `times`."""
    ends = np.array([end for _, end in said])
    places = np.array([ALPHABET.index(name) for name, _ in said])
    return places[np.minimum(np.searchsorted(ends, times), len(said) - 1)]
