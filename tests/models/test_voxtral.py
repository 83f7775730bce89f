"""Voxtral: training scores what generation decides, the flow head sees the same in both, and upstream's traps are absent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import models.voxtral
from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Contract, Sampling, Voice
from models.voxtral import Voxtral, decisions
from models.voxtral.config import RELEASED
from models.voxtral.network import VoxtralNetwork
from stages import resample, tokenise
from stages.common import licences
from stages.common.codes import write_codes
from stages.common.files import write_jsonl
from stages.common.shards import Clip, write_shards
from stages.train import selfcheck
from tests import toy_voxtral as toy
from tests.family_checks import (
    assert_a_batch_without_labels_stops_the_run,
    assert_second_shift_is_caught,
    assert_takes_are_the_same_alone,
    loss,
    toy_fixtures,
    trained_a_little,
)

ROOT = Path(__file__).parents[2]
NOBODY = Voice("nobody", np.zeros(0, np.float32))
TEXTS = ["Hello.", "Press one, or hold the line for someone.", "No"]
SEEDS, LIMITS = [0, 20, 40], [40, 25, 5]
FREE = Sampling(temperature=1.0, top_k=0, top_p=1.0)
GREEDY = Sampling(temperature=0.0)
LORA = AdaptSettings("lora", 4, 8.0, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
HEAD = replace(LORA, targets=("wq", "wk", "wv", "wo", "w1", "w2", "w3"))
SFT = AdaptSettings("sft")
CONTRACT = Contract("toy", "", 24000, 12.5, 37, (toy.SEMANTIC, *[toy.LEVELS] * toy.VALUES))
family, folder = toy_fixtures(Voxtral, toy.folder)


# --- one alignment rule -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [FREE, Sampling(), GREEDY])
def test_training_scores_the_decisions_that_generation_makes(family, folder, sampling):
    """Semantic codes and the end one by one, and how well the flow head's velocity fits each frame's values; generated in a batch
    of unequal prompts and lengths."""
    network = family.network(folder)
    takes = family.generate(network, TEXTS, NOBODY, sampling, SEEDS, LIMITS)
    if sampling is FREE:
        assert {take.finish for take in takes} == {"stop", "length"}  # both ends are covered
    for text, take in zip(TEXTS, takes, strict=True):
        assert len(take.logprobs) == 2 * len(take.codes) + (take.finish == "stop")
        np.testing.assert_allclose(family.decision_logprobs(network, text, NOBODY, take), take.logprobs, atol=1e-4)


def conditions(network: VoxtralNetwork, run) -> torch.Tensor:
    """Every hidden state that the flow head is given while `run` runs: a call's rows after those of the one before."""
    seen: list[torch.Tensor] = []
    hook = network.acoustic_transformer.llm_projection.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    run()
    hook.remove()
    return torch.cat(seen).detach()


def test_the_flow_head_has_the_same_conditions_in_training_and_generation(family, folder):
    network = family.network(folder)
    (take,) = family.generate(network, TEXTS[:1], NOBODY, FREE, [0], [40])
    steps = FREE.euler_steps
    made = conditions(network, lambda: family.generate(network, TEXTS[:1], NOBODY, FREE, [0], [40]))
    drawn, scored = made.view(-1, 2 * steps + 1, toy.CONFIG.dim).split([2 * steps, 1], 1)
    by_frame = drawn.unflatten(1, (steps, 2))  # of each step: with the condition, and without
    assert (by_frame[:, :, 1] == 0).all() and torch.equal(scored[:, 0], by_frame[:, 0, 0])
    row = replace(toy.examples(1)[0], text=TEXTS[0], codes=take.codes)
    trained = conditions(network, lambda: family.loss(network, family.batch(network, [row])))
    assert len(trained) == len(take.codes) > 3
    for step in range(steps):
        torch.testing.assert_close(by_frame[: len(trained), step, 0], trained, atol=1e-5, rtol=0)


