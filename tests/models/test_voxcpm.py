"""VoxCPM: training scores what generation decides and draws, and upstream's traps are absent."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file

import models.voxcpm
from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Contract, Example, Sampling, Voice
from models.small.linear_codec import LinearCodec, LinearNetwork
from models.small.vocoder import analyse
from models.voxcpm import VoxCPM, dataset, decisions
from models.voxcpm.adapter import CONFIG, WEIGHTS, write
from models.voxcpm.network import VoxCPMNetwork
from stages.train import selfcheck
from tests import toy_voxcpm as toy
from tests.demo_speech import RATE, joined
from tests.family_checks import (
    assert_a_batch_without_labels_stops_the_run,
    assert_padding_changes_no_decision,
    assert_second_shift_is_caught,
    loss,
    toy_fixtures,
    trained_a_little,
)

NOTHING = np.zeros(0, np.float32)
CLIPS = ("agent-newlocation", "agent-pass", "agent-user")
NOBODY = Voice("nobody", NOTHING)
REFERENCE = Voice("toy", NOTHING, (replace(toy.examples()[1], text="Hold the line, please."),))
TEXTS = ["Hello.", "Press one, or hold the line for someone.", "No"]
SEEDS, LIMITS = [0, 20, 40], [40, 25, 2]
SAMPLING = Sampling(temperature=1.0, guidance=1.0, euler_steps=4)
LORA = AdaptSettings("lora", 4, 8.0, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj", "lm_to_dit_proj"))
SFT = AdaptSettings("sft")
CONTRACT = Contract("toy", "", 44100, 12.5, toy.FRAME, ())
family, folder = toy_fixtures(VoxCPM, toy.folder)


# --- one alignment rule -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("voice", [NOBODY, REFERENCE], ids=["alone", "after a reference"])
@pytest.mark.parametrize("sampling", [SAMPLING, replace(SAMPLING, guidance=0.0)])
def test_training_scores_the_stops_and_patches_that_generation_makes(family, folder, voice, sampling):
    """Generated in a batch of unequal prompts and lengths, with caches; scored in one pass each."""
    network = family.network(folder)
    takes = family.generate(network, TEXTS, voice, sampling, SEEDS, LIMITS)
    assert {take.finish for take in takes} == {"stop", "length"}  # both ends are covered
    for text, take in zip(TEXTS, takes, strict=True):
        assert len(take.logprobs) == 2 * len(take.codes)  # the patch with which the stop came is one
        np.testing.assert_allclose(family.decision_logprobs(network, text, voice, take), take.logprobs, atol=1e-4)


@pytest.mark.parametrize("key", ["labels", "tokens", "values", "targets"])
def test_a_label_shifted_twice_is_caught(family, folder, monkeypatch, key):
    assert_second_shift_is_caught(family, family.network(folder), monkeypatch, models.voxcpm, "_pad", key, TEXTS[1], NOBODY)


@pytest.mark.parametrize("late", ["residual", "previous"])
def test_a_state_that_is_late_by_one_patch_is_refused_by_name(family, folder, monkeypatch, late):
    """Upstream's stop is decided right in both cases, and a log-probability of it sees neither."""
    network, honest = family.network(folder), models.voxcpm.decisions
    selfcheck.alignment(family, network, TEXTS[1], NOBODY, 5)

    def shifted(network: VoxCPMNetwork, batch: dict[str, torch.Tensor]):
        logits, ends, condition, previous, wanted = honest(network, batch)
        if late == "residual":
            condition = condition.roll(1, 0)
        else:
            previous = previous.roll(1, 0)
        return logits, ends, condition, previous, wanted

    monkeypatch.setattr(models.voxcpm, "decisions", shifted)
    with pytest.raises(UserError, match=r"voxcpm: training and generation disagree by \d+\.\d+ on the same patch, in step \d+; .*misaligned"):
        selfcheck.alignment(family, network, TEXTS[1], NOBODY, 5)


def test_the_loss_is_the_velocitys_error_and_the_mean_of_the_stops(family, folder):
    network = family.network(folder)
    take = next(t for t in family.generate(network, TEXTS, NOBODY, SAMPLING, SEEDS, LIMITS) if t.finish == "stop")
    text = TEXTS[1] if len(take.codes) > 5 else TEXTS[0]
    row = Example("a", text, "toy", take.codes)
    batch = family.batch(network, [row])
    result = family.loss(network, batch)
    stops = family.decision_logprobs(network, text, NOBODY, take)[::2]
    assert result.parts["stop"] == pytest.approx(-stops.mean(), abs=1e-5)
    assert result.labels == len(take.codes)
    assert result.total.item() == pytest.approx(sum(result.parts.values()), abs=1e-5)


