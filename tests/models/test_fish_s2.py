"""Fish S2: training scores what generation decides, adapters start from the base, and upstream's defects are absent."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import models.fish_s2
from models.fish_s2 import FishS2, decisions
from models.fish_s2.config import RELEASED, FishConfig
from models.fish_s2.network import FishNetwork
from models.parts.checkpointing import checkpoint_gradients
from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Contract, Sampling, Voice
from stages.train import selfcheck
from tests import toy_fish_s2 as toy
from tests.family_checks import (
    assert_a_batch_without_labels_stops_the_run,
    assert_changed_weights_are_refused,
    assert_padding_changes_no_decision,
    assert_second_shift_is_caught,
    assert_takes_are_the_same_alone,
    loss,
    toy_fixtures,
    trained_a_little,
)

NOBODY = Voice("nobody", np.zeros(0, np.float32))
TEXTS = ["Hello.", "Press one, or hold the line for someone.", "No"]
LIMITS = [40, 25, 5]
FREE = Sampling(temperature=1.0, top_k=0, top_p=1.0)
LORA = AdaptSettings("lora", 4, 8.0, 0.0, ("attention", "mlp"))
SFT = AdaptSettings("sft")
CONTRACT = Contract("toy", "", 44100, 21.53, toy.CODEBOOKS, (toy.SEMANTIC, *[toy.RESIDUAL] * 3))
family, folder = toy_fixtures(FishS2, toy.folder)


# --- one alignment rule -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [FREE, Sampling()])
def test_training_scores_the_decisions_that_generation_makes(family, folder, sampling):
    """Slow decisions, fast ones and the stop, one by one; generated in a batch of unequal prompts and lengths."""
    network = family.network(folder)
    takes = family.generate(network, TEXTS, NOBODY, sampling, [1, 12, 5], LIMITS)
    if sampling is FREE:
        assert {take.finish for take in takes} == {"stop", "length"}  # both ends are covered
    for text, take in zip(TEXTS, takes, strict=True):
        assert len(take.logprobs) == len(take.codes) * toy.CODEBOOKS + (take.finish == "stop")
        np.testing.assert_allclose(family.decision_logprobs(network, text, NOBODY, take), take.logprobs, atol=1e-4)


def test_the_loss_is_the_mean_of_those_decisions(family, folder):
    network = family.network(folder)
    (take,) = family.generate(network, TEXTS[:1], NOBODY, FREE, [1], [40])
    assert take.finish == "stop" and len(take.codes) > 3
    row = replace(toy.examples()[0], text=TEXTS[0], codes=take.codes)
    result = family.loss(network, family.batch(network, [row]))
    frames, stop = take.logprobs[:-1].reshape(-1, toy.CODEBOOKS), take.logprobs[-1]
    assert result.parts["slow"] == pytest.approx(-np.append(frames[:, 0], stop).mean(), abs=1e-5)
    assert result.parts["fast"] == pytest.approx(-frames[:, 1:].mean(), abs=1e-5)
    assert result.labels == len(take.logprobs)
    assert result.total.item() == pytest.approx(result.parts["slow"] + result.parts["fast"], abs=1e-5)


@pytest.mark.parametrize("key", ["labels", "label_codes"])
def test_a_label_shifted_twice_is_caught(family, folder, monkeypatch, key):
    assert_second_shift_is_caught(family, family.network(folder), monkeypatch, models.fish_s2, "_pad", key, TEXTS[2], NOBODY)


def test_a_base_learns_true_frames_from_a_past_whose_residual_codes_tell_nothing(family, folder):
    network, examples = family.network(folder), toy.examples(40)
    torch.manual_seed(0)
    plain, noisy = family.batch(network, examples), family.base_batch(network, examples)
    assert all(torch.equal(plain[key], noisy[key]) for key in ("tokens", "labels", "label_codes"))
    assert torch.equal(plain["codes"][..., 0], noisy["codes"][..., 0])
    changed = (plain["codes"] != noisy["codes"]).flatten(1).any(1)
    assert 0.6 < changed.float().mean() < 1  # some utterances are left as they are
    frames, read = (batch["codes"][batch["tokens"] >= network.config.semantic_begin_id] for batch in (plain, noisy))
    assert all(set(read[:, book].tolist()) <= set(frames[:, book].tolist()) for book in range(toy.CODEBOOKS))


def test_a_take_that_stops_at_once_is_scored_too(family, folder):
    network = family.network(folder)
    with torch.no_grad():  # a head that wants nothing but the stop
        network.embeddings.weight[network.prompt.im_end] = 100 * network.slow(
            torch.tensor([network.prompt(TEXTS[0]).tokens]), torch.zeros(1, len(network.prompt(TEXTS[0])), 4, dtype=torch.long)
        )[0, -1]
    (take,) = family.generate(network, TEXTS[:1], NOBODY, Sampling(), [1], [9])
    assert take.codes.shape == (0, toy.CODEBOOKS) and take.finish == "stop"
    np.testing.assert_allclose(family.decision_logprobs(network, TEXTS[0], NOBODY, take), take.logprobs, atol=1e-4)


# --- a batch is only a batch --------------------------------------------------------------------------------------


def test_a_seed_alone_decides_a_take_whatever_its_batch(family, folder):
    network = family.network(folder)
    pairs = assert_takes_are_the_same_alone(family, network, TEXTS, NOBODY, FREE, [1, 12, 5], LIMITS)
    (other,) = family.generate(network, TEXTS[:1], NOBODY, FREE, [2], [40])
    assert not np.array_equal(other.codes, pairs[0][0].codes)


def test_padding_changes_no_decision(family, folder):
    assert_padding_changes_no_decision(family, family.network(folder), toy.examples(), decisions)


def test_generation_writes_only_codes_and_leaves_the_mode_alone(family, folder):
    network = family.network(folder).train()
    (take,) = family.generate(network, TEXTS[:1], NOBODY, Sampling(3.0, 0, 1.0), [1], [30])
    assert network.training
    assert take.codes.dtype == np.int32 and take.codes.min() >= 0 and take.codes.max() < toy.SEMANTIC


# --- adapters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [LORA, SFT])
def test_a_fresh_adapter_leaves_the_base_as_it_is(family, folder, settings):
    network = family.network(folder)
    wrapped = selfcheck.same_after_wrapping(family, network, settings, family.batch(network, toy.examples()))
    assert any(p.requires_grad for p in wrapped.parameters())


@pytest.mark.parametrize("settings", [LORA, SFT, replace(LORA, targets=("fast_attention", "fast_mlp", "fast_output", "fast_embeddings"))])
def test_merged_weights_equal_base_and_adapter(family, folder, settings):
    adapted = trained_a_little(family, family.network(folder), settings, toy.examples(), 0.02)
    state = family.adapter_state(adapted, settings)
    base, tuned = loss(family, family.network(folder), toy.examples()), loss(family, adapted, toy.examples())
    assert base - tuned > 1e-2
    assert loss(family, family.merged(folder, state, settings, 1.0), toy.examples()) == pytest.approx(tuned, abs=1e-5)
    assert loss(family, family.merged(folder, state, settings, 0.0), toy.examples()) == pytest.approx(base, abs=1e-6)
    half = family.merged(folder, state, settings, 0.5).state_dict()
    plain, full = family.network(folder).state_dict(), family.merged(folder, state, settings, 1.0).state_dict()
    for key in plain:
        torch.testing.assert_close(half[key], (plain[key] + full[key]) / 2)


def test_targets_mean_what_upstream_means(family, folder):
    def adapted(*targets: str) -> set[str]:
        network = family.adapt(family.network(folder), replace(LORA, targets=targets))
        return {key.rsplit(".", 1)[0] for key in family.adapter_state(network, LORA)}

    blocks = [f"{stack}layers.{n}" for stack in ("", "fast_") for n in (0, 1)]
    both = {f"{block}.attention.{part}" for block in blocks for part in ("wqkv", "wo")}
    assert adapted("attention") == both
    assert adapted("fast_attention") == {name for name in both if name.startswith("fast_")}
    mlp = {f"{block}.feed_forward.w{number}" for block in blocks[2:] for number in (1, 2, 3)}
    assert adapted("fast_mlp", "fast_output") == mlp | {"fast_output"}


@pytest.mark.parametrize(("targets", "message"), [(("q_proj",), "no 'q_proj'; use attention"), ((), "none, so")])
def test_a_target_that_does_not_exist_is_named(family, folder, targets, message):
    with pytest.raises(UserError, match=message):
        family.adapt(family.network(folder), replace(LORA, targets=targets))


def test_an_adapter_of_other_targets_is_refused(family, folder):
    state = family.adapter_state(family.adapt(family.network(folder), LORA), LORA)
    with pytest.raises(UserError, match="is not one of the targets"):
        family.merged(folder, state, replace(LORA, targets=("attention",)), 1.0)
    with pytest.raises(UserError, match="is missing"):
        family.merged(folder, state, replace(LORA, targets=("attention", "mlp", "fast_output")), 1.0)


# --- guards -------------------------------------------------------------------------------------------------------


def test_an_utterance_without_frames_is_named(family, folder):
    with pytest.raises(UserError, match="utterance utt-0: no frames"):
        family.batch(family.network(folder), [replace(toy.examples()[0], codes=np.zeros((0, 4), np.int32))])


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((3, 5), np.int32), "5 codebooks, but the network has 4"),
        (np.full((3, 4), 24, np.int32), "outside its codebook"),
        (np.full((3, 4), -1, np.int32), "outside its codebook"),
        (np.zeros((600, 4), np.int32), "room for 512"),
    ],
)
def test_codes_that_do_not_fit_the_network_are_refused(family, folder, codes, message):
    with pytest.raises(UserError, match=message):
        family.batch(family.network(folder), [replace(toy.examples()[0], codes=codes)])


@pytest.mark.parametrize(
    ("text", "message"),
    [("  ", "nothing to say"), ("a <|im_end|> b", "control token"), ("<|semantic:3|>", "control token")],
)
def test_a_text_that_would_break_the_template_is_refused(family, folder, text, message):
    with pytest.raises(UserError, match=message):
        family.generate(family.network(folder), [text], NOBODY, Sampling(), [1], [5])


def test_a_batch_without_labels_stops_the_run(family, folder):
    network = family.network(folder)
    assert_a_batch_without_labels_stops_the_run(family, network, toy.examples())


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"codebooks": 5}, "4 codebooks, not 5"), ({"vocabulary": (25, 16, 16, 16)}, "codebook 0 has 25 entries"),
     ({"vocabulary": (24, 16, 16, 40)}, "one codebook has 40 entries")],
)
def test_head_and_codec_must_fit(family, folder, changes, message):
    network = family.network(folder)
    family.check_shapes(network, CONTRACT)
    with pytest.raises(UserError, match=message):
        family.check_shapes(network, replace(CONTRACT, **changes))


def test_embedding_rows_must_cover_the_tokenizer(family):
    with pytest.raises(UserError, match="60 embedding rows, but the last token is"):
        family.check_shapes(toy.network(vocab_size=60), CONTRACT)


# --- structure --------------------------------------------------------------------------------------------------------


def test_the_slow_transformer_computes_upstreams_formulas(family, folder):
    """By hand: query, key and value in one matrix, normed, RoPE on neighbouring pairs, grouped heads, SwiGLU."""
    network = family.network(folder)
    config, batch = network.config, family.batch(network, toy.examples(1))
    weights = {key: value.double().numpy() for key, value in network.state_dict().items()}
    x = network.embed(batch["tokens"], batch["codes"])[0].detach().double().numpy()
    half = config.head_dim // 2
    angles = np.outer(np.arange(len(x)), config.rope_base ** (-np.arange(half) / half))

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * weights[f"{name}.weight"]

    def turned(x: np.ndarray) -> np.ndarray:
        pairs = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * angles)
        return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)

    for block in (f"layers.{n}" for n in range(config.n_layer)):
        inner = norm(x, f"{block}.attention_norm") @ weights[f"{block}.attention.wqkv.weight"].T
        heads = np.split(inner, config.n_head + 2 * config.n_local_heads, axis=1)
        outputs = []
        for head in range(config.n_head):
            group = head // (config.n_head // config.n_local_heads)
            query = turned(norm(heads[head], f"{block}.attention.q_norm"))
            key = turned(norm(heads[config.n_head + group], f"{block}.attention.k_norm"))
            scores = np.exp(query @ key.T / np.sqrt(config.head_dim)) * np.tri(len(x))
            outputs.append(scores / scores.sum(1, keepdims=True) @ heads[config.n_head + config.n_local_heads + group])
        x = x + np.concatenate(outputs, 1) @ weights[f"{block}.attention.wo.weight"].T
        inner = norm(x, f"{block}.ffn_norm")
        gate, up, down = (weights[f"{block}.feed_forward.w{number}.weight"].T for number in (1, 3, 2))
        x = x + ((inner @ gate) / (1 + np.exp(-inner @ gate)) * (inner @ up)) @ down
    hidden = network.slow(batch["tokens"], batch["codes"])[0].detach().numpy()
    np.testing.assert_allclose(hidden, norm(x, "norm"), atol=0.02)  # upstream rounds its table of turns to bfloat16


# --- weights ------------------------------------------------------------------------------------------------------


def test_released_size():
    with torch.device("meta"):
        network = FishNetwork(RELEASED)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(4561.9e6, rel=0.01)


def test_a_released_folder_loads_by_its_own_names(family, folder, tmp_path):
    """The nested configuration, upstream's prefixes, two shards with an index: the same network."""
    flat = json.loads((folder / "config.json").read_text())
    own = {"attention_qk_norm", "dim", "head_dim", "intermediate_size", "n_head", "n_local_heads"}
    audio = {name: flat.pop(f"fast_{name}") for name in own}
    audio |= {"vocab_size": flat.pop("codebook_size"), "num_codebooks": flat.pop("num_codebooks")}
    audio |= {"n_layer": flat.pop("n_fast_layer")}
    nested = {
        "model_type": "fish_qwen3_omni", "text_config": flat, "audio_decoder_config": audio,
        "semantic_start_token_id": flat.pop("semantic_begin_id"), "semantic_end_token_id": flat.pop("semantic_end_id"),
    }
    (tmp_path / "config.json").write_text(json.dumps(nested))
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    state = load_file(folder / "model.safetensors")
    audio_keys = {key for key in state if key.startswith(("fast_", "codebook_embeddings"))}
    text = {f"text_model.model.{key}": state[key] for key in state.keys() - audio_keys}
    save_file(text, tmp_path / "a.safetensors")
    audio_state = {f"audio_decoder.{key.removeprefix('fast_')}": state[key] for key in audio_keys}
    save_file(audio_state, tmp_path / "b.safetensors")
    index = dict.fromkeys(text, "a.safetensors") | dict.fromkeys(audio_state, "b.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert loss(family, family.network(tmp_path), toy.examples()) == loss(family, family.network(folder), toy.examples())


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda state: state.pop("norm.weight"), "missing .'norm.weight'"),
     (lambda state: state.update({"epoch": torch.ones(1)}), "unexpected .'epoch'"),
     (lambda state: state.update({"norm.weight": torch.ones(3)}), r"norm.weight is \(3,\)")],
)
def test_weights_load_strictly(family, folder, tmp_path, change, message):
    assert_changed_weights_are_refused(family, folder, tmp_path, change, message)


