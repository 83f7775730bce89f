"""Qwen3-TTS: training scores what generation decides, as upstream's network is laid out; upstream's defects are absent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from torch.nn import functional as F

import models.qwen3_tts
from models.parts.family import Example, Sampling
from models.qwen3_tts import Qwen3TTS, decisions
from models.qwen3_tts.generation import MIN_FRAMES, _frame
from models.qwen3_tts.network import Qwen3TTSNetwork
from models.qwen3_tts.prompt import NOTHING
from models.small.vocoder import analyse
from models.small.voiceprint import voiceprint
from stages import tokenise
from tests import toy_qwen3_tts as toy
from tests.family_checks import (
    assert_padding_changes_no_decision,
    assert_second_shift_is_caught,
    assert_takes_are_the_same_alone,
    loss,
    toy_fixtures,
    trained_a_little,
)
from tests.toy_qwen3_tts import CODEBOOKS, FIRST, LORA, RESIDUAL, SFT, VOICE

TEXTS = ["Hello.", "Press one, or hold the line for someone.", "No"]
LIMITS = [40, 25, 5]
FREE = Sampling(temperature=1.0, top_k=0, top_p=1.0)
family, folder = toy_fixtures(Qwen3TTS, toy.folder)


# --- one alignment rule -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [FREE, Sampling()])
def test_training_scores_the_decisions_that_generation_makes(family, folder, sampling):
    """The talker's decisions, the code predictor's and the stop, one by one; in a batch of unequal texts."""
    network = family.network(folder)
    takes = family.generate(network, TEXTS, VOICE, sampling, [1, 4, 3], LIMITS)
    if sampling is FREE:
        assert {take.finish for take in takes} == {"stop", "length"}  # both ends are covered
    for text, take in zip(TEXTS, takes, strict=True):
        assert len(take.logprobs) == len(take.codes) * CODEBOOKS + (take.finish == "stop")
        np.testing.assert_allclose(family.decision_logprobs(network, text, VOICE, take), take.logprobs, atol=1e-4)


def test_the_loss_is_the_weighted_mean_of_those_decisions(family, folder):
    network = family.network(folder)
    takes = family.generate(network, TEXTS[:1] * 8, VOICE, FREE, range(8), [40] * 8)
    take = next(take for take in takes if take.finish == "stop" and len(take.codes) > 3)
    row = Example("u", TEXTS[0], "toy", take.codes, VOICE.speaker_embedding)
    result = family.loss(network, family.batch(network, [row]))
    frames, stop = take.logprobs[:-1].reshape(-1, CODEBOOKS), take.logprobs[-1]
    assert result.parts["talker"] == pytest.approx(-np.append(frames[:, 0], stop).mean(), abs=1e-4)
    assert result.parts["code_predictor"] == pytest.approx(-frames[:, 1:].mean(), abs=1e-4)
    assert result.labels == len(take.logprobs)
    assert result.total.item() == pytest.approx(result.parts["talker"] + 0.3 * result.parts["code_predictor"], abs=1e-5)


@pytest.mark.parametrize("key", ["labels", "label_codes"])
def test_a_label_shifted_twice_is_caught(family, folder, monkeypatch, key):
    assert_second_shift_is_caught(family, family.network(folder), monkeypatch, models.qwen3_tts, "_pad", key, TEXTS[1], VOICE)


def test_a_take_that_wants_to_stop_at_once_has_two_frames(family):
    network = toy.network()
    prompt = network.prompt(TEXTS[0])
    speaker = torch.from_numpy(VOICE.speaker_embedding)[None]
    with torch.no_grad():  # a head that wants nothing but the stop
        network.talker.codec_head.weight.mul_(1e-3)
        hidden = network.talker.model.run(network.embed(prompt.text[None], prompt.codec[None], speaker))[0, -1]
        network.talker.codec_head.weight[network.ids.eos] = hidden
    (take,) = family.generate(network, TEXTS[:1], VOICE, Sampling(temperature=0.1), [1], [9])
    assert len(take.codes) == MIN_FRAMES and take.finish == "stop"
    assert take.logprobs[0] < -1  # it was not what the network wanted, and the score says so
    np.testing.assert_allclose(family.decision_logprobs(network, TEXTS[0], VOICE, take), take.logprobs, atol=1e-4)


# --- a batch is only a batch --------------------------------------------------------------------------------------


def test_a_seed_alone_decides_a_take_whatever_its_batch(family, folder):
    network = family.network(folder)
    pairs = assert_takes_are_the_same_alone(family, network, TEXTS, VOICE, FREE, [1, 4, 3], LIMITS)
    (other,) = family.generate(network, TEXTS[:1], VOICE, FREE, [2], [40])
    assert not np.array_equal(other.codes, pairs[0][0].codes)


def test_padding_changes_no_decision(family, folder):
    assert_padding_changes_no_decision(family, family.network(folder), toy.examples(), decisions)


def test_generation_writes_only_codes_and_leaves_the_mode_alone(family, folder):
    """No special row but the end is ever drawn, however flat the distribution."""
    network = family.network(folder).train()
    takes = family.generate(network, TEXTS, VOICE, Sampling(50.0, 0, 1.0), [1, 2, 3], [30] * 3)
    assert network.training
    codes = np.concatenate([take.codes for take in takes])
    assert codes.dtype == np.int32 and codes.min() >= 0
    assert codes[:, 0].max() < FIRST and RESIDUAL / 2 < codes[:, 1:].max() < RESIDUAL


def test_a_bfloat16_network_learns_and_speaks_as_the_float32_one(family, folder):
    """Large bases are kept so. Logits are rounded, but likelihoods and the loss are float32 made of them."""
    network, half, rows = family.network(folder), family.network(folder).bfloat16(), toy.examples()
    result = family.loss(half, family.batch(half, rows))
    assert result.total.dtype == torch.float32
    assert result.total.item() == pytest.approx(loss(family, network, rows), abs=0.03)
    (take,) = family.generate(half, TEXTS[:1], VOICE, Sampling(), [1], [8])
    assert take.logprobs.dtype == np.float32
    np.testing.assert_allclose(family.decision_logprobs(half, TEXTS[0], VOICE, take), take.logprobs, atol=0.2)


def test_a_code_that_was_used_is_less_likely_but_scored_as_it_is(family):
    """Upstream's repetition penalty of 1.05: 1.00 falls behind 0.97."""
    network, hidden, used = toy.network(), torch.eye(32)[:1], torch.zeros(1, FIRST + 1, dtype=torch.bool)
    with torch.no_grad():
        network.talker.codec_head.weight.zero_()
        network.talker.codec_head.weight[[3, 5], 0] = torch.tensor([1.0, 0.97])
        greedy = Sampling(temperature=0)
        first, scored = _frame(network, hidden, used, True, torch.zeros(1, CODEBOOKS), greedy)
        used[0, 3] = True
        second, again = _frame(network, hidden, used, True, torch.zeros(1, CODEBOOKS), greedy)
    assert (first[0, 0].item(), second[0, 0].item()) == (3, 5)
    assert (scored[0, 0] - again[0, 0]).item() == pytest.approx(0.03, abs=1e-6)


