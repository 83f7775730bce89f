"""CosyVoice 2 and 3: one label shift, adapters that start from the base, the format, and upstream's defects proven absent."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from models.cosyvoice2.network import RELEASED as RELEASED_2
from models.cosyvoice3.network import INSTRUCT
from models.cosyvoice3.network import RELEASED as RELEASED_3
from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Contract, Example, Sampling, Voice
from models.parts.speech_lm import SpeechLM
from models.parts.weights import save_half
from models.small import whisper
from stages.train import selfcheck
from tests.characters import character_tokenizer
from tests.family_checks import (
    assert_a_batch_without_labels_stops_the_run,
    assert_second_shift_is_caught,
    assert_takes_are_the_same_alone,
    trained_a_little,
)

CODES = 40
LORA = AdaptSettings("lora", 4, 8.0, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
NOBODY = Voice("nobody", np.zeros(0, np.float32))
TEXTS = ["Hello.", "Please press one, or hold the line.", "No"]


@pytest.fixture(scope="module", params=["cosyvoice2", "cosyvoice3"])
def toy(request, tmp_path_factory):
    """A family and a folder with a small, randomly initialised network of it."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = character_tokenizer(["<|endoftext|>", "<|endofprompt|>", "You are a helpful assistant."])
    version = int(request.param[-1])
    config = {
        "version": version, "speech_token_size": CODES,
        "llm": {
            "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 48, "tie_word_embeddings": True,
        },
    } | ({"instruct": INSTRUCT} if version == 3 else {})
    torch.manual_seed(version)
    network = SpeechLM(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(str(folder / "tokenizer.json"))
    save_half(network, folder / "model.safetensors")
    return models.load(request.param), folder


def examples(count: int = 3) -> list[Example]:
    rng = np.random.default_rng(count)
    return [
        Example(f"u{i}", TEXTS[i % 3], "ann", rng.integers(0, CODES, (5 + 4 * i, 1), np.int32), rng.normal(size=192).astype(np.float32))
        for i in range(count)
    ]


def test_training_scores_the_decisions_that_generation_makes(toy):
    family, folder = toy
    network = family.network(folder)
    takes = family.generate(network, TEXTS, NOBODY, Sampling(temperature=1.0, top_k=0, top_p=1.0), [1, 2, 3], [200, 6, 200])
    assert {take.finish for take in takes} == {"stop", "length"}  # both ends are covered
    for text, take in zip(TEXTS, takes, strict=True):
        np.testing.assert_allclose(family.decision_logprobs(network, text, NOBODY, take), take.logprobs, atol=1e-4)


def test_a_label_shifted_twice_is_caught(toy, monkeypatch):
    family, folder = toy
    network = family.network(folder)
    assert_second_shift_is_caught(family, network, monkeypatch, models.parts.speech_lm, "_padded", "labels", TEXTS[1], NOBODY)


def test_a_seed_alone_decides_a_take_whatever_its_batch(toy):
    family, folder = toy
    network = family.network(folder)
    assert_takes_are_the_same_alone(family, network, TEXTS, NOBODY, Sampling(), [7, 8, 9], [12, 20, 9])


@pytest.mark.parametrize("mode", ["lora", "sft"])
def test_a_fresh_adapter_leaves_the_base_as_it_is(toy, mode):
    family, folder = toy
    network = family.network(folder)
    wrapped = selfcheck.same_after_wrapping(family, network, replace(LORA, mode=mode), family.batch(network, examples()))
    assert any(p.requires_grad for p in wrapped.parameters())


@pytest.mark.parametrize("mode", ["lora", "sft"])
def test_merged_weights_equal_base_and_adapter(toy, mode):
    family, folder = toy
    adapted = trained_a_little(family, family.network(folder), replace(LORA, mode=mode), examples(), 0.05)
    state = family.adapter_state(adapted, replace(LORA, mode=mode))
    batch = family.batch(adapted, examples())
    base = family.loss(family.network(folder), batch).total.detach()
    merged = family.loss(family.merged(folder, state, replace(LORA, mode=mode), 1.0), batch).total.detach()
    unscaled = family.loss(family.merged(folder, state, replace(LORA, mode=mode), 0.0), batch).total
    assert abs(float(base) - float(merged)) > 1e-3
    assert float(merged) == pytest.approx(float(family.loss(adapted, batch).total.detach()), abs=1e-5)
    assert float(unscaled) == pytest.approx(float(base), abs=1e-6)


def test_merged_weights_have_the_released_keys_and_no_epoch_or_step(toy):
    """Upstream's trainer adds `epoch` and `step`, and PEFT a prefix: strict loading refuses both."""
    family, folder = toy
    adapted = trained_a_little(family, family.network(folder), LORA, examples(), 0.05)
    merged = family.merged(folder, family.adapter_state(adapted, LORA), LORA, 1.0)
    assert set(merged.state_dict()) == set(family.network(folder).state_dict())


def test_a_target_that_does_not_exist_is_named(toy):
    family, folder = toy
    with pytest.raises(UserError, match="qkv_proj.*there are.*q_proj"):
        family.adapt(family.network(folder), replace(LORA, targets=("qkv_proj", "o_proj")))


def test_an_utterance_without_codes_is_named(toy):
    family, folder = toy
    with pytest.raises(UserError, match="u9.*nothing to learn"):
        family.batch(family.network(folder), [replace(examples()[0], id="u9", codes=np.zeros((0, 1), np.int32))])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_loss_of_nan_or_zero_stops_the_run(toy, value):
    family, folder = toy
    network = family.network(folder)
    loss = family.loss(network, family.batch(network, examples()))
    selfcheck.usable(loss, "here")
    loss.total = torch.tensor(value)
    with pytest.raises(UserError, match="the loss is"):
        selfcheck.usable(loss, "here")


def test_a_batch_without_labels_stops_the_run(toy):
    family, folder = toy
    network = family.network(folder)
    assert_a_batch_without_labels_stops_the_run(family, network, examples())


def test_padding_changes_no_loss(toy):
    family, folder = toy
    network, rows = family.network(folder), examples()
    together = family.loss(network, family.batch(network, rows))
    alone = [family.loss(network, family.batch(network, [row])) for row in rows]
    mean = sum(float(x.total) * x.labels for x in alone) / sum(x.labels for x in alone)
    assert float(together.total) == pytest.approx(mean, abs=1e-5)


# --- the format ---------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(texts, st.lists(st.integers(0, 6560), min_size=1, max_size=12)), max_size=5), st.sampled_from(["cosyvoice2", "cosyvoice3"]))
def test_parquet_reads_back_exactly(tmp_path_factory, rows, name):
    family, folder = models.load(name), tmp_path_factory.mktemp("set")
    written = [Example(f"{i} '\"", text, "ann", np.array(codes, np.int32)[:, None], np.float32([0.1, i])) for i, (text, codes) in enumerate(rows)]
    family.write(written, folder)
    back = family.read(folder)
    assert [(e.id, e.text, e.speaker) for e in back] == [(e.id, e.text, e.speaker) for e in written]
    for wanted, found in zip(written, back, strict=True):
        np.testing.assert_array_equal(found.codes, wanted.codes)
        np.testing.assert_array_equal(found.speaker_embedding, wanted.speaker_embedding)


def test_a_thousand_utterances_a_file(tmp_path):
    models.load("cosyvoice3").write(examples(1001), tmp_path)
    names = (tmp_path / "data.list").read_text().split()
    assert [pq.read_metadata(tmp_path / name).num_rows for name in names] == [1000, 1]


# --- defects of upstream, by name ---------------------------------------------------------------------------------


def test_defect_head_has_6761_columns_not_6564():
    """Issue 1680: the width was taken as speech_token_size + 3."""
    with torch.device("meta"):
        three, two = SpeechLM(RELEASED_3), SpeechLM(RELEASED_2)
    assert three.llm_decoder.weight.shape == three.speech_embedding.weight.shape == (6761, 896)
    assert two.llm_decoder.weight.shape == two.speech_embedding.weight.shape == (6564, 896)
    for network in (three, two):
        own = {id(p): p.numel() for p in network.parameters()}  # the tied text head counts once
        assert sum(own.values()) == pytest.approx(506e6, rel=0.01)


def test_defect_instruct_is_never_missing(tmp_path):
    """Without the column upstream's version 3 dies with a KeyError in the middle of the run."""
    models.load("cosyvoice2").write(examples(), tmp_path)
    with pytest.raises(UserError, match="no column instruct"):
        models.load("cosyvoice3").read(tmp_path)


def test_defect_a_file_that_data_list_names_is_never_skipped(tmp_path):
    """Upstream logs a warning and trains on what is left."""
    models.load("cosyvoice3").write(examples(), tmp_path)
    next(tmp_path.glob("*.parquet")).unlink()
    with pytest.raises(UserError, match="it is not there"):
        models.load("cosyvoice3").read(tmp_path)


def test_defect_embeddings_are_float32_and_no_objects(tmp_path):
    models.load("cosyvoice3").write(examples(), tmp_path)
    (row, *_) = models.load("cosyvoice3").read(tmp_path)
    assert row.speaker_embedding.dtype == np.float32
    schema = pq.read_schema(next(tmp_path.glob("*.parquet")))
    assert str(schema.field("utt_embedding").type) == "list<element: float>"


def test_defect_validation_draws_no_coin(toy):
    """Upstream's validation loss depended on Python's global random numbers."""
    family, folder = toy
    network, losses = family.network(folder), set()
    for seed in range(4):
        random.seed(seed)
        torch.manual_seed(seed)
        losses.add(float(family.loss(network, family.batch(network, examples())).total.detach()))
    assert len(losses) == 1


def test_defect_codes_of_version_2_are_refused_by_version_3():
    """Same rate, same range: only the tokeniser's id and hash tell them apart."""
    three = Contract("s3-v3", "aa", 16000, 25.0, 1, (6561,))
    with pytest.raises(UserError, match="tokeniser s3-v2.*run its tokenise stage"):
        three.check(replace(three, tokeniser="s3-v2"), "data/cosyvoice3/tokens/contract.json")
    with pytest.raises(UserError, match="tokeniser_sha256"):
        three.check(replace(three, tokeniser_sha256="bb"), "data/cosyvoice3/tokens/contract.json")
    three.check(three, "same")


def test_defect_audio_over_30_seconds_is_no_empty_list():
    with pytest.raises(UserError, match="over the speech encoder's 30 s"):
        whisper.features(np.zeros(31 * 16000, np.float32))


def test_weights_of_the_other_version_are_refused(toy):
    family, folder = toy
    other = models.load("cosyvoice3" if family.name == "cosyvoice2" else "cosyvoice2")
    with pytest.raises(UserError, match="the other CosyVoice"):
        other.network(folder)


def test_head_and_codec_must_fit(toy):
    family, folder = toy
    with pytest.raises(UserError, match="codec and weights are of two models"):
        family.check_shapes(family.network(folder), Contract("x", "", 16000, 25.0, 1, (CODES + 1,)))


def test_pickled_weights_are_never_loaded(toy, tmp_path):
    family, folder = toy
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((Path(folder) / name).read_bytes())
    torch.save({}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="not a safetensors file"):
        family.network(tmp_path)
