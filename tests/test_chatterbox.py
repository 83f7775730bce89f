"""Chatterbox: training scores what generation decides, adapters start from the base, and upstream's defects are absent."""

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
from models.parts.family import AdaptSettings, Contract, Example, Sampling, Voice
from models.parts.text import character_tokenizer
from stages import tokenise, train
from stages.common import selfcheck
from stages.common.files import read_jsonl
from stages.common.tokens import read_contract, read_voice, write_contract
from tests import toy_chatterbox as toy
from tests import toy_cosyvoice
from tests.family_checks import assert_second_shift_is_caught, assert_takes_are_the_same_alone, trained_a_little

ROOT = Path(__file__).parents[1]
LIMITS = [60, 25, 90]
SEEDS = [1, 2, 3]
FREE = Sampling(temperature=1.0, top_k=0, top_p=1.0)
GUIDED = replace(FREE, guidance=0.7)
LORA = AdaptSettings("lora", 4, 8.0, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
SFT = AdaptSettings("sft")
CONTRACT = Contract("toy", "", 16000, 25.0, 1, (toy.CODES,))


@pytest.fixture(scope="module")
def family() -> Chatterbox:
    return Chatterbox()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return toy.folder(tmp_path_factory.mktemp("chatterbox"))


@pytest.fixture
def network(family, folder) -> T3:
    return family.network(folder)


def everyone(rows: int) -> torch.Tensor:
    """`without_text` for rows that all keep their text."""
    return torch.zeros(rows, dtype=torch.bool)


def loss(family: Chatterbox, network: torch.nn.Module, rows=None) -> float:
    with torch.no_grad():
        return float(family.loss(network, family.batch(network, rows or toy.examples())).total)


# --- one alignment rule -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [FREE, GUIDED, Sampling()])
def test_training_scores_the_decisions_that_generation_makes(family, network, sampling):
    """Guided or not: the scores are those of the row that has the text. A batch of unequal texts and lengths."""
    takes = family.generate(network, toy.TEXTS, toy.voice(), sampling, SEEDS, LIMITS)
    if sampling is FREE:
        assert {take.finish for take in takes} == {"stop", "length"}  # both ends are covered
    for text, take in zip(toy.TEXTS, takes, strict=True):
        assert len(take.logprobs) == len(take.codes) + (take.finish == "stop")
        np.testing.assert_allclose(family.decision_logprobs(network, text, toy.voice(), take), take.logprobs, atol=2e-4)


def test_without_a_prompt_as_well(family, network):
    nobody = replace(toy.voice(), prompts=())
    (take,) = family.generate(network, toy.TEXTS[:1], nobody, FREE, [1], [20])
    np.testing.assert_allclose(family.decision_logprobs(network, toy.TEXTS[0], nobody, take), take.logprobs, atol=2e-4)


def test_the_loss_is_the_mean_of_those_decisions_plus_that_of_the_text(family, network):
    voice, text = toy.voice(), toy.TEXTS[2]
    (take,) = family.generate(network, [text], voice, FREE, [3], [200])
    assert take.finish == "stop" and len(take.codes) > 3
    row = Example("x", text, "ann", take.codes, voice.speaker_embedding, voice.prompts[0].codes)
    batch = family.batch(network, [row])
    result = family.loss(network, batch)
    assert result.parts["speech"] == pytest.approx(-take.logprobs.mean(), abs=1e-4)
    assert result.labels == len(take.logprobs)
    # Text: what stands at each place, from the hidden state one place before; the stop is the last.
    embeds, _ = network.embed(batch, everyone(1))
    hidden = network.tfmr(inputs_embeds=embeds).last_hidden_state[0]
    ids, first = torch.tensor(network.script(text)), 2 + toy.CONFIG.perceiver_queries
    scores = network.text_head(hidden[first : first + len(ids) - 1]).log_softmax(-1)
    assert result.parts["text"] == pytest.approx(-scores.gather(1, ids[1:, None]).mean().item(), abs=1e-4)
    assert result.total.item() == pytest.approx(result.parts["speech"] + result.parts["text"], abs=1e-5)


def test_a_label_shifted_twice_is_caught(family, network, monkeypatch):
    assert_second_shift_is_caught(family, network, monkeypatch, models.chatterbox, "_pad", "speech_labels", toy.TEXTS[1], toy.voice())


def test_a_take_that_stops_at_once_is_scored_too(family, network):
    batch = family.batch(network, [replace(toy.examples()[0], text=toy.TEXTS[0])])
    embeds, _ = network.embed(batch, everyone(1))
    with torch.no_grad():  # a head that wants nothing but the stop
        start = network.tfmr(inputs_embeds=embeds).last_hidden_state[0, -1 - len(toy.examples()[0].codes)]
        network.speech_head.weight[toy.CONFIG.stop_speech_token] = 100 * start
    (take,) = family.generate(network, toy.TEXTS[:1], replace(toy.voice(5), prompts=()), Sampling(), [1], [9])
    assert take.codes.shape == (0, 1) and take.finish == "stop"
    forced = family.decision_logprobs(network, toy.TEXTS[0], replace(toy.voice(5), prompts=()), take)
    np.testing.assert_allclose(forced, take.logprobs, atol=1e-4)


# --- a batch is only a batch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [FREE, GUIDED])
def test_a_seed_alone_decides_a_take_whatever_its_batch(family, network, sampling):
    pairs = assert_takes_are_the_same_alone(family, network, toy.TEXTS, toy.voice(), sampling, SEEDS, LIMITS)
    (other,) = family.generate(network, toy.TEXTS[:1], toy.voice(), sampling, [9], LIMITS[:1])
    assert not np.array_equal(other.codes, pairs[0][0].codes)


def test_padding_changes_no_decision(family, network):
    """Unequal prompts (one has none), texts and lengths."""
    rows = toy.examples()
    together = network.logits(family.batch(network, rows), everyone(3))
    alone = [network.logits(family.batch(network, [row]), everyone(1)) for row in rows]
    for batched, single in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(batched, torch.cat(single), atol=2e-4, rtol=0)


def test_a_row_ends_at_its_own_limit_though_the_batch_goes_on(family, network):
    (whole,) = family.generate(network, toy.TEXTS[2:], toy.voice(), FREE, [3], [200])
    assert whole.finish == "stop" and len(whole.codes) > 2
    limits = [len(whole.codes) - 1, len(whole.codes) + 9]
    short, _ = family.generate(network, toy.TEXTS[:0:-1], toy.voice(), FREE, [3, 2], limits)
    assert short.finish == "length" and len(short.codes) == len(short.logprobs) == limits[0]
    (fits,) = family.generate(network, toy.TEXTS[2:], toy.voice(), FREE, [3], [len(whole.codes)])
    assert fits.finish == "stop"


def test_generation_writes_codes_alone(family, network):
    with torch.no_grad():  # the likeliest of all would be the start and the rows that no token has
        network.speech_head.weight[toy.CODES] = network.speech_head.weight[toy.CODES + 2 :] = 0
        network.speech_head.weight[: toy.CODES] *= 0.01
    (take,) = family.generate(network, toy.TEXTS[:1], toy.voice(), Sampling(3.0, 0, 1.0), [1], [60])
    assert take.codes.dtype == np.int32 and take.codes.min() >= 0 and take.codes.max() < toy.CODES


# --- voice, prompt, emotion, guidance -----------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["speaker", "prompt", "emotion"])
def test_all_of_the_conditioning_is_heard(family, network, monkeypatch, change):
    row = toy.examples(3)[2]
    before = network.logits(family.batch(network, [row]), everyone(1))[2]
    if change == "emotion":
        monkeypatch.setattr("models.chatterbox.network.EMOTION", 0.9)
    else:
        other = {"speaker": {"speaker_embedding": -row.speaker_embedding}, "prompt": {"prompt": row.prompt[::-1].copy()}}
        row = replace(row, **other[change])
    assert (network.logits(family.batch(network, [row]), everyone(1))[2] - before).abs().max() > 1e-3


def test_the_sequence_is_upstreams(family, network):
    """Speaker, resampled prompt, emotion, text, speech; both kinds of token with positions of their own."""
    row = toy.examples()[1]
    embeds = network.embed(family.batch(network, [row]), everyone(1))[0][0]
    voice = network.cond_enc.spkr_enc(torch.from_numpy(row.speaker_embedding / np.linalg.norm(row.speaker_embedding)))
    torch.testing.assert_close(embeds[0], voice)
    start = 2 + toy.CONFIG.perceiver_queries
    torch.testing.assert_close(embeds[start - 1], network.cond_enc.emotion_adv_fc.weight[:, 0] * 0.5)
    text = torch.tensor(network.script(row.text))
    torch.testing.assert_close(embeds[start:][: len(text)], network.text_emb(text) + network.text_pos_emb.emb.weight[: len(text)])
    assert len(embeds) == start + len(text) + 2 + len(row.codes)


def test_the_length_of_a_speaker_vector_says_nothing(family, network):
    """Upstream's have length 1; the mean of several, which a voice is, is shorter."""
    rows = toy.examples()
    shorter = [replace(row, speaker_embedding=0.5 * row.speaker_embedding) for row in rows]
    assert loss(family, network, shorter) == pytest.approx(loss(family, network, rows), abs=1e-5)


def test_guidance_is_upstreams_formula(family, network):
    """The likeliest code under told + w (told - untold), where untold has no text but its positions."""
    row = toy.examples()[2]
    voice = Voice("ann", row.speaker_embedding, (replace(row, codes=row.prompt),))
    chosen = []
    for text in toy.TEXTS:
        batch = family.batch(network, [replace(row, text=text)])
        told, untold = (network.logits(batch, torch.tensor([without]))[2][0] for without in (False, True))
        for weight in (0.0, 1.0, 4.0):
            combined = (told + weight * (told - untold))[: toy.CODES]
            (take,) = family.generate(network, [text], voice, Sampling(temperature=0.0, guidance=weight), [1], [1])
            chosen.append(int(take.codes[0, 0]))
            assert chosen[-1] == int(combined.argmax())
    assert len(set(chosen)) > len(toy.TEXTS)  # the weight makes a difference


def test_training_hears_some_utterances_without_their_text_and_validation_none(family):
    rows = toy.examples()
    network = toy.network(text_dropout=1.0)
    batch = family.batch(network, rows)
    network.train()
    network.cond_enc.eval()  # no dropout but that of the text
    untold = network.logits(batch, ~everyone(3))
    dropped = family.loss(network, batch)
    assert dropped.parts["speech"] == pytest.approx(torch.nn.functional.cross_entropy(untold[2], untold[3]).item(), abs=1e-4)
    told = toy.network(text_dropout=0.0).train()
    told.cond_enc.eval()
    assert loss(family, network.eval()) == pytest.approx(loss(family, told), abs=1e-4) != dropped.total.item()


def test_the_perceiver_computes_upstreams_formulas(network):
    """By hand: queries look at the prompt, then at each other, through one layer with one norm."""
    perceiver = network.cond_enc.perceiver
    weights = {name: value.double().numpy() for name, value in perceiver.state_dict().items()}
    prompt = np.random.default_rng(1).normal(size=(7, network.config.width))

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"attn.{name}.weight"].T + weights[f"attn.{name}.bias"]

    def norm(x: np.ndarray) -> np.ndarray:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return scaled * weights["attn.norm.weight"] + weights["attn.norm.bias"]

    def attend(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        queries, keys, values = (np.split(linear(norm(z), n), 4, 1) for z, n in ((x, "to_q"), (y, "to_k"), (y, "to_v")))
        heads = []
        for query, key, value in zip(queries, keys, values, strict=True):
            scores = np.exp(query @ key.T / np.sqrt(query.shape[1]))
            heads.append(scores / scores.sum(1, keepdims=True) @ value)
        return x + linear(np.concatenate(heads, 1), "proj_out")

    looked = attend(weights["pre_attention_query"][0], prompt)
    resampled = perceiver(torch.from_numpy(prompt).float()[None], torch.ones(1, 7, dtype=torch.bool))[0]
    np.testing.assert_allclose(resampled.detach().numpy(), attend(looked, looked), atol=1e-4)


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
    base, tuned = loss(family, family.network(folder)), loss(family, adapted)
    assert abs(base - tuned) > 1e-2
    merged = family.merged(folder, state, settings_, 1.0)
    assert set(merged.state_dict()) == set(family.network(folder).state_dict())
    assert loss(family, merged) == pytest.approx(tuned, abs=1e-4)
    assert loss(family, family.merged(folder, state, settings_, 0.0)) == pytest.approx(base, abs=1e-5)
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


# --- guards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.zeros((0, 1), np.int32)}, "utt-0: no frames"),
        ({"codes": np.full((3, 1), toy.CODES, np.int32)}, "outside its codebook"),
        ({"prompt": np.full((3, 1), -1, np.int32)}, "outside its codebook"),
        ({"codes": np.zeros((1011, 1), np.int32)}, "room for 1010"),
        ({"speaker_embedding": np.zeros(192, np.float32)}, "vector of 192 values, the network takes 6"),
    ],
)
def test_an_utterance_that_does_not_fit_the_network_is_named(family, network, change, message):
    with pytest.raises(UserError, match=message):
        family.batch(network, [replace(toy.examples()[0], **change)])