def test_logits_are_made_only_where_there_are_labels(family, folder):
    network, rows = family.network(folder), toy.examples()
    first, codes, rest, residual = decisions(network, family.batch(network, rows))
    frames = sum(len(row.codes) for row in rows)
    assert first.shape == (frames + len(rows), FIRST + 1) and codes.shape == first.shape[:1]
    assert rest.shape == (frames, CODEBOOKS - 1, RESIDUAL) and residual.shape == rest.shape[:2]


# --- structure ----------------------------------------------------------------------------------------------------


def test_prompt_and_frames_have_upstreams_layout(family, folder):
    """Both channels by hand, for a text of two tokens and three frames (facts of finetuning/dataset.py)."""
    network, row = family.network(folder), replace(toy.examples()[0], text="Hi")
    ids, batch = network.ids, family.batch(network, [row])
    h, i = (network.prompt.tokenizer.token_to_id(phone) for phone in ("hh", "ay"))
    pad, role = ids.tts_pad, network.prompt.role
    assert network.prompt.tokenizer.decode(role, skip_special_tokens=False) == "<|im_start|> assistant\n"
    assert batch["text"][0].tolist() == [*role, pad, pad, pad, pad, ids.tts_bos, h, i, ids.tts_eos, pad, pad, pad, pad]
    control = [ids.nothink, ids.think_bos, ids.think_eos, ids.speaker, ids.pad, ids.pad, ids.pad, ids.pad, ids.bos]
    first = [NOTHING] * len(role) + control + row.codes[:, 0].tolist()
    assert batch["codec"][0, :, 0].tolist() == first
    assert batch["codec"][0, -3:, 1:].tolist() == row.codes[:, 1:].tolist()
    assert (batch["codec"][0, :-3, 1:] == NOTHING).all()