def test_what_patches_are_drawn_from_comes_utterance_by_utterance(family, folder):
    """As the phones do that a base learns to tell from it (stages/bases)."""
    network, rows = family.network(folder), toy.examples()
    _, together = family.base_loss(network, family.batch(network, rows))
    alone = [family.base_loss(network, family.batch(network, [row]))[1] for row in rows]
    assert [len(one) for one in alone] == [len(row.codes) for row in rows]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_what_is_learnt_by_heart_is_said(family):
    """One utterance, trained to the end, comes out of generation: its length, and its patches from noise."""
    network = toy.network().train()
    row = toy.examples(1)[0]
    row = replace(row, codes=np.concatenate([row.codes, row.codes[::-1]])[:5])
    torch.manual_seed(3)
    batch = family.batch(network, [row] * 16)  # each with noise of its own
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(200):
        optimizer.zero_grad()
        family.loss(network, batch).total.backward()
        optimizer.step()
    (take,) = family.generate(network, [row.text], NOBODY, replace(SAMPLING, guidance=0.0, euler_steps=10), [9], [10])
    assert take.finish == "stop" and len(take.codes) == 5
    assert np.abs(take.codes - row.codes).mean() < 0.35  # noise alone is 1.1 off


# --- a batch is only a batch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("voice", [NOBODY, REFERENCE], ids=["alone", "after a reference"])
def test_a_seed_alone_decides_a_take_whatever_its_batch(family, folder, voice):
    network = family.network(folder)
    together = family.generate(network, TEXTS, voice, SAMPLING, SEEDS, LIMITS)
    for text, seed, limit, take in zip(TEXTS, SEEDS, LIMITS, together, strict=True):
        (alone,) = family.generate(network, [text], voice, SAMPLING, [seed], [limit])
        assert alone.finish == take.finish
        np.testing.assert_allclose(alone.codes, take.codes, atol=1e-4)
    (other,) = family.generate(network, TEXTS[:1], voice, SAMPLING, [2], [40])
    assert np.abs(other.codes[:3] - together[0].codes[:3]).max() > 0.1


def test_padding_changes_no_decision_and_no_noise(family, folder):
    network, rows = family.network(folder), toy.examples()
    with torch.no_grad():
        assert_padding_changes_no_decision(family, network, rows, decisions)
    diffusion = [family.loss(network, family.batch(network, [row])).parts["diffusion"] for row in rows]
    mean = np.average(diffusion, weights=[len(row.codes) for row in rows])
    assert family.loss(network, family.batch(network, rows)).parts["diffusion"] == pytest.approx(mean, abs=1e-5)


def test_defect_the_validation_loss_is_always_the_same(family, folder):
    """Upstream's draws times, noise and dropped states in eval mode as well."""
    network = family.network(folder)
    assert len({loss(family, network, toy.examples()) for _ in range(3)}) == 1
    network.train()
    assert len({loss(family, network, toy.examples()) for _ in range(3)}) == 3


def test_a_take_that_does_not_end_is_made_again_as_often_as_the_setting_says(family, folder):
    network = family.network(folder)
    (never,) = family.generate(network, TEXTS[:1], NOBODY, SAMPLING, [7], [2])  # too short a limit for any stop
    (again,) = family.generate(network, TEXTS[:1], NOBODY, replace(SAMPLING, retries=3), [7], [2])
    (fourth,) = family.generate(network, TEXTS[:1], NOBODY, SAMPLING, [10], [2])
    assert never.finish == again.finish == "length"
    np.testing.assert_array_equal(again.codes, fourth.codes)
    ends = next(seed for seed in range(40) if one(family, network, seed).finish == "stop" and one(family, network, seed + 1).finish == "stop")
    np.testing.assert_array_equal(one(family, network, ends, retries=2).codes, one(family, network, ends).codes)


def one(family, network, seed, retries=0):
    (take,) = family.generate(network, ["Hello there."], NOBODY, replace(SAMPLING, retries=retries), [seed], [40])
    return take