def test_a_configuration_and_a_tokenizer_of_two_networks_are_refused(family, tmp_path):
    toy.folder(tmp_path, vocab_size=90)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"semantic_begin_id": 4, "semantic_end_id": 27}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="<.semantic:0.> is 3, config.json says 4"):
        family.network(tmp_path)


def test_an_older_fish_network_is_refused(family, tmp_path):
    toy.folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"norm_fastlayer_input": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="norm_fastlayer_input is false"):
        FishConfig.load(tmp_path)


# --- defects of upstream, by name (facts/upstream_b.md 2.6) ---------------------------------------------------------


def test_defect_1_codebook_scaling_is_the_same_in_training(family, folder):
    """Without the division by sqrt(codebooks + 1) in training, its logits are off at every frame."""
    network = family.network(folder)
    row = toy.examples()[1]
    batch = family.batch(network, [row])
    first = len(network.prompt(row.text))
    weight = network.codebook_embeddings.weight.view(toy.CODEBOOKS, toy.SEMANTIC, -1)
    summed = network.embeddings.weight[batch["tokens"][0, first]] + sum(weight[k, row.codes[0, k]] for k in range(4))
    embedded = network.embed(batch["tokens"], batch["codes"])[0]
    torch.testing.assert_close(embedded[first], summed / 5**0.5)
    torch.testing.assert_close(embedded[first - 1], network.embeddings.weight[batch["tokens"][0, first - 1]])


