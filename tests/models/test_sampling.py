"""Drawing: the right distribution, cut as asked, and decided by the utterance's own seed."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from models.parts.family import Sampling
from models.parts.sampling import draw, draw_unrepeated, generators, penalised, uniforms

PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0)
LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def shares(sampling: Sampling, logits: torch.Tensor = LOGITS, count: int = 4000) -> torch.Tensor:
    """How often each entry is drawn, over evenly spread random numbers."""
    uniform = (torch.arange(count) + 0.5) / count
    drawn = draw(logits.expand(count, -1), uniform, sampling)
    return torch.bincount(drawn, minlength=len(logits)) / count


def test_entries_are_drawn_as_often_as_they_are_likely():
    shuffled = torch.tensor([0.05, 0.5, 0.15, 0.3])
    torch.testing.assert_close(shares(PLAIN, shuffled.log()), shuffled, atol=1e-3, rtol=0)


def test_temperature_sharpens():
    squared = torch.tensor([0.5, 0.3, 0.15, 0.05]).square()
    torch.testing.assert_close(shares(Sampling(0.5, 0, 1.0)), squared / squared.sum(), atol=1e-3, rtol=0)


def test_temperature_zero_takes_the_likeliest():
    assert shares(Sampling(0.0, 0, 1.0)).tolist() == [1, 0, 0, 0]


def test_top_k_keeps_the_likeliest_and_their_proportions():
    torch.testing.assert_close(shares(Sampling(1.0, 2, 1.0)), torch.tensor([0.625, 0.375, 0, 0]), atol=1e-3, rtol=0)


def test_top_p_keeps_the_smallest_set_with_that_mass():
    assert (shares(Sampling(1.0, 0, 0.79)) > 0).tolist() == [True, True, False, False]
    assert (shares(Sampling(1.0, 0, 0.81)) > 0).tolist() == [True, True, True, False]
    assert (shares(Sampling(1.0, 0, 0.01)) > 0).tolist() == [True, False, False, False]


def test_temperature_does_not_change_the_set():
    """At 0.1 the first entry alone would hold 99 % of the sharpened mass; the set is cut before."""
    assert (shares(Sampling(2.0, 0, 0.81)) > 0).tolist() == (shares(Sampling(0.5, 0, 0.81)) > 0).tolist()


def test_qwens_released_setting_is_the_distribution_that_transformers_draws_from():
    """Upstream's sampler: temperature, then top-k, then top-p. Here the temperature comes last, and top-p is 1."""
    released = yaml.safe_load(Path("params.yaml").read_text())["qwen3_tts"]["full"]["sampling"]
    sampling = Sampling(**released)
    logits = 3 * torch.randn(200, generator=torch.Generator().manual_seed(3))
    steps = [TemperatureLogitsWarper(sampling.temperature), TopKLogitsWarper(sampling.top_k), TopPLogitsWarper(sampling.top_p)]
    wanted = logits[None]
    for step in steps:
        wanted = step(None, wanted)
    torch.testing.assert_close(shares(sampling, logits, 20_000), wanted[0].softmax(-1), atol=1e-4, rtol=0)


def test_chatterboxs_released_setting_is_the_distribution_that_transformers_draws_from():
    """Upstream's sampler, in this order: penalty on what was said, temperature, min-p. Guidance came before, top-p is 1."""
    released = yaml.safe_load(Path("params.yaml").read_text())["chatterbox"]["full"]["sampling"]
    sampling = Sampling(**released)
    logits = 3 * torch.randn(200, generator=torch.Generator().manual_seed(3))
    said = torch.tensor([[int(logits.argmax()), int(logits.argmin()), int(logits.argmax()), 7]])
    wanted = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(said, logits[None].clone())
    for step in (TemperatureLogitsWarper(sampling.temperature), MinPLogitsWarper(sampling.min_p)):
        wanted = step(said, wanted)
    penalised_logits = penalised(logits[None], said, sampling.repetition_penalty)[0]
    torch.testing.assert_close(shares(sampling, penalised_logits, 20_000), wanted[0].softmax(-1), atol=1e-4, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-30, 30), min_size=1, max_size=20), st.floats(0, 1, exclude_max=True, width=32),
    st.integers(0, 25), st.floats(0, 1), st.sampled_from([0.0, 0.1, 1.0, 3.0]),
)
def test_something_possible_is_always_drawn(logits, uniform, top_k, top_p, temperature):
    row = torch.tensor([[*map(float, logits), -torch.inf]])
    choice = int(draw(row, torch.tensor([uniform]), Sampling(temperature, top_k, top_p)))
    assert 0 <= choice < len(logits)
    if top_k:
        assert sum(value > logits[choice] for value in logits) < top_k


def test_a_seed_alone_decides_whatever_the_batch():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    seeds = [3, 1, 2]

    def take(rows: list[int]) -> list[list[int]]:
        sources = generators([seeds[row] for row in rows])
        return torch.stack([draw(logits[rows], uniforms(sources, 1)[:, 0], PLAIN) for _ in range(20)], 1).tolist()

    assert take([0, 1, 2]) == take([0]) + take([1]) + take([2])
    assert take([2, 0]) == take([2]) + take([0])


def test_a_repeated_token_is_drawn_again_and_the_others_stay():
    sharp, free = Sampling(0.0, 0, 1.0), PLAIN
    logits, uniform = LOGITS.expand(3, -1), torch.tensor([[0.1, 0.97]] * 3)
    recent = torch.tensor([[-1, -1], [0, 2], [3, 2]])
    assert draw_unrepeated(logits, uniform, sharp, recent, free).tolist() == [0, 3, 0]
    uniform = torch.tensor([[0.1, 0.0]] * 3)  # the likeliest again, or what is likeliest but for it
    assert draw_unrepeated(logits, uniform, sharp, recent, free).tolist() == [0, 0, 0]
    assert draw_unrepeated(logits, uniform, sharp, recent, free, leave_out=True).tolist() == [0, 1, 0]