def test_generation_follows_the_velocity_that_training_fits(family, folder):
    """From training's hidden states and the seed's noise, Euler's method by hand ends at the codes of the take."""
    network = family.network(folder)
    sampling = replace(FREE, guidance=0.7, euler_steps=3)
    (take,) = family.generate(network, TEXTS[:1], NOBODY, sampling, [0], [40])
    row = replace(toy.examples(1)[0], text=TEXTS[0], codes=take.codes)
    with torch.no_grad():
        _, _, hidden, values = decisions(network, family.batch(network, [row]))
        source, frames = torch.Generator().manual_seed(0), []
        for state in hidden:
            torch.rand(1, generator=source)  # the semantic choice
            x = torch.randn(1, toy.VALUES, generator=source)
            for step in range(3):
                time = torch.tensor([step / 3])
                guided = network.acoustic_transformer.velocity(x, time, state[None])
                free = network.acoustic_transformer.velocity(x, time, torch.zeros(1, toy.CONFIG.dim))
                x = x + (free + 1.7 * (guided - free)) / 3
            frames.append(((x.clamp(-1, 1) + 1) * 10).round())
    np.testing.assert_array_equal(torch.cat(frames).numpy(), take.codes[:, 1:])
    torch.testing.assert_close(values, torch.from_numpy(take.codes[:, 1:]) / 10 - 1)


def test_the_loss_is_the_mean_of_those_decisions_and_of_the_velocitys_error(family, folder):
    network = family.network(folder)
    (take,) = family.generate(network, TEXTS[:1], NOBODY, FREE, [0], [40])
    row = replace(toy.examples(1)[0], text=TEXTS[0], codes=take.codes)
    batch = family.batch(network, [row])
    result = family.loss(network, batch)
    semantic = take.logprobs[::2]  # after each stands the score of the frame's values
    assert result.parts["semantic"] == pytest.approx(-semantic.mean(), abs=1e-5)
    assert result.labels == len(semantic)
    assert result.total.item() == pytest.approx(result.parts["semantic"] + result.parts["acoustic"], abs=1e-5)
    with torch.no_grad():
        _, _, hidden, data = decisions(network, batch)
        source = torch.Generator().manual_seed(int(batch["seeds"][0]))
        noise, time = torch.randn(data.shape, generator=source), torch.rand(len(data), generator=source)
        between = (1 - time)[:, None] * noise + time[:, None] * data
        error = network.acoustic_transformer.velocity(between, time, hidden) - (data - noise)
    assert result.parts["acoustic"] == pytest.approx(float(error.square().mean()), abs=1e-5)


@pytest.mark.parametrize("key", ["labels", "tokens", "codes"])
def test_a_label_shifted_twice_is_caught(family, folder, monkeypatch, key):
    assert_second_shift_is_caught(family, family.network(folder), monkeypatch, models.voxtral, "_pad", key, TEXTS[1], NOBODY)


@pytest.mark.parametrize("late", [2, 3])
def test_a_state_or_a_frame_that_is_late_for_the_flow_head_is_caught(family, folder, monkeypatch, late):
    """The semantic code has a log-probability, and would be scored as ever."""
    network, honest = family.network(folder), models.voxtral.decisions

    def late_by_one(*arguments):
        found = list(honest(*arguments))
        found[late] = torch.roll(found[late], 1, 0)
        return tuple(found)

    monkeypatch.setattr(models.voxtral, "decisions", late_by_one)
    with pytest.raises(UserError, match="disagree by .* on the same acoustic values, in step [0-9]+; .*misaligned"):
        selfcheck.alignment(family, network, TEXTS[1], NOBODY, 5)


def test_a_take_that_stops_at_once_is_scored_too(family, folder):
    network = family.network(folder)
    prompt = torch.tensor([network.prompt(TEXTS[0], "nobody").tokens])
    with torch.no_grad():  # a head that wants nothing but the end
        hidden = network.trunk(inputs_embeds=network.trunk.embed_tokens(prompt)).last_hidden_state[0, -1]
        network.acoustic_transformer.semantic_codebook_output.weight[1] = 100 * hidden
    (take,) = family.generate(network, TEXTS[:1], NOBODY, Sampling(), [1], [9])
    assert take.codes.shape == (0, 37) and take.finish == "stop"
    np.testing.assert_allclose(family.decision_logprobs(network, TEXTS[0], NOBODY, take), take.logprobs, atol=1e-4)


