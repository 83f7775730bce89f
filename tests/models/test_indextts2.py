"""IndexTTS2: training scores what generation decides, hidden states reach the decoder, and upstream's defects are absent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import models.indextts2
from models.indextts2 import IndexTTS2
from models.indextts2.dataset import Heard, pairs
from models.parts.errors import UserError
from models.parts.family import Example, Generation, Sampling
from stages.train import __main__ as train
from stages.train.processes import Alone
from tests import toy_indextts2 as toy
from tests.family_checks import (
    assert_changed_weights_are_refused,
    assert_second_shift_is_caught,
    assert_takes_are_the_same_alone,
    toy_fixtures,
    trained_a_little,
)
from tests.toy_indextts2 import LORA, SFT, noise

TEXTS = ["Hello.", "Press one, or hold the line for someone.", "No"]
LIMITS = [60, 25, 5]
SEEDS = [2, 9, 4]
FREE = Sampling(temperature=1.0, top_k=0, top_p=1.0)
VOICE = toy.voice()
family, folder = toy_fixtures(IndexTTS2, toy.folder)


@pytest.fixture(scope="module")
def rows(folder) -> list[Example]:
    return toy.targets(folder)


@pytest.fixture(scope="module")
def codec(family, folder):
    return family.codec(folder)


# --- one alignment rule -------------------------------------------------------------------------------------------


def test_training_scores_the_decisions_that_generation_makes(family, folder):
    network = family.network(folder)
    takes = family.generate(network, TEXTS, VOICE, FREE, SEEDS, LIMITS)
    assert {take.finish for take in takes} == {"stop", "length"}  # both ends are covered
    for text, take in zip(TEXTS, takes, strict=True):
        assert len(take.logprobs) == len(take.codes) + (take.finish == "stop")
        np.testing.assert_allclose(family.decision_logprobs(network, text, VOICE, take), take.logprobs, atol=1e-4)


def test_the_speech_loss_is_the_mean_of_those_decisions(family, folder, rows):
    network = family.network(folder)
    (take,) = family.generate(network, TEXTS[:1], VOICE, FREE, SEEDS[1:2], [60])
    assert take.finish == "stop" and len(take.codes) > 3
    condition, emotion = VOICE.speaker_embedding[160:-32].reshape(4, 32), VOICE.speaker_embedding[-32:]
    ids = np.array(network.text_ids(TEXTS[0])[1:-1], np.int32)
    row = replace(rows[0], text=TEXTS[0], text_ids=ids, codes=take.codes, condition=condition, emotion=emotion)
    result = family.loss(network, family.batch(network, [row]))
    assert result.parts["speech"] == pytest.approx(-take.logprobs.mean(), abs=1e-5)
    assert result.labels == len(take.logprobs)
    assert result.total.item() == pytest.approx(0.8 * result.parts["speech"] + 0.2 * result.parts["text"], abs=1e-5)


@pytest.mark.parametrize("key", ["labels", "speech"])
def test_a_label_shifted_twice_is_caught(family, folder, monkeypatch, key):
    assert_second_shift_is_caught(family, family.network(folder), monkeypatch, models.indextts2, "_batch", key, TEXTS[1], VOICE)


def test_a_take_that_stops_at_once_is_scored_too(family, folder, codec):
    network = family.network(folder)
    with torch.no_grad():
        network.mel_head.bias[network.stop] = 100.0
    (take,) = family.generate(network, TEXTS[:1], VOICE, Sampling(), [1], [9])
    assert take.codes.shape == (0, 1) and take.latents.shape == (0, toy.WIDTH) and take.finish == "stop"
    np.testing.assert_allclose(family.decision_logprobs(network, TEXTS[0], VOICE, take), take.logprobs, atol=1e-4)


# --- hidden states ------------------------------------------------------------------------------------------------


def test_latents_are_the_hidden_states_that_decided_the_codes(family, folder, rows):
    """Generated and teacher-forced ones are the same: the decoder's layer is trained on what it gets later."""
    network = family.network(folder)
    (take,) = family.generate(network, TEXTS[:1], VOICE, FREE, SEEDS[:1], [60])
    logits = network.mel_head(torch.from_numpy(take.latents)).log_softmax(-1)
    chosen = logits.gather(1, torch.from_numpy(take.codes).long())[:, 0].detach().numpy()
    np.testing.assert_allclose(chosen, take.logprobs[: len(take.codes)], atol=1e-4)
    condition, emotion = VOICE.speaker_embedding[160:-32].reshape(4, 32), VOICE.speaker_embedding[-32:]
    ids = np.array(network.text_ids(TEXTS[0])[1:-1], np.int32)
    row = replace(rows[0], text=TEXTS[0], text_ids=ids, codes=take.codes, condition=condition, emotion=emotion)
    forced, _ = family.latents(network, [row, rows[2]])
    np.testing.assert_allclose(forced, take.latents, atol=1e-4)