def test_the_speakers_vector_in_row_3000_says_the_same(family):
    """Upstream's inference of a fine-tune reads the vector from the codec embedding: the same sequence comes in."""
    network, row = toy.network(), toy.examples()[0]
    batch = family.batch(network, [row])
    measured = network.embed(batch["text"], batch["codec"], batch["speaker"])
    with torch.no_grad():
        rows = network.speaker_encoder.rows(batch["speaker"])
        network.talker.model.codec_embedding.weight[network.ids.speaker] = rows[0]
    at = batch["codec"][0, :, 0].tolist().index(network.ids.speaker)
    words = network.talker.text_projection(network.talker.model.text_embedding(batch["text"]))
    codes = network.embed_first(batch["codec"][..., 0].clamp(min=0))
    torch.testing.assert_close(measured[0, at], (words + codes)[0, at])


def test_both_transformers_compute_upstreams_formulas(family, folder):
    """By hand: norms of query and key, rotary positions in three interleaved sections, grouped heads, SwiGLU."""
    network = family.network(folder)
    batch = family.batch(network, toy.examples(1))
    x = network.embed(batch["text"], batch["codec"], batch["speaker"])[0].detach()
    for trunk, sections in ((network.talker.model, (2, 1, 1)), (network.talker.code_predictor.model, ())):
        inputs = x[:, : trunk.config.hidden_size]
        hidden = trunk.run(inputs[None])[0].detach().numpy()
        np.testing.assert_allclose(hidden, by_hand(trunk, inputs.double().numpy(), sections), atol=1e-4)


def by_hand(trunk: Any, x: np.ndarray, sections: tuple[int, ...]) -> np.ndarray:
    weights = {key: value.double().numpy() for key, value in trunk.state_dict().items()}
    heads, groups, half = toy.BLOCK["num_attention_heads"], toy.BLOCK["num_key_value_heads"], 4
    inverse = toy.BLOCK["rope_theta"] ** (-np.arange(half) / half)
    axes = np.outer(np.arange(len(x)), inverse)[None].repeat(3, 0)  # time, height, width: all the same position
    angles = axes[0].copy()
    for axis in (1, 2) if sections else ():
        taken = slice(axis, sections[axis] * 3, 3)
        angles[:, taken] = axes[axis][:, taken]
    cos, sin = np.tile(np.cos(angles), 2), np.tile(np.sin(angles), 2)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weights[f"{name}.weight"]

    def turned(x: np.ndarray) -> np.ndarray:
        return x * cos + np.concatenate([-x[:, half:], x[:, :half]], 1) * sin

    for block in ("layers.0", "layers.1"):
        inner = norm(x, f"{block}.input_layernorm")
        query, key, value = (
            np.split(inner @ weights[f"{block}.self_attn.{name}_proj.weight"].T, count, axis=1)
            for name, count in (("q", heads), ("k", groups), ("v", groups))
        )
        outputs = []
        for head in range(heads):
            group = head // (heads // groups)
            q = turned(norm(query[head], f"{block}.self_attn.q_norm"))
            k = turned(norm(key[group], f"{block}.self_attn.k_norm"))
            scores = np.exp(q @ k.T / np.sqrt(2 * half)) * np.tri(len(x))
            outputs.append(scores / scores.sum(1, keepdims=True) @ value[group])
        x = x + np.concatenate(outputs, 1) @ weights[f"{block}.self_attn.o_proj.weight"].T
        inner = norm(x, f"{block}.post_attention_layernorm")
        gate, up, down = (weights[f"{block}.mlp.{name}_proj.weight"].T for name in ("gate", "up", "down"))
        x = x + ((inner @ gate) / (1 + np.exp(-inner @ gate)) * (inner @ up)) @ down
    return norm(x, "norm")