def test_a_batch_without_labels_stops_the_run(family, network):
    batch = family.batch(network, toy.examples())
    batch["speech_labels"] = torch.full_like(batch["speech_labels"], -100)
    with pytest.raises(UserError, match="no supervised token"):
        selfcheck.usable(family.loss(network, batch), "batch 1")


def test_head_and_codec_must_fit(family, network):
    family.check_shapes(network, CONTRACT)
    with pytest.raises(UserError, match="40 speech codes, but the codec has .41"):
        family.check_shapes(network, replace(CONTRACT, vocabulary=(41,)))
    with pytest.raises(UserError, match="42 rows for speech, but the last id is 45"):
        family.check_shapes(toy.network(stop_speech_token=45, speech_tokens_dict_size=42), CONTRACT)
    with pytest.raises(UserError, match="30 speech codes|stop is 20"):
        family.check_shapes(toy.network(stop_speech_token=20), CONTRACT)
    with pytest.raises(UserError, match="20 rows for text, but the last token is 44"):
        family.check_shapes(toy.network(text_tokens_dict_size=20), CONTRACT)


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
    assert loss(family, family.network(tmp_path)) == loss(family, family.network(folder))
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
    toy.folder(tmp_path / "weights", speaker_embed_size=192)  # beside the codec that is there
    params = yaml.safe_load((tmp_path / "params.yaml").read_text()) | {"models": ["chatterbox"]}
    tiny = params["chatterbox"]["tiny"] | {"weights": "weights"}
    tiny["train"] |= {"epochs": 2, "save_every_n_epochs": 2, "batch_frames": 60, "rank": 2, "alpha": 4, "warmup": 2}
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