# --- adapters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [LORA, SFT])
def test_merged_weights_equal_base_and_adapter(family, folder, how):
    adapted = trained_a_little(family, family.network(folder), how, toy.examples(), 0.1)
    state = family.adapter_state(adapted, how)
    base, tuned = loss(family, family.network(folder), toy.examples()), loss(family, adapted, toy.examples())
    assert abs(base - tuned) > 1e-3
    assert loss(family, family.merged(folder, state, how, 1.0), toy.examples()) == pytest.approx(tuned, abs=1e-5)
    assert loss(family, family.merged(folder, state, how, 0.0), toy.examples()) == pytest.approx(base, abs=1e-6)


def test_defect_the_encoder_of_patches_is_never_adapted(family, folder):
    """PEFT by last names alone would, and upstream could not load what comes of it."""
    trained = {name for name, p in family.adapt(family.network(folder), LORA).named_parameters() if p.requires_grad}
    assert trained and not [name for name in trained if name.startswith("feat_encoder")]
    assert {name.split(".")[0] for name in trained} == {"base_lm", "residual_lm", "feat_decoder", "lm_to_dit_proj"}


@pytest.mark.parametrize("targets", [("gate_proj",), ("encoder.q_proj",), ("q_proj", "stop_proj")])
def test_a_layer_that_upstream_does_not_adapt_is_refused(family, folder, targets):
    with pytest.raises(UserError, match="voxcpm: targets: there is no .*; use q_proj"):
        family.adapt(family.network(folder), replace(LORA, targets=targets))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_adapters_file_is_what_was_merged_whatever_alpha_was(family, folder, tmp_path, scale):
    """Upstream's rule on the file, weight + alpha / r × B A, where its package may take alpha = 2 r without asking."""
    settings = replace(LORA, alpha=3.0)
    adapted = trained_a_little(family, family.network(folder), settings, toy.examples(), 0.1)
    state = family.adapter_state(adapted, settings)
    write(state, settings, scale, "openbmb/VoxCPM1.5", tmp_path)
    said = json.loads((tmp_path / CONFIG).read_text())
    config, tensors = said["lora_config"], load_file(tmp_path / WEIGHTS)
    assert said["base_model"] == "openbmb/VoxCPM1.5" and config["alpha"] == 2 * config["r"] == 8
    assert config["enable_lm"] and config["enable_dit"] and config["target_proj_modules"] == ["lm_to_dit_proj"]
    assert config["target_modules_lm"] == config["target_modules_dit"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    plain, merged = family.network(folder).state_dict(), family.merged(folder, state, settings, scale).state_dict()
    layers = {name.rpartition(".")[0] for name in tensors}
    for layer in layers:
        made = plain[f"{layer}.weight"] + 2 * tensors[f"{layer}.lora_B"] @ tensors[f"{layer}.lora_A"]
        torch.testing.assert_close(made, merged[f"{layer}.weight"], atol=1e-5, rtol=1e-5)
    untouched = [name for name in plain if name.removesuffix(".weight") not in layers]
    assert all(torch.equal(plain[name], merged[name]) for name in untouched)


# --- what does not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((0, toy.FRAME), np.float32), "utterance utt-0: no frames"),
        (np.zeros((3, 5), np.float32), "utterance utt-0: 5 values a frame, but the network has 12"),
        (np.full((3, toy.FRAME), np.nan, np.float32), "utterance utt-0: a value is no finite number"),
        (np.zeros((600, toy.FRAME), np.float32), "room for 512"),
    ],
)  # fmt: skip
def test_an_utterance_that_does_not_fit_is_named(family, folder, codes, message):
    with pytest.raises(UserError, match=message):
        family.batch(family.network(folder), [replace(toy.examples(1)[0], codes=codes)])


def test_a_batch_without_labels_stops_the_run(family, folder):
    assert_a_batch_without_labels_stops_the_run(family, family.network(folder), toy.examples())