# --- defects of upstream, by name (facts/upstream_a.md 1.3) ---------------------------------------------------------


def states(network: Qwen3TTSNetwork, row: Example) -> tuple[torch.Tensor, int]:
    """Hidden states of the whole sequence, and the position of codec bos, from network and row alone."""
    prompt = network.prompt(row.text)
    text = torch.tensor([[*prompt.text, *[network.ids.tts_pad] * len(row.codes)]])
    codec = torch.cat([prompt.codec, torch.from_numpy(row.codes)])[None]
    embeds = network.embed(text, codec, torch.from_numpy(row.speaker_embedding)[None])
    return network.talker.model.run(embeds)[0], len(prompt) - 1


def test_defect_1_the_talkers_labels_are_shifted_once(family, folder):
    """Upstream scored label j + 2 from state j: speech got faster with every epoch."""
    network, row = family.network(folder), toy.examples()[2]
    hidden, bos = states(network, row)
    weight = network.talker.codec_head.weight
    logits = hidden[bos:] @ torch.cat([weight[:FIRST], weight[[network.ids.eos]]]).T
    labels = torch.tensor([*row.codes[:, 0], FIRST])
    aligned, shifted = F.cross_entropy(logits, labels), F.cross_entropy(logits[:-1], labels[1:])
    measured = family.loss(network, family.batch(network, [row])).parts["talker"]
    assert measured == pytest.approx(aligned.item(), abs=1e-5)
    assert abs(measured - shifted.item()) > 0.01


def test_defect_2_head_i_learns_codebook_i_plus_1_and_none_is_left_out(family, folder):
    """Upstream's head i learned codebook i + 2, and the last codebook was never trained."""
    network, row = family.network(folder), toy.examples()[2]
    hidden, bos = states(network, row)
    predictor = network.talker.code_predictor
    aligned, shifted = [], []
    for k, codes in enumerate(torch.from_numpy(row.codes).long()):
        tables = [network.talker.model.codec_embedding, *predictor.model.codec_embedding]
        embeds = torch.stack([hidden[bos + k], *(tables[i](codes[i]) for i in range(CODEBOOKS - 1))])
        out = predictor.run(embeds[None])[0]
        aligned += [F.cross_entropy(predictor.lm_head[i - 1](out[i]), codes[i]) for i in range(1, CODEBOOKS)]
        shifted += [F.cross_entropy(predictor.lm_head[i - 1](out[i]), codes[i + 1]) for i in range(1, CODEBOOKS - 1)]
    result = family.loss(network, family.batch(network, [row]))
    assert result.parts["code_predictor"] == pytest.approx(torch.stack(aligned).mean().item(), abs=1e-5)
    assert abs(result.parts["code_predictor"] - torch.stack(shifted).mean().item()) > 0.1
    result.total.backward()
    for head in predictor.lm_head:
        assert head.weight.grad.abs().max() > 1e-4


def test_defect_3_the_predictor_starts_from_a_state_that_has_not_read_its_frame(family, folder):
    """Upstream took the state of the frame itself: all sixteen codes stood in its input."""
    network, row = family.network(folder), toy.examples()[2]
    changed = replace(row, codes=row.codes.copy())
    changed.codes[3, 1:] = (changed.codes[3, 1:] + 5) % RESIDUAL  # what codebook 1 … of frame 3 must not know
    before, after = (decisions(network, family.batch(network, [one]))[2] for one in (row, changed))
    torch.testing.assert_close(after[:4, 0], before[:4, 0])
    torch.testing.assert_close(after[:3], before[:3])
    assert (after[4, 0] - before[4, 0]).abs().max() > 1e-2  # the next frame knows