# --- defects of upstream and of community trainers, by name (facts 3.3 and 3.4) -------------------------------------


def test_defect_the_loss_runs_and_does_not_score_copying_the_input(family, network):
    """Upstream's scores every token against the position that reads it: a network that copies would be perfect."""
    row = toy.examples()[2]
    with torch.no_grad():
        network.tfmr.layers = network.tfmr.layers[:0]  # the trunk hands on what it reads
        network.speech_pos_emb.emb.weight.zero_()
        network.speech_head.weight.copy_(network.speech_emb.weight * 10)
    batch = family.batch(network, [row])
    *_, logits, labels = network.logits(batch, everyone(1))
    copied = torch.cat([torch.tensor([toy.CONFIG.start_speech_token]), torch.from_numpy(row.codes[:, 0]).long()])
    assert logits.argmax(-1).tolist() == copied.tolist()  # it does copy
    assert labels.tolist() == [*row.codes[:, 0], toy.CONFIG.stop_speech_token]
    assert family.loss(network, batch).parts["speech"] > 5


@pytest.mark.parametrize("length", [1, 74, 75, 149, 150, 151])
def test_defect_no_label_is_masked_but_padding_so_that_short_clips_teach(family, network, length):
    """ST masks the first 150 labels (6 s), GK the first 75: of a short clip nothing is left and the loss is NaN."""
    short = replace(toy.examples()[0], codes=np.ones((length, 1), np.int32))
    network.requires_grad_(True)
    result = family.loss(network, family.batch(network, [short, toy.examples()[1]]))
    assert result.labels == length + 1 + len(toy.examples()[1].codes) + 1
    selfcheck.usable(result, "here")
    alone = family.loss(network, family.batch(network, [short]))
    selfcheck.usable(alone, "here")
    alone.total.backward()
    assert network.speech_head.weight.grad[1].abs().max() > 0