def test_what_is_learnt_by_heart_is_said(family):
    """One utterance, trained to the end, comes out of greedy generation: every code, and the values from noise."""
    torch.manual_seed(3)
    network = VoxtralNetwork.new(replace(toy.CONFIG, n_acoustic_codebook=4), toy.network().tokenizer, 3).train()
    row = toy.examples(1)[0]
    row = replace(row, codes=row.codes[:, :5])
    batch = family.batch(network, [row] * 16)  # each with noise of its own
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    for _ in range(250):
        optimizer.zero_grad()
        family.loss(network, batch).total.backward()
        optimizer.step()
    (take,) = family.generate(network, [row.text], NOBODY, GREEDY, [9], [10])
    assert take.finish == "stop"
    np.testing.assert_array_equal(take.codes[:, 0], row.codes[:, 0])
    assert np.abs(take.codes[:, 1:] - row.codes[:, 1:]).mean() < 1  # of 20; noise alone is 7 off


# --- a batch is only a batch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [FREE, GREEDY])
def test_a_seed_alone_decides_a_take_whatever_its_batch(family, folder, sampling):
    network = family.network(folder)
    pairs = assert_takes_are_the_same_alone(family, network, TEXTS, NOBODY, sampling, SEEDS, LIMITS)
    (other,) = family.generate(network, TEXTS[:1], NOBODY, sampling, [2], [40])
    assert not np.array_equal(other.codes[:3], pairs[0][0].codes[:3])


def test_padding_changes_no_decision_and_no_noise(family, folder):
    network, rows = family.network(folder), toy.examples()
    together = decisions(network, family.batch(network, rows))
    alone = [decisions(network, family.batch(network, [row])) for row in rows]
    for batched, single in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(batched, torch.cat(single), atol=1e-5, rtol=0)
    acoustic = [family.loss(network, family.batch(network, [row])).parts["acoustic"] for row in rows]
    mean = np.average(acoustic, weights=[len(row.codes) for row in rows])
    assert family.loss(network, family.batch(network, rows)).parts["acoustic"] == pytest.approx(mean, abs=1e-5)


def test_the_validation_loss_is_always_the_same_and_the_training_loss_is_not(family, folder):
    network = family.network(folder)
    assert len({loss(family, network, toy.examples()) for _ in range(3)}) == 1
    network.train()
    assert len({loss(family, network, toy.examples()) for _ in range(3)}) == 3


def test_some_frames_train_the_flow_head_without_a_condition(family, folder):
    network = family.network(folder).train()
    torch.manual_seed(1)
    rows = [replace(row, codes=np.tile(row.codes, (20, 1))) for row in toy.examples(1)]
    given = conditions(network, lambda: family.loss(network, family.batch(network, rows * 10)))
    assert float((given == 0).all(1).float().mean()) == pytest.approx(0.1, abs=0.04)


def test_generation_writes_only_codes_and_leaves_the_mode_alone(family, folder):
    network = family.network(folder).train()
    (take,) = family.generate(network, TEXTS[:1], NOBODY, Sampling(3.0, 0, 1.0), [1], [30])
    assert network.training
    assert take.codes.dtype == np.int32 and take.codes.min() >= 0
    assert take.codes[:, 0].max() < toy.SEMANTIC and take.codes[:, 1:].max() < toy.LEVELS


# --- adapters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [LORA, HEAD, SFT])
def test_a_fresh_adapter_leaves_the_base_as_it_is(family, folder, how):
    network = family.network(folder)
    wrapped = selfcheck.same_after_wrapping(family, network, how, family.batch(network, toy.examples()))
    assert any(p.requires_grad for p in wrapped.parameters())