def test_the_decoder_hears_latents_and_codes_alone(codec):
    random = np.random.default_rng(2)
    takes = [
        Generation(random.integers(0, toy.CODES, (n, 1), np.int32), "stop", np.zeros(0, np.float32), random.normal(size=(n, toy.WIDTH)).astype(np.float32))
        for n in (9, 20)
    ]
    alone, heard = codec.decode([take.codes for take in takes], VOICE), codec.render(takes, VOICE)
    for take, one, other in zip(takes, alone, heard, strict=True):
        assert len(one) == len(other) == len(take.codes) * 441
        assert np.abs(one - other).max() > 1e-3
        np.testing.assert_array_equal(codec.render([take], VOICE)[0], other)
        np.testing.assert_array_equal(codec.render([replace(take, latents=None)], VOICE)[0], one)


def test_a_codec_of_another_network_is_refused(family, tmp_path):
    toy.folder(tmp_path)
    toy.network(condition_width=10).save(tmp_path)
    with pytest.raises(UserError, match="pca 12 and latents 32, but the network hears 10"):
        family.codec(tmp_path)


# --- a batch is only a batch --------------------------------------------------------------------------------------


def test_a_seed_alone_decides_a_take_whatever_its_batch(family, folder):
    network = family.network(folder)
    pairs = assert_takes_are_the_same_alone(family, network, TEXTS, VOICE, FREE, SEEDS, LIMITS)
    for take, alone in pairs:
        np.testing.assert_allclose(alone.latents, take.latents, atol=1e-4)
    (other,) = family.generate(network, TEXTS[:1], VOICE, FREE, [4], [60])
    assert not np.array_equal(other.codes, pairs[0][0].codes)


def test_generation_writes_only_codes_within_its_cap_and_leaves_the_mode_alone(family, folder):
    network = family.network(folder).train()
    (take,) = family.generate(network, TEXTS[:1], VOICE, Sampling(3.0, 0, 1.0), [1], [500])
    assert network.training and len(take.codes) <= toy.NETWORK["max_mel_tokens"]
    assert take.codes.dtype == np.int32 and take.codes.min() >= 0 and take.codes.max() < toy.CODES


def test_prompts_of_a_batch_are_heard_as_if_alone(family, folder):
    network, random = family.network(folder), np.random.default_rng(3)
    prompts = [torch.from_numpy(random.normal(size=(n, toy.POINTS)).astype(np.float32)) for n in (5, 18, 31)]
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    together = network.condition(torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True), lengths)
    for index, prompt in enumerate(prompts):
        alone = network.condition(prompt[None], lengths[index : index + 1])
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], other[index], atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="2 frames is too short to be heard"):
        network.condition(torch.zeros(1, 2, toy.POINTS), torch.tensor([2]))


# --- a base -----------------------------------------------------------------------------------------------------------


def test_a_base_learns_to_hear_its_prompts(family, folder):
    """The conditioner gets a gradient from prompts as they are, and the prompt is another clip's."""
    asked = []

    def points(name: str) -> np.ndarray:
        asked.append(name)
        return np.random.default_rng(len(asked)).normal(size=(20 + 200 * len(asked), toy.POINTS)).astype(np.float32)

    examples = family.base_examples(toy.utterances(), points)
    network = family.network(folder)
    batch = family.batch(network, examples)
    assert all(isinstance(example, Heard) for example in examples)
    assert asked == [pairs(toy.utterances())[e.id].id for e in examples]
    assert batch["point_lengths"].max() == 150
    family.loss(network, batch).total.backward()
    for module in network.conditioner_modules():
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


# --- defects of upstream, by name (facts 1.2 to 1.4) ------------------------------------------------------------------


def test_defect_batched_preprocessing_leaves_no_tail_on_shorter_clips(codec):
    waves = [noise(0.6), noise(1.9), noise(1.1)]
    together = codec.encode(waves)
    assert [len(codes) for codes in together] == [30, 95, 55]
    for wave, codes in zip(waves, together, strict=True):
        np.testing.assert_array_equal(codec.encode([wave])[0], codes)