def test_defect_the_first_decision_is_trained(family, network):
    """GK's data have no start token: after its shift nothing ever predicts the first code."""
    rows = toy.examples()
    batch = family.batch(network, rows)
    for row, speech, labels in zip(rows, batch["speech"], batch["speech_labels"], strict=True):
        assert speech[1] == toy.CONFIG.start_speech_token and labels[1] == row.codes[0, 0]


def test_defect_training_reads_the_start_twice_as_generation_does(family, network):
    """Upstream's generation appends a second start, also at position 0, and its trainers don't."""
    row = toy.examples()[1]
    embeds, _ = network.embed(family.batch(network, [row]), everyone(1))
    speech = embeds[0, -2 - len(row.codes) :]
    start = network.speech_emb.weight[toy.CONFIG.start_speech_token] + network.speech_pos_emb.emb.weight[0]
    first = network.speech_emb.weight[row.codes[0, 0]] + network.speech_pos_emb.emb.weight[1]
    torch.testing.assert_close(speech[:3], torch.stack([start, start, first]))


def test_defect_a_prompt_is_not_filled_up_with_a_real_code(family, network):
    """ST fills it up to 150 with code 0, which is a sound like any other."""
    batch = family.batch(network, [toy.examples()[1], replace(toy.examples()[2], prompt=np.ones((PROMPT, 1), np.int32))])
    assert batch["prompt"].shape[1] == PROMPT and batch["prompt_length"].tolist() == [3, PROMPT]
    alone = family.batch(network, [toy.examples()[1]])
    voices = [network.embed(one, everyone(len(one["text"])))[0][0, : 2 + toy.CONFIG.perceiver_queries] for one in (batch, alone)]
    torch.testing.assert_close(*voices, atol=1e-5, rtol=0)
    filled = replace(toy.examples()[1], prompt=np.pad(toy.examples()[1].prompt, ((0, PROMPT - 3), (0, 0))))
    other = network.embed(family.batch(network, [filled]), everyone(1))[0][0, : 2 + toy.CONFIG.perceiver_queries]
    assert (other - voices[1]).abs().max() > 1e-2