@pytest.mark.parametrize("how", [LORA, HEAD, SFT])
def test_merged_weights_equal_base_and_adapter(family, folder, how):
    adapted = trained_a_little(family, family.network(folder), how, toy.examples(), 0.1)
    state = family.adapter_state(adapted, how)
    base, tuned = loss(family, family.network(folder), toy.examples()), loss(family, adapted, toy.examples())
    assert abs(base - tuned) > 1e-2
    assert loss(family, family.merged(folder, state, how, 1.0), toy.examples()) == pytest.approx(tuned, abs=1e-5)
    assert loss(family, family.merged(folder, state, how, 0.0), toy.examples()) == pytest.approx(base, abs=1e-6)
    half = family.merged(folder, state, how, 0.5).state_dict()
    plain, full = family.network(folder).state_dict(), family.merged(folder, state, how, 1.0).state_dict()
    assert half.keys() == plain.keys()
    for key in plain:
        torch.testing.assert_close(half[key], (plain[key] + full[key]) / 2)


@pytest.mark.parametrize("how", [LORA, SFT])
def test_text_embeddings_stay_frozen(family, folder, how):
    trained = trained_a_little(family, family.network(folder), how, toy.examples(), 0.1)
    before = family.network(folder).trunk.embed_tokens.weight
    torch.testing.assert_close(trained.trunk.embed_tokens.weight, before, rtol=0, atol=0)


def test_lora_reaches_every_target_of_the_trunk_and_nothing_else(family, folder):
    names = {key.rsplit(".", 2)[0] for key in family.adapter_state(family.adapt(family.network(folder), LORA), LORA)}
    blocks = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}
    assert names == {f"trunk.layers.{n}.{block}.{part}" for n in (0, 1) for block, parts in blocks.items() for part in parts}


# --- guards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((0, 37), np.int32), "utterance utt-0: no frames"),
        (np.zeros((3, 10), np.int32), "10 codebooks, but the network has 37"),
        (np.full((3, 37), 21, np.int32), "outside its codebook"),
        (np.eye(3, 37, dtype=np.int32) * 24, "outside its codebook"),
        (np.full((3, 37), -1, np.int32), "outside its codebook"),
        (np.zeros((600, 37), np.int32), "room for 512"),
    ],
)
def test_codes_that_do_not_fit_the_network_are_refused(family, folder, codes, message):
    with pytest.raises(UserError, match=message):
        family.batch(family.network(folder), [replace(toy.examples(1)[0], codes=codes)])


@pytest.mark.parametrize(("text", "message"), [("  ", "nothing to say"), ("a [BEGIN_AUDIO] b", "control token")])
def test_a_text_that_would_break_the_template_is_refused(family, folder, text, message):
    with pytest.raises(UserError, match=message):
        family.generate(family.network(folder), [text], NOBODY, Sampling(), [1], [5])


def test_a_text_without_room_for_speech_is_refused(family, folder):
    with pytest.raises(UserError, match="leaves no room of 512"):
        family.generate(family.network(folder), ["no " * 200], NOBODY, Sampling(), [1], [5])


def test_a_batch_without_labels_stops_the_run(family, folder):
    network = family.network(folder)
    assert_a_batch_without_labels_stops_the_run(family, network, toy.examples())


def test_a_loss_that_is_no_number_stops_the_run(family, folder):
    network = family.network(folder)
    with torch.no_grad():
        network.acoustic_transformer.norm.weight[0] = float("nan")
    with pytest.raises(UserError, match="the loss is nan"):
        selfcheck.usable(family.loss(network, family.batch(network, toy.examples())), "batch 1")


def test_head_and_codec_must_fit(family, folder):
    network = family.network(folder)
    family.check_shapes(network, CONTRACT)
    for vocabulary in [(25, *[21] * 36), (24, *[21] * 35), (24, *[9] * 36)]:
        with pytest.raises(UserError, match="of two models"):
            family.check_shapes(network, replace(CONTRACT, vocabulary=vocabulary))


def test_embedding_rows_must_cover_the_tokenizer(family):
    with pytest.raises(UserError, match="40 text embeddings, but the last token is 46"):
        family.check_shapes(toy.network(vocab_size=40), CONTRACT)


# --- upstream's traps, by name (facts/upstream_b.md 0 and 3) --------------------------------------------------------


def test_defect_the_encoder_was_never_released(family, tmp_path):
    """Upstream's server crashed on the first reference; here the stage stops and says why."""
    codec = family.codec(toy.release(tmp_path))
    with pytest.raises(UserError, match="encoder .* is not in it and was never released.*`takes` in params.yaml"):
        codec.encode([np.zeros(24000, np.float32)])