@pytest.mark.parametrize(("change", "message"), [({"codebooks": 8}, "12 values a patch, but the codec 8"), ({"vocabulary": (9,)}, "has codes")])
def test_another_codec_is_refused(family, folder, change, message):
    network = family.network(folder)
    family.check_shapes(network, CONTRACT)
    with pytest.raises(UserError, match=message):
        family.check_shapes(network, replace(CONTRACT, **change))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["lm_config"]["rope_scaling"].pop("short_factor"), "KeyError: 'short_factor'"),
        (lambda c: c["lm_config"]["rope_scaling"].update(short_factor=[1.0]), "encoder_config: heads of 8, but rotary factors for 2"),
        (lambda c: c["lm_config"].update(no_rope=True), "no_rope: that is VoxCPM 2"),
        (lambda c: c["dit_config"].update(kv_channels=12), "dit_config: heads of 12"),
        (lambda c: c["dit_config"].update(num_heads=3), "dit_config: 3 heads share 2 of keys and values"),
        (lambda c: c.pop("patch_size"), "KeyError: 'patch_size'"),
    ],
)  # fmt: skip
def test_another_configuration_is_refused_in_one_line(family, folder, tmp_path, edit, message):
    """Rotary factors above all: without them each layer would run, and be another one."""
    values = json.loads((folder / "config.json").read_text())
    edit(values)
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"config.json: .*{message}") as raised:
        family.network(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_control_token_in_a_text_is_refused(family, folder):
    with pytest.raises(UserError, match="audio_start.* is a control token"):
        family.network(folder).prompt("Hello <|audio_start|> there")


# --- the training format ------------------------------------------------------------------------------------------

UNICODE = st.text(st.characters(codec="utf-8"), max_size=30)


@st.composite
def utterances(draw):
    width = draw(st.integers(1, 9))
    values = st.integers(0, 4).flatmap(lambda n: arrays.arrays(np.float32, (n, width), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
    rows = draw(st.lists(st.tuples(UNICODE, UNICODE, UNICODE, values), max_size=5))
    return [Example(*row) for row in rows]


@settings(max_examples=40, deadline=None)
@given(utterances())
def test_what_is_written_is_read_back(tmp_path_factory, examples):
    folder = tmp_path_factory.mktemp("set")
    dataset.write(examples, folder)
    for mine, theirs in zip(dataset.read(folder), examples, strict=True):
        assert (mine.id, mine.text, mine.speaker) == (theirs.id, theirs.text, theirs.speaker)
        assert mine.codes.dtype == np.float32
        np.testing.assert_array_equal(mine.codes, theirs.codes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "data.jsonl").unlink(), "data.jsonl: not there"),
        (lambda f: (f / "latents.npy").unlink(), "latents.npy: not there"),
        (lambda f: (f / "data.jsonl").write_text((f / "data.jsonl").read_text()[:-1]), "data.jsonl: row 3 is cut"),
        (lambda f: (f / "data.jsonl").write_text("{}\n"), "row 1 does not hold audio, text, speaker, patches"),
        (lambda f: (f / "data.jsonl").write_text("x\n"), "row 1 is not JSON"),
        (lambda f: (f / "data.jsonl").write_text("".join((f / "data.jsonl").read_text().splitlines(True)[1:])), "15 patches, but the rows of data.jsonl have 12"),
        (lambda f: (f / "latents.npy").write_bytes((f / "latents.npy").read_bytes()[:-9]), "latents.npy: not a whole NumPy array"),
        (lambda f: np.save(f / "latents.npy", np.zeros((15, 12), np.int32)), "int32 .*, not float32 patches"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path, damage, message):
    dataset.write(toy.examples(), tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=f"{message}.*run the tokenise stage"):
        dataset.read(tmp_path)


# --- the small codec of values ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> LinearCodec:
    config = {"id": "toy", "sample_rate": RATE, "output_sample_rate": RATE, "hop": RATE // 100, "step": 4, "latent": 32, "patch": 2}
    folder, network = tmp_path_factory.mktemp("codec"), LinearNetwork(config)
    frames = analyse(joined(*CLIPS))
    assert network.fit(torch.from_numpy(frames[: len(frames) // 4 * 4])) > 0.9
    (folder / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), folder / "model.safetensors")
    return LinearCodec(folder)


def test_values_are_as_loud_as_noise_and_speech_comes_back(codec):
    speech = joined(*CLIPS)
    (values,) = codec.encode([speech])
    assert values.dtype == np.float32 and values.shape == (-(-len(speech) // codec.samples), 64)
    assert np.square(values).mean() == pytest.approx(1, abs=0.2)
    (back,) = codec.decode([values], NOBODY)
    assert len(back) == len(values) * codec.samples
    before, after = (analyse(one[: len(speech)]) for one in (speech, back))
    count = min(len(before), len(after))
    loud = before[:count, :78].mean(1) > np.median(before[:count, :78].mean(1))
    assert np.abs(before[:count][loud, :78] - after[:count][loud, :78]).mean() < 1.0  # of 11 from silence to full


def test_a_batch_of_clips_equals_single_clips_bit_for_bit(codec):
    waves = [joined(*CLIPS)[:n] for n in (RATE, 3 * RATE // 2, 9999, 1)]
    for one, together in zip(waves, codec.encode(waves), strict=True):
        np.testing.assert_array_equal(codec.encode([one])[0], together)
