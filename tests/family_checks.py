"""What every family has to show, in one place: the tests of a family call these with their own toy network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Example, Family, Generation, Sampling, Voice
from stages.train import selfcheck


def toy_fixtures(kind: type[Family], write: Callable[[Path], Path]) -> tuple[Any, Any]:
    """The fixtures `family` and `folder` of a test file: `write` makes a toy's weights folder, once for the file."""

    @pytest.fixture(scope="module")
    def family() -> Family:
        return kind()

    @pytest.fixture(scope="module")
    def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write(tmp_path_factory.mktemp("toy"))

    return family, folder


def utterances(codes: Callable[[np.random.Generator, int], np.ndarray], count: int, seed: int) -> list[Example]:
    """`count` utterances of unequal length; `codes(random, frames)` draws what one of them says."""
    random = np.random.default_rng(seed)
    return [
        Example(f"utt-{index}", "Press one to go home."[: 5 + 5 * index], "toy", codes(random, 3 + 2 * index))
        for index in range(count)
    ]


def loss(family: Family, network: torch.nn.Module, rows: Sequence[Example]) -> float:
    with torch.no_grad():
        return float(family.loss(network, family.batch(network, rows)).total)


def trained_a_little(
    family: Family, network: torch.nn.Module, settings: AdaptSettings, rows: Sequence[Example], lr: float
) -> torch.nn.Module:
    """A few steps at a rate that moves every trained weight, with validation in between as the train stage has it."""
    torch.manual_seed(1)  # adapters start from drawn matrices
    network = family.adapt(network, settings)
    batch = family.batch(network, rows)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=lr)
    for _ in range(4):
        network.train()
        optimizer.zero_grad()
        family.loss(network, batch).total.backward()
        optimizer.step()
        network.eval()
        with torch.no_grad():
            family.loss(network, batch)
    return network


def assert_second_shift_is_caught(
    family: Family, network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, owner: Any, batching: str, key: str,
    text: str, voice: Voice,
) -> None:  # fmt: skip
    """The start-up check passes as it is, and fails once `owner.batching` hands out a `key` that is shifted again."""
    honest = getattr(owner, batching)

    def shifted(*arguments: Any) -> dict[str, torch.Tensor]:
        batch = honest(*arguments)
        return batch | {key: torch.roll(batch[key], -1, 1)}

    selfcheck.alignment(family, network, text, voice, 5)
    monkeypatch.setattr(owner, batching, shifted)
    with pytest.raises(UserError, match="misaligned"):
        selfcheck.alignment(family, network, text, voice, 5)


def assert_takes_are_the_same_alone(
    family: Family, network: torch.nn.Module, texts: Sequence[str], voice: Voice, sampling: Sampling,
    seeds: Sequence[int], limits: Sequence[int],
) -> list[tuple[Generation, Generation]]:  # fmt: skip
    """Every take of a batch equals the one of its text and seed alone; returns the pairs, batched first."""
    together = family.generate(network, texts, voice, sampling, seeds, limits)
    pairs = []
    for text, seed, limit, take in zip(texts, seeds, limits, together, strict=True):
        (alone,) = family.generate(network, [text], voice, sampling, [seed], [limit])
        np.testing.assert_array_equal(alone.codes, take.codes)
        assert alone.finish == take.finish
        pairs.append((take, alone))
    return pairs


def assert_padding_changes_no_decision(
    family: Family, network: torch.nn.Module, rows: Sequence[Example],
    decisions: Callable[[Any, dict[str, torch.Tensor]], Sequence[torch.Tensor]],
) -> None:  # fmt: skip
    """What `decisions` makes of a batch is what it makes of its utterances one by one."""
    together = decisions(network, family.batch(network, rows))
    alone = [decisions(network, family.batch(network, [row])) for row in rows]
    for batched, single in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(batched, torch.cat(single), atol=1e-5, rtol=0)


def assert_a_batch_without_labels_stops_the_run(
    family: Family, network: torch.nn.Module, rows: Sequence[Example], key: str = "labels"
) -> None:
    batch = family.batch(network, rows)
    batch[key] = torch.full_like(batch[key], -100)
    with pytest.raises(UserError, match="no supervised token"):
        selfcheck.usable(family.loss(network, batch), "batch 1")


def assert_changed_weights_are_refused(
    family: Family, folder: Path, copy: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    """`folder` with changed tensors, written to `copy`, does not load, and the error says what is wrong."""
    for name in ("config.json", "tokenizer.json"):
        (copy / name).write_bytes((folder / name).read_bytes())
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, copy / "model.safetensors")
    with pytest.raises(UserError, match=message):
        family.network(copy)