def test_defect_an_encoder_that_is_there_is_not_denied(family, tmp_path):
    encoder = {"audio_tokenizer.encoder_blocks.0.conv.weight": torch.zeros(1)}
    with pytest.raises(UserError, match="holds an encoder of the codec"):
        family.codec(toy.released_folder(tmp_path, encoder))


def test_defect_fused_lora_names_are_refused(family, folder):
    """With vLLM's names PEFT alone adapts o_proj and down_proj and says nothing of the other two."""
    with pytest.raises(UserError, match="no linear layer is called gate_up_proj, qkv_proj; there are .*q_proj"):
        family.adapt(family.network(folder), replace(LORA, targets=("qkv_proj", "o_proj", "gate_up_proj", "down_proj")))


def test_the_first_stage_says_that_the_encoder_was_never_released(tmp_path):
    card, weights = licences.card("voxtral"), toy.release(tmp_path / "release")
    with pytest.raises(UserError, match="encoder was never released, so recordings can't be .*`takes` in params.yaml"):
        resample.check_encoder(card, weights, tmp_path)
    write_codes(tmp_path, CONTRACT, {})
    resample.check_encoder(card, weights, tmp_path)
    resample.check_encoder(card, ROOT / "models/voxtral/tiny", tmp_path / "recordings")


def test_tokenise_stops_with_that_reason_too(tmp_path, monkeypatch):
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"models": ["voxtral"], "profile": "full"}
    monkeypatch.chdir(tmp_path)
    weights = Path(params["voxtral"]["full"]["weights"])
    toy.release(weights)
    write_jsonl(Path("data/corpus/manifest.jsonl"), [{"id": "a", "text": "Hello.", "speaker": "ann", "seconds": 1.0, "split": "train", "sha256": ""}])
    write_shards(Path("data/voxtral/resampled"), [Clip("a", 24000, np.zeros(24000, np.float32))])
    Path("params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(UserError, match="encoder .* never released"):
        tokenise.main(["--model", "voxtral"])
    assert not Path("data/voxtral/tokens").exists()


@pytest.mark.parametrize("steps", [7, 8])
def test_defect_the_number_of_euler_steps_is_what_the_setting_says(family, folder, steps):
    """Upstream's default made 8 points in time, which are 7 steps."""
    network, times = family.network(folder), []
    head = network.acoustic_transformer
    hook = head.time_projection.register_forward_hook(lambda _, given, __: times.append(float(given[0][0, 0].acos())))
    head.values(torch.zeros(1, toy.CONFIG.dim), torch.zeros(1, toy.VALUES), 0.2, steps)
    hook.remove()
    assert times == pytest.approx([step / steps for step in range(steps)], abs=1e-4)


def test_defect_codes_without_their_offset_are_refused(family, tmp_path):
    """In upstream's numbering 0 and 1 are no codes; without the offset both fit the same tables."""
    family.write(toy.examples(), tmp_path)
    codes = np.load(tmp_path / "codes.npy")
    np.save(tmp_path / "codes.npy", np.maximum(codes - 2, 0))
    with pytest.raises(UserError, match="does not end where its row says"):
        family.read(tmp_path)


def test_defect_the_trunk_has_no_sliding_window_and_no_yarn():
    with torch.device("meta"):
        config = VoxtralNetwork(RELEASED).trunk.config
    assert config.sliding_window is None
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 1e6}


def test_defect_the_padding_of_the_head_is_never_chosen(family, folder):
    """Neither the empty code nor the rows up to 128, however much the head wants them."""
    network = family.network(folder)
    with torch.no_grad():
        weight = network.acoustic_transformer.semantic_codebook_output.weight
        weight[[0, *range(2 + toy.SEMANTIC, len(weight))]] *= 100
    (take,) = family.generate(network, TEXTS[:1], NOBODY, FREE, [1], [20])
    assert len(take.codes) and take.codes[:, 0].max() < toy.SEMANTIC
    np.testing.assert_allclose(family.decision_logprobs(network, TEXTS[0], NOBODY, take), take.logprobs, atol=1e-4)