@pytest.mark.parametrize("width", [20, 32])
def test_defect_4_text_goes_through_its_projection(family, width):
    """Upstream's training left it out: a crash where the widths differ, wrong embeddings where they do not. Its biases
    reach every position that has text, and none that has not: each has, so that no mask is needed after it."""
    network = toy.network(text_hidden_size=width)
    with torch.no_grad():
        network.talker.text_projection.linear_fc2.bias.fill_(0.5)
    row, talker = toy.examples()[1], network.talker
    batch = family.batch(network, [row])
    embedded = network.embed(batch["text"], batch["codec"], batch["speaker"])[0]
    weights, last = talker.text_projection, batch["text"].shape[1] - 1
    words = talker.model.text_embedding(batch["text"][0]) @ weights.linear_fc1.weight.T + weights.linear_fc1.bias
    words = F.silu(words) @ weights.linear_fc2.weight.T + 0.5
    tables = [talker.model.codec_embedding, *talker.code_predictor.model.codec_embedding]
    frame = sum(table.weight[code] for table, code in zip(tables, row.codes[-1], strict=True))
    torch.testing.assert_close(embedded[0], words[0])
    torch.testing.assert_close(embedded[8], words[8] + tables[0].weight[network.ids.pad])
    torch.testing.assert_close(embedded[last], words[last] + frame)
    family.loss(network, batch).total.backward()
    assert weights.linear_fc1.weight.grad.abs().max() > 0


def test_defect_5_a_speaker_is_not_whoever_came_first(family, folder):
    """Upstream's row 3000 is the vector of the first item of the first batch. Here each utterance has its own, and the
    voice that is generated with is the mean over clips, in whatever order they come."""
    network, rows = family.network(folder), toy.examples()
    forward, backward = family.batch(network, rows), family.batch(network, rows[::-1])
    torch.testing.assert_close(forward["speaker"], backward["speaker"].flip(0), rtol=0, atol=0)
    np.testing.assert_array_equal(forward["speaker"].numpy(), np.stack([row.speaker_embedding for row in rows]))
    assert loss(family, network, rows) == pytest.approx(loss(family, network, rows[::-1]), abs=1e-5)
    voice = tokenise.voice_of(rows)
    np.testing.assert_array_equal(voice.speaker_embedding, tokenise.voice_of(rows[::-1]).speaker_embedding)
    np.testing.assert_allclose(voice.speaker_embedding, np.mean([row.speaker_embedding for row in rows], 0), rtol=1e-6)


def test_the_speaker_vector_reaches_every_decision(family, folder):
    network, row = family.network(folder), toy.examples()[0]
    other = replace(row, speaker_embedding=toy.vector(99))
    assert abs(loss(family, network, [row]) - loss(family, network, [other])) > 1e-3


@pytest.mark.parametrize("adapt", [LORA, SFT])
def test_defect_6_a_checkpoint_keeps_the_speaker_encoder(family, folder, tmp_path, adapt):
    """Upstream drops every key that starts with speaker_encoder: nothing can be measured from such a folder."""
    adapted = trained_a_little(family, family.network(folder), adapt, toy.examples(), 0.02)
    merged = family.merged(folder, family.adapter_state(adapted, adapt), adapt, 1.0)
    family.save(merged, tmp_path)
    again = family.network(tmp_path)
    assert again.speaker_encoder is not None
    saved = load_arrays(tmp_path / "model.safetensors")
    assert {"speaker_encoder.linear.weight", "speaker_encoder.linear.bias"} <= saved.keys()


def test_defect_references_of_different_length_share_a_batch(family, folder):
    """Upstream concatenates reference spectrograms along the batch: two lengths crash it. Here they are vectors."""
    tone = 0.1 * np.sin(np.arange(48000) / 20).astype(np.float32)
    rows = [
        replace(row, speaker_embedding=voiceprint(analyse(tone[: 16000 * (n + 1)])))
        for n, row in enumerate(toy.examples())
    ]
    network = family.network(folder)
    assert family.batch(network, rows)["speaker"].shape == (3, network.speaker_size)


def test_defect_config_is_written_so_that_it_reads_back(folder, tmp_path):
    """Upstream's own class writes fields into config.json that its constructor refuses."""
    network = Qwen3TTSNetwork.load(folder)
    network.save(tmp_path)
    assert Qwen3TTSNetwork.load(tmp_path).config == network.config == toy.network().config