def test_defect_guidance_of_zero_works_and_costs_no_second_row(family, network):
    """Upstream's start embedding always has two rows: `cfg_weight=0` raises."""
    rows = []
    network.speech_head.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    family.generate(network, toy.TEXTS, toy.voice(), FREE, SEEDS, [3, 3, 3])
    assert set(rows) == {3}
    rows.clear()
    family.generate(network, toy.TEXTS, toy.voice(), GUIDED, SEEDS, [3, 3, 3])
    assert set(rows) == {6}


def test_defect_generation_leaves_no_alias_in_the_state(family, network, folder, tmp_path):
    """Upstream's `patched_model` doubles every tensor, and safetensors refuses shared storage."""
    family.generate(network, toy.TEXTS, toy.voice(), GUIDED, SEEDS, [3, 3, 3])
    family.save(network, tmp_path)
    assert toy_cosyvoice.contents(tmp_path) == toy_cosyvoice.contents(folder)


def test_defect_no_cap_of_a_thousand_tokens(family):
    """Upstream stops at 1,000 tokens, 40 s, in the middle of a word. The network's own room is the only bound."""
    network = toy.network(llama=toy.CONFIG.llama | {"num_hidden_layers": 1})
    with torch.no_grad():
        network.speech_head.weight[toy.CONFIG.stop_speech_token] = 0
    greedy = Sampling(temperature=0.0)
    (take,) = family.generate(network, toy.TEXTS[:1], toy.voice(), greedy, [1], [5000])
    assert len(take.codes) == toy.CONFIG.max_speech_tokens and take.finish == "length"


def test_defect_training_reads_text_as_generation_does(family, network):
    """The punctuation rules are part of upstream's generation alone."""
    rough, clean = (replace(toy.examples()[1], text=text) for text in ("press  one:two", "Press one,two."))
    assert family.batch(network, [rough])["text"].tolist() == family.batch(network, [clean])["text"].tolist()


def test_defect_validation_draws_no_coin(family, network):
    """A fork drops a fifth of the conditioning at random, whenever it loads an utterance."""
    losses = set()
    for seed in range(4):
        torch.manual_seed(seed)
        losses.add(loss(family, network))
    assert len(losses) == 1