def test_defect_2_embedding_lora_with_a_tied_head_is_refused(family, folder):
    with pytest.raises(UserError, match="embeddings can't be adapted: the output head is tied"):
        family.adapt(family.network(folder), replace(LORA, targets=("attention", "mlp", "embeddings")))


def test_defect_3_gradient_checkpointing_reaches_every_adapter(family):
    """Reentrant checkpointing gave none to the slow transformer's adapters. The gradients equal those without it."""
    gradients = []
    for checkpointing in (False, True):
        network = family.adapt(toy.network(), LORA)
        if checkpointing:
            checkpoint_gradients(network)
        for name, parameter in network.named_parameters():
            if "lora_" in name:
                parameter.data = 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
        family.loss(network.train(), family.batch(network, toy.examples())).total.backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.requires_grad})
    plain, checkpointed = gradients
    assert len(plain) == 2 * 5 * 4  # A and B of five layers in each of 2 + 2 blocks
    for name, gradient in plain.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(checkpointed[name], gradient)


def test_defect_4_training_and_generation_share_the_inference_template(family, folder):
    network = family.network(folder)
    row = toy.examples()[0]
    tokens = family.batch(network, [row])["tokens"][0]
    before = tokens[: len(tokens) - len(row.codes)].tolist()
    assert before == network.prompt(row.text).tokens
    text = network.prompt.tokenizer.decode(before, skip_special_tokens=False).replace(" ", "")
    instruction = "<|im_start|>system convert the provided text to speech<|im_end|>"
    turns = f"{instruction}<|im_start|>user {row.text.lower()}<|im_end|><|im_start|>assistant <|voice|>"
    assert text == turns.replace(" ", "")


def test_defect_5_a_folder_without_tokenizer_json_is_refused(family, folder, tmp_path):
    """Upstream warned and went on with semantic ids of 0."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(UserError, match="tokenizer.json"):
        family.network(tmp_path)


def test_defect_6_adapted_layers_keep_the_pretrained_weights(family, folder):
    """Issue 1163: the adapted layers were new and random."""
    base = family.network(folder).state_dict()
    adapted = family.adapt(family.network(folder), LORA).state_dict()
    assert base.keys() == {key for key in adapted if "lora_" not in key}
    for key, value in base.items():
        torch.testing.assert_close(adapted[key], value, rtol=0, atol=0)


def test_defect_validation_does_not_merge_the_adapter_into_the_base(family, folder):
    """loralib's eval() and train() add and subtract the adapter, which does not restore the weights exactly."""
    base = family.network(folder).state_dict()
    trained = trained_a_little(family, family.network(folder), LORA, toy.examples(), 0.02).state_dict()
    for key, value in base.items():
        torch.testing.assert_close(trained[key], value, rtol=0, atol=0)
