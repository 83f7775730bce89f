"""Chatterbox: what it reads (texts, weights, sets), what its adapters change, and the stages with it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

import models
import models.chatterbox
import models.chatterbox.config
from models.chatterbox import Chatterbox, dataset
from models.chatterbox.config import PROMPT, RELEASED
from models.chatterbox.network import T3
from models.chatterbox.script import SPACE, START, STOP, Script, normalise
from models.parts.errors import UserError
from models.parts.family import Example, Sampling
from stages import tokenise
from stages.common.files import read_jsonl
from stages.common.tokens import read_contract, read_voice, write_contract
from stages.train import __main__ as train
from stages.train import selfcheck
from tests import toy_chatterbox as toy
from tests import toy_cosyvoice
from tests.characters import character_tokenizer
from tests.family_checks import loss, toy_fixtures, trained_a_little
from tests.toy_chatterbox import LORA, SFT

ROOT = Path(__file__).parents[2]
family, folder = toy_fixtures(Chatterbox, toy.folder)


@pytest.fixture
def network(family, folder) -> T3:
    return family.network(folder)


# --- text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("press one", "Press one."),
        ("  Wait...  then go ", "Wait,  then go."),
        ("one; two: three - four", "One,  two, three, four."),
        ("it’s “fine” — yes!", "It's \"fine\" - yes!"),
        ("well ,", "Well,"),
    ],
)
def test_punctuation_becomes_upstreams(text, wanted):
    assert normalise(text) == wanted


def test_a_released_tokenizer_has_a_token_for_the_space():
    tokenizer = character_tokenizer([STOP, START, SPACE])
    config = replace(toy.CONFIG, text_tokens_dict_size=46)
    ids = Script(tokenizer, config)("a b")
    assert ids == [1, tokenizer.token_to_id("a"), 2, tokenizer.token_to_id("b"), tokenizer.token_to_id("."), 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [("  ", "nothing to say"), ("a [STOP] b", "control token"), ("[START]", "control token"), ("ha " * 40, "room for 80")],
)
def test_a_text_that_would_break_the_sequence_is_refused(family, network, text, message):
    with pytest.raises(UserError, match=message):
        family.generate(network, [text], toy.voice(), Sampling(), [1], [5])


# --- adapters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings_", [LORA, SFT])
def test_a_fresh_adapter_leaves_the_base_as_it_is(family, network, settings_):
    wrapped = selfcheck.same_after_wrapping(family, network, settings_, family.batch(network, toy.examples()))
    assert any(p.requires_grad for p in wrapped.parameters())


@pytest.mark.parametrize("settings_", [LORA, SFT, replace(LORA, targets=("v_proj", "spkr_enc"))])
def test_merged_weights_equal_base_and_adapter(family, folder, settings_):
    adapted = trained_a_little(family, family.network(folder), settings_, toy.examples(), 0.01)
    state = family.adapter_state(adapted, settings_)
    base, tuned = loss(family, family.network(folder), toy.examples()), loss(family, adapted, toy.examples())
    assert abs(base - tuned) > 1e-2
    merged = family.merged(folder, state, settings_, 1.0)
    assert set(merged.state_dict()) == set(family.network(folder).state_dict())
    assert loss(family, merged, toy.examples()) == pytest.approx(tuned, abs=1e-4)
    assert loss(family, family.merged(folder, state, settings_, 0.0), toy.examples()) == pytest.approx(base, abs=1e-5)
    half, plain = family.merged(folder, state, settings_, 0.5).state_dict(), family.network(folder).state_dict()
    for key, full in merged.state_dict().items():
        torch.testing.assert_close(half[key], (plain[key] + full) / 2)


def test_lora_trains_the_targets_and_nothing_else(family, network):
    adapted = family.adapt(network, replace(LORA, targets=("q_proj", "spkr_enc")))
    trained = {name.partition(".lora_")[0] for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained == {"tfmr.layers.0.self_attn.q_proj", "tfmr.layers.1.self_attn.q_proj", "cond_enc.spkr_enc"}


def test_a_target_that_does_not_exist_is_named(family, network):
    with pytest.raises(UserError, match="c_attn.*there are.*q_proj"):
        family.adapt(network, replace(LORA, targets=("c_attn", "q_proj")))


def test_an_adapter_of_other_targets_is_refused(family, folder):
    state = family.adapter_state(family.adapt(family.network(folder), LORA), LORA)
    with pytest.raises(UserError, match="do not fit"):
        family.merged(folder, state, replace(LORA, targets=("q_proj",)), 1.0)


# --- weights ------------------------------------------------------------------------------------------------------


def test_released_keys_and_shapes():
    """resemble-ai/chatterbox src/chatterbox/models/t3: every tensor of t3_cfg.safetensors."""
    width, wide = 1024, 4096
    wanted: dict[str, tuple[int, ...]] = {
        "text_emb.weight": (704, width), "text_head.weight": (704, width), "speech_emb.weight": (8194, width),
        "speech_head.weight": (8194, width), "text_pos_emb.emb.weight": (2050, width),
        "speech_pos_emb.emb.weight": (4100, width), "cond_enc.spkr_enc.weight": (width, 256),
        "cond_enc.spkr_enc.bias": (width,), "cond_enc.emotion_adv_fc.weight": (width, 1),
        "cond_enc.perceiver.pre_attention_query": (1, 32, width), "cond_enc.perceiver.attn.norm.weight": (width,),
        "cond_enc.perceiver.attn.norm.bias": (width,), "tfmr.embed_tokens.weight": (8, width), "tfmr.norm.weight": (width,),
    }  # fmt: skip
    for layer in ("to_q", "to_k", "to_v", "proj_out"):
        wanted |= {f"cond_enc.perceiver.attn.{layer}.weight": (width, width), f"cond_enc.perceiver.attn.{layer}.bias": (width,)}
    for number in range(30):
        block = f"tfmr.layers.{number}"
        wanted |= {f"{block}.self_attn.{part}_proj.weight": (width, width) for part in "qkvo"}
        wanted |= {f"{block}.mlp.{part}_proj.weight": (wide, width) for part in ("gate", "up")}
        wanted |= {f"{block}.mlp.down_proj.weight": (width, wide)}
        wanted |= {f"{block}.{norm}.weight": (width,) for norm in ("input_layernorm", "post_attention_layernorm")}
    with torch.device("meta"):
        network = T3(RELEASED)
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == wanted
    assert sum(p.numel() for p in network.parameters()) == 532_405_248
    rotary = network.tfmr.config.rope_parameters
    assert (rotary["rope_type"], rotary["rope_theta"], rotary["factor"]) == ("llama3", 5e5, 8.0)


def test_a_released_folder_needs_no_config_json(family, folder, tmp_path, monkeypatch):
    """Upstream's has none: its sizes are in its code, and here in RELEASED (the toy's stand in for them)."""
    monkeypatch.setattr(models.chatterbox.config, "RELEASED", toy.CONFIG)
    for name in ("t3_cfg.safetensors", "tokenizer.json"):
        shutil.copy(folder / name, tmp_path)
    assert loss(family, family.network(tmp_path), toy.examples()) == loss(family, family.network(folder), toy.examples())
    (tmp_path / "t3_cfg.safetensors").unlink()
    with pytest.raises(UserError, match="config.json: not there"):
        family.network(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("tfmr.norm.weight"), "missing .'tfmr.norm.weight'"),
        (lambda state: state.update({"patched_model.model.norm.weight": torch.ones(2)}), "unexpected .'patched_model"),
        (lambda state: state.update({"text_emb.weight": torch.ones(2454, 32)}), r"text_emb.weight is \(2454, 32\)"),
    ],
)
def test_weights_load_strictly(family, folder, tmp_path, change, message):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    state = {name: tensor.clone() for name, tensor in toy.network().state_dict().items()}
    change(state)
    save_tensors(state, tmp_path / "t3_cfg.safetensors")
    with pytest.raises(UserError, match=message):
        family.network(tmp_path)


def test_pickled_weights_are_never_loaded(family, folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    torch.save({}, tmp_path / "t3_cfg.safetensors")
    with pytest.raises(UserError, match="not a safetensors file"):
        family.network(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"start_text_token": 3}, "START. is 1, config.json says 3"), ({"layers": 3}, "not Chatterbox's configuration")],
)
def test_a_configuration_of_another_network_is_refused(family, folder, tmp_path, change, message):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        family.network(tmp_path)


# --- the format ---------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ids = arrays.arrays(np.int32, st.tuples(st.integers(0, 9), st.just(1)), elements=st.integers(0, 6560))
vectors = arrays.arrays(np.float32, st.integers(0, 4), elements=st.floats(width=32, allow_nan=False))
utterances = st.builds(Example, texts, texts, st.sampled_from(["ann", "bob", "é"]), ids, vectors, ids)


def same(found: list[Example], wanted: list[Example]) -> bool:
    def cells(example: Example) -> tuple:
        parts = (example.codes, example.speaker_embedding, example.prompt)
        return example.id, example.text, example.speaker, *((part.dtype, part.shape, part.tobytes()) for part in parts)

    return [cells(example) for example in found] == [cells(example) for example in wanted]


@settings(max_examples=40, deadline=None)
@given(st.lists(utterances, max_size=6))
def test_the_set_reads_back_exactly(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("set")
    dataset.write(rows, folder)
    assert same(dataset.read(folder), rows)


def test_a_thousand_utterances_a_shard_and_the_same_bytes_for_the_same_set(family, tmp_path):
    rows = [replace(toy.examples()[i % 3], id=f"u{i}") for i in range(2001)]
    for name in ("one", "two"):
        family.write(rows[::-1], tmp_path / name)  # what was there is replaced
        family.write(rows, tmp_path / name)
    assert toy_cosyvoice.contents(tmp_path / "one") == toy_cosyvoice.contents(tmp_path / "two")
    lengths = [len(load_file(file)["id.lengths"]) for file in sorted((tmp_path / "one").iterdir())]
    assert lengths == [1000, 1000, 1]
    assert [row.id for row in family.read(tmp_path / "one")] == [row.id for row in rows]


def test_a_prompt_is_another_utterance_of_the_same_speaker(family, folder):
    def row(name: str, speaker: str, code: int, length: int) -> Example:
        return Example(name, "Hi", speaker, np.full((length, 1), code, np.int32), np.ones(2, np.float32))

    rows = [row("a1", "ann", 1, 4), row("b1", "bob", 2, 5), row("a2", "ann", 3, 400), row("c1", "cy", 4, 9), row("a3", "ann", 5, 6)]
    wanted = {"a1": [5] * 6, "a2": [1] * 4, "a3": [3] * PROMPT, "b1": [], "c1": []}
    for prepared in (family.prepare(rows, folder), family.base_examples(rows, lambda _: np.zeros((0, 1)))):
        assert {one.id: one.prompt[:, 0].tolist() for one in prepared} == wanted
        assert same([replace(one, prompt=rows[0].prompt) for one in prepared], rows)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def without(column: str):
    def change(file: Path) -> None:
        save_file({k: v for k, v in load_file(file).items() if k != column}, file, metadata={"shards": "2"})

    return change


def with_(columns: dict[str, np.ndarray]):
    def change(file: Path) -> None:
        save_file(load_file(file) | columns, file, metadata={"shards": "2"})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.unlink(), "1 shards up to 00000.safetensors, but 00000.safetensors is one of 2"),
        (lambda file: file.rename(file.with_name("00002.safetensors")), "00002.safetensors"),
        (cut, "00001.safetensors: not a whole shard"),
        (without("prompt_tokens"), "no column prompt_tokens"),
        (without("text.lengths"), "no column text"),
        (with_({"speech_tokens": np.zeros(3, np.int64)}), "column speech_tokens is not rows of int32"),
        (with_({"speech_tokens.lengths": np.array([1], np.int32)}), "column speech_tokens is not rows"),
        (with_({"text.lengths": np.zeros(0, np.int32), "text": np.zeros(0, np.uint8)}), "columns of unequal length"),
        (with_({"text.lengths": np.array([1], np.int32), "text": np.array([255], np.uint8)}), "not UTF-8"),
    ],
)
def test_a_broken_set_is_refused_by_name(family, tmp_path, change, message):
    """Community trainers log such a file and train on what is left."""
    family.write([replace(toy.examples()[0], id=f"u{i}") for i in range(1001)], tmp_path)
    change(tmp_path / "00001.safetensors")
    with pytest.raises(UserError, match=message):
        family.read(tmp_path)


def test_an_empty_folder_is_no_set(family, tmp_path):
    with pytest.raises(UserError, match="no .safetensors shards"):
        family.read(tmp_path)


# --- one tokeniser with CosyVoice 2 -------------------------------------------------------------------------------


def test_a_set_of_cosyvoice_2_serves_if_and_only_if_the_contract_says_so(family, network, tmp_path):
    """The same codec files: taken. Another id (as version 3's) or other weights of the same id: refused."""
    cosyvoice2, rows = models.load("cosyvoice2"), toy.examples()
    toy_cosyvoice.weights(tmp_path / "theirs")
    shutil.copytree(tmp_path / "theirs" / "codec", tmp_path / "ours" / "codec")
    theirs, ours = cosyvoice2.codec(tmp_path / "theirs").contract, family.codec(tmp_path / "ours").contract
    cosyvoice2.write(rows, tmp_path / "tokens" / "train")
    write_contract(tmp_path / "tokens", theirs, {"train": len(rows)})
    selfcheck.contracts(family, network, read_contract(tmp_path / "tokens"), ours, "tokens/contract.json")
    taken = cosyvoice2.read(tmp_path / "tokens" / "train")
    family.write(family.prepare(taken, tmp_path), tmp_path / "chatterbox")
    for wanted, found in zip(rows, family.read(tmp_path / "chatterbox"), strict=True):
        np.testing.assert_array_equal(found.codes, wanted.codes)
        assert (found.id, found.text) == (wanted.id, wanted.text) and len(found.prompt)

    toy_cosyvoice.weights(tmp_path / "other", seed=4)
    config = json.loads((tmp_path / "ours" / "codec" / "config.json").read_text())
    for name, field in (("other", "tokeniser_sha256"), ("renamed", "tokeniser")):
        if name == "renamed":
            shutil.copytree(tmp_path / "theirs", tmp_path / name)
            (tmp_path / name / "codec" / "config.json").write_text(json.dumps(config | {"id": "toy-s3-v3"}))
        write_contract(tmp_path / "tokens", cosyvoice2.codec(tmp_path / name).contract, {"train": len(rows)})
        with pytest.raises(UserError, match=f"made with {field} "):
            selfcheck.contracts(family, network, read_contract(tmp_path / "tokens"), ours, "tokens/contract.json")


def test_the_tiny_codec_is_made_as_cosyvoice_2s_and_fits_into_git_with_the_network(family):
    ours, theirs = (yaml.safe_load((ROOT / f"models/{name}/tiny/recipe.yaml").read_text()) for name in ("chatterbox", "cosyvoice2"))
    assert ours["voices"] == theirs["voices"] and ours["codec"] == theirs["codec"]
    network = family.create(ours["network"], 1)
    parameters = sum(p.numel() for p in network.parameters())
    codec = (ROOT / "models/cosyvoice2/tiny/codec/model.safetensors").stat().st_size
    assert 2.5e6 < parameters < 2.9e6 and 2 * parameters + codec < 8e6


# --- the stages ---------------------------------------------------------------------------------------------------


def test_the_stages_tokenise_and_train_it(family, tmp_path, monkeypatch):
    """As DVC starts them, on noises: prompts and the voice's reference reach the training, and it learns."""
    toy_cosyvoice.workplace(tmp_path)
    (tmp_path / "data/cosyvoice3").rename(tmp_path / "data/chatterbox")
    toy.folder(tmp_path / "weights", speaker_embed_size=160)  # beside the codec that is there
    params = yaml.safe_load((tmp_path / "params.yaml").read_text()) | {"models": ["chatterbox"]}
    tiny = params["chatterbox"]["tiny"] | {"weights": "weights"}
    tiny["train"] |= {"epochs": 2, "save_every_n_epochs": 2, "batch_frames": 60, "rank": 2, "alpha": 4, "warmup": 2, "lr": 1e-2}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params | {"chatterbox": {"tiny": tiny}}))
    monkeypatch.chdir(tmp_path)
    tokenise.main(["--model", "chatterbox"])
    rows = family.read(Path("data/chatterbox/tokens/train"))
    assert [len(row.prompt) for row in rows] == [len(rows[i - 1].codes) for i in range(len(rows))]
    (reference,) = read_voice(Path("data/chatterbox/tokens")).prompts
    assert len(reference.codes) == max(len(row.codes) for row in rows)
    train.main(["--model", "chatterbox"])
    losses = [row["validation"]["total"] for row in read_jsonl(Path("data/chatterbox/checkpoints/history.jsonl"))]
    assert len(losses) == 3 and losses[-1] < losses[0]