def test_defect_a_prompt_is_cut_at_15_seconds_wherever_it_is_heard(codec):
    long, short = codec.speaker_embedding(noise(15.4)), codec.speaker_embedding(noise(15.4)[: 15 * 24000])
    np.testing.assert_array_equal(long[160:], short[160:])
    assert np.abs(long[160:] - codec.speaker_embedding(noise(1))[160:]).max() > 1e-4


def test_defect_padding_inside_the_sequence_changes_no_decision(family, folder, rows):
    network = family.network(folder)

    def decisions(some):
        batch = family.batch(network, some)
        hidden = models.indextts2._hidden(network, batch)
        return network.mel_head(hidden[batch["labels"] != -100]), network.text_head(hidden[batch["text_labels"] != -100])

    together, alone = decisions(rows), [decisions([row]) for row in rows]
    for batched, single in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(batched, torch.cat(single), atol=1e-5, rtol=0)


def test_defect_exactly_one_stop_is_learnt_of_text_and_speech(family, folder, rows):
    network = family.network(folder)
    batch = family.batch(network, rows)
    assert ((batch["labels"] == network.stop).sum(1) == 1).all()
    assert ((batch["text_labels"] == 1).sum(1) == 1).all()


def test_defect_the_validation_loss_does_not_change_with_the_batch_size(family, folder, rows):
    network = family.network(folder)

    def score(examples):
        return family.loss(network, family.batch(network, examples))

    found = [train.validate(score, network, rows, frames, Alone())["parts"]["speech"] for frames in (1, 24, 900)]
    assert found == pytest.approx([found[0]] * 3, abs=1e-5)


def test_defect_the_first_code_stands_at_position_1(family, folder, monkeypatch):
    """Upstream's cached generation gave it position 2, where training had put the second code."""
    network = family.network(folder)
    (before,) = family.generate(network, TEXTS[:1], VOICE, Sampling(temperature=0.0), [1], [8])
    with torch.no_grad():
        network.mel_pos_embedding.emb.weight[1] += 9 * torch.randn(toy.WIDTH, generator=torch.Generator().manual_seed(1))
    (after,) = family.generate(network, TEXTS[:1], VOICE, Sampling(temperature=0.0), [1], [8])
    assert before.logprobs[0] == after.logprobs[0]
    assert abs(before.logprobs[1] - after.logprobs[1]) > 1e-3


def test_defect_fine_tuning_leaves_the_conditioner_whose_results_it_read(family, folder, rows):
    """Weight decay and a scale cannot touch what made the conditions of the set."""
    trained = trained_a_little(family, family.network(folder), SFT, rows, 0.05)
    tuned, base = family.merged(folder, family.adapter_state(trained, SFT), SFT, 1.0), family.network(folder)
    assert not any(p.requires_grad for module in trained.conditioner_modules() for p in module.parameters())
    for mine, theirs in zip(base.conditioner_modules(), tuned.conditioner_modules(), strict=True):
        for name, tensor in mine.state_dict().items():
            torch.testing.assert_close(theirs.state_dict()[name], tensor, rtol=0, atol=0)
    assert any(not torch.equal(a, b) for a, b in zip(base.gpt.parameters(), tuned.gpt.parameters(), strict=True))


def test_defect_every_adapter_gets_a_gradient(family, folder, rows):
    """PEFT failed on the trunk without its word embedding."""
    network = family.adapt(family.network(folder), LORA).train()
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    family.loss(network, family.batch(network, rows)).total.backward()
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 4 * 2  # A and B of four layers in each of two blocks
    assert all(p.grad.abs().max() > 0 for p in trained.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda state: state.pop("final_norm.weight"), "missing .'final_norm.weight'"),
     (lambda state: state.update({"gpt.wte.weight": torch.ones(1)}), "unexpected .'gpt.wte.weight'"),
     (lambda state: state.update({"mel_head.bias": torch.ones(3)}), r"mel_head.bias is \(3,\)")],
)  # fmt: skip
def test_defect_weights_load_strictly(family, folder, tmp_path, change, message):
    """Upstream loads with strict=False and logs what is wrong."""
    assert_changed_weights_are_refused(family, folder, tmp_path, change, message)


@pytest.mark.parametrize("settings_", [LORA, SFT])
def test_defect_merged_weights_have_the_released_keys_alone(family, folder, rows, settings_):
    """No `inference_model.*` alias, no `gpt.wte.weight`, no `base_layer`: upstream's loader would not notice."""
    state = family.adapter_state(trained_a_little(family, family.network(folder), settings_, rows, 0.05), settings_)
    merged = family.merged(folder, state, settings_, 1.0)
    assert set(merged.state_dict()) == set(load_file(folder / "model.safetensors"))
