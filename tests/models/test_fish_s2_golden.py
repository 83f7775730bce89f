"""S2's language model gives what upstream's own code gave on the same weights (tests/golden/fish_s2)."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from models.fish_s2 import FishS2, _pad, generation
from models.fish_s2.config import RELEASED, FishConfig, own_name
from models.fish_s2.network import FishNetwork
from models.fish_s2.prompt import Layout, Prompt
from models.fish_s2.released.codec import ReleasedCodec
from models.fish_s2.released.dac import DAC, Sizes
from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Example, Sampling, Voice
from models.parts.sampling import draw
from models.parts.text import load_tokenizer, token_id
from models.released import formula
from tests.golden_fixtures import GOLDEN, golden

FISH = GOLDEN / "fish_s2"
GREEDY = Sampling(temperature=1.0, top_k=1, top_p=0.9)  # of ties the likeliest, as upstream's top_k=1 draws
NOBODY = Voice("nobody", np.zeros(0, np.float32))
ATOL = 1e-5
FAMILY = FishS2()


@pytest.fixture(scope="module")
def network() -> FishNetwork:
    """The fixtures' network, whose tokenizer only knows which ids mean what."""
    config = golden("fish_s2/lm_logits")[0]["config"]
    special = {7: "<|im_end|>", 8: "<|im_start|>", 9: "<|voice|>"}
    special |= {config["semantic_begin_id"] + n: f"<|semantic:{n}|>" for n in range(64)}
    words = {special.get(id, f"<{id}>"): id for id in range(config["vocab_size"])}
    known = {field.name for field in fields(FishConfig)}
    made = FishNetwork(FishConfig(**{name: value for name, value in config.items() if name in known}), Tokenizer(WordLevel(words, "<0>")))
    formula.fill(made)
    return made.eval().requires_grad_(False)


def layout(columns: np.ndarray) -> Layout:
    """Of upstream's (1 + K, L)."""
    return Layout(columns[0].tolist(), columns[1:].T.astype(np.int32))


def take(columns: np.ndarray, im_end: int) -> np.ndarray:
    """Codes (T, K) of upstream's (1 + K, T), without the stop."""
    ended = columns[0, -1] == im_end
    return columns[1:, : -1 if ended else None].T


# --- logits and loss ----------------------------------------------------------------------------------------------


def test_slow_and_fast_states_and_logits_are_upstreams(network):
    what, arrays = golden("fish_s2/lm_logits")
    inp, start = torch.from_numpy(arrays["inp"]).long()[None], what["start"]
    tokens, codes = inp[:, 0], inp[:, 1:].transpose(1, 2)
    np.testing.assert_allclose(network.embed(tokens, codes)[0], arrays["slow/embed"], atol=ATOL)
    hidden = network.slow(tokens, codes)[0]
    np.testing.assert_allclose(hidden, arrays["slow/hidden"], atol=ATOL)
    allowed = [*range(300, 364), 7]
    np.testing.assert_allclose(network.slow_logits(hidden), arrays["slow/logits"][:, allowed], atol=ATOL)
    fast = network.fast(hidden[start - 1 : -1], codes[0, start:, :-1])
    np.testing.assert_allclose(fast, arrays["fast/logits"][:, 1:], atol=ATOL)


def test_trap_a_frame_is_divided_by_the_root_of_eleven(network):
    """Upstream's trainer leaves it out, which makes another function of the network: its loss is 6.81, ours 4.73."""
    what, arrays = golden("fish_s2/lm_logits")
    _, slow, _, fast = what["losses"][next(key for key in what["losses"] if key.startswith("inference"))]
    columns = arrays["inp"]
    batch = _pad(network, [(layout(columns[:, :-17]), columns[1:, -17:].T.astype(np.int32))])
    loss = FAMILY.loss(network, batch)
    assert loss.parts == pytest.approx({"slow": slow, "fast": fast}, abs=ATOL)


# --- prompts ------------------------------------------------------------------------------------------------------


def prompts(name: str, tokenizer: Tokenizer) -> tuple[dict[str, Any], Any, Prompt]:
    what, arrays = golden(f"fish_s2/{name}")
    begin = token_id(tokenizer, "<|semantic:0|>")
    last = max(id for token, id in tokenizer.get_vocab().items() if token.startswith("<|semantic:"))
    return what["cases"], arrays, Prompt(tokenizer, begin, last, what["num_codebooks"])


CASES = ["plain", "control_and_space", "one_reference", "tagged_reference", "two_references"]


def references(case: dict[str, Any], arrays: Any, name: str) -> list[Example]:
    return [Example(str(n), text, "", arrays[f"{name}/reference_{n}"].T) for n, text in enumerate(case.get("prompt_text", []))]


@pytest.mark.parametrize("name", CASES)
def test_prompts_with_and_without_references_are_upstreams(name):
    cases, arrays, prompt = prompts("prompts_tiny", load_tokenizer(FISH / "tokenizer.json"))
    made, wanted = prompt(cases[name]["text"], references(cases[name], arrays, name)), arrays[f"{name}/prompt_0"]
    assert made.tokens == wanted[0].tolist()
    np.testing.assert_array_equal(made.codes, wanted[1:].T)


def test_trap_a_text_is_sent_as_it_is():
    """Neither stripped nor normalised: what upstream's trainer cleans, its inference reads."""
    cases, arrays, prompt = prompts("prompts_tiny", load_tokenizer(FISH / "tokenizer.json"))
    text = cases["control_and_space"]["text"]
    assert text != text.strip() and prompt(text).tokens != prompt(text.strip()).tokens
    for one, other in (("Wait…", "Wait..."), ("No!!!", "No!"), ("ﬁne", "fine"), ("two\nlines", "two lines"), ("it’s", "it's")):
        assert prompt(one).tokens != prompt(other).tokens


def test_trap_parts_are_tokenised_one_by_one():
    """No token spans the border of a turn and its text."""
    tokenizer = load_tokenizer(FISH / "tokenizer.json")
    _, _, prompt = prompts("prompts_tiny", tokenizer)
    whole = "<|im_start|>system\nconvert the provided text to speech<|im_end|>\n<|im_start|>user\n\nHello<|im_end|>\n<|im_start|>assistant\n<|voice|>"
    parts = ["<|im_start|>system\n", "convert the provided text to speech", "<|im_end|>\n", "<|im_start|>user\n", "\nHello", "<|im_end|>\n", "<|im_start|>assistant\n<|voice|>"]
    ids = [tokenizer.encode(part, add_special_tokens=False).ids for part in parts]
    assert prompt("\nHello").tokens == sum(ids, [])
    assert tokenizer.decode(prompt("\nHello").tokens, skip_special_tokens=False) == whole


def test_trap_text_before_the_first_speaker_tag_is_read():
    """Upstream drops it. A text is one turn here, whatever tags are in it."""
    tokenizer = load_tokenizer(FISH / "tokenizer.json")
    cases, _, prompt = prompts("prompts_tiny", tokenizer)
    text = cases["turns_in_two_batches"]["text"]
    assert text in tokenizer.decode(prompt(text).tokens, skip_special_tokens=False)


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|voice|>", "<|semantic:3|>", "<|pad|>", "<|audio_start|>", "<|endoftext|>"])
def test_tokens_that_are_no_text_are_refused(token):
    _, _, prompt = prompts("prompts_tiny", load_tokenizer(FISH / "tokenizer.json"))
    with pytest.raises(UserError, match=r"is a control token"):
        prompt(f"a {token} b")
    with pytest.raises(UserError, match=r"is a control token"):
        prompt("a", [Example("r", f"a {token} b", "", np.zeros((2, 4), np.int32))])


def test_a_reference_that_says_nothing_or_has_other_codes_is_named(network):
    for reference, message in (
        (Example("r", "Hello.", "", np.zeros((0, 4), np.int32)), "utterance r: no frames"),
        (Example("r", "Hello.", "", np.zeros((3, 5), np.int32)), "utterance r: 5 codebooks"),
    ):
        with pytest.raises(UserError, match=message):
            FAMILY.generate(network, ["Hi."], Voice("x", np.zeros(0, np.float32), (reference,)), GREEDY, [1], [5])


# --- generation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", "abc")
def test_greedy_takes_are_upstreams(network, name):
    """Some prompts have frames in them, one take stops."""
    _, arrays = golden("fish_s2/lm_generate")
    wanted = take(arrays[f"greedy_{name}"], 7)
    (made,) = generation.generate(network, [layout(arrays[f"prompt_{name}"])], GREEDY, [1], [arrays[f"greedy_{name}"].shape[1]])
    np.testing.assert_array_equal(made.codes, wanted)
    assert made.finish == ("stop" if arrays[f"greedy_{name}"][0, -1] == 7 else "length")


def test_greedy_takes_are_the_same_in_one_batch(network):
    _, arrays = golden("fish_s2/lm_generate")
    layouts = [layout(arrays[f"prompt_{name}"]) for name in "abc"]
    for made, name in zip(generation.generate(network, layouts, GREEDY, [1] * 3, [35] * 3), "abc", strict=True):
        wanted = take(arrays[f"greedy_{name}"], 7)
        np.testing.assert_array_equal(made.codes[: len(wanted)], wanted)


@pytest.mark.parametrize("number", range(4))
def test_drawn_takes_are_upstreams_frame_for_frame(network, monkeypatch, number):
    """With the same random numbers: which entries may be drawn, and when a code counts as repeated."""
    made, wanted = drawn(network, monkeypatch, number)
    np.testing.assert_array_equal(made, wanted)


def drawn(network: FishNetwork, monkeypatch: pytest.MonkeyPatch, number: int) -> tuple[np.ndarray, np.ndarray]:
    what, arrays = golden("fish_s2/lm_generate")
    rows = iter(torch.from_numpy(arrays[f"uniforms_{number}"]))
    monkeypatch.setattr(generation, "uniforms", lambda sources, count: next(rows)[None])
    columns = arrays[f"drawn_{number}"]
    sampling = Sampling(**what["settings"][f"drawn_{number}"])
    (made,) = generation.generate(network, [layout(arrays["prompt_a"])], sampling, [1], [columns.shape[1]])
    return made.codes, take(columns, 7)


def test_trap_the_first_code_is_never_among_the_recent_ones(network, monkeypatch):
    """Upstream's window starts after frame 0: a code that only frame 0 had is not drawn anew."""
    seen: list[np.ndarray] = []
    honest = generation.draw_unrepeated
    monkeypatch.setattr(generation, "draw_unrepeated", lambda logits, random, sampling, recent, *rest: (seen.append(recent[0].numpy().copy()), honest(logits, random, sampling, recent, *rest))[1])
    _, arrays = golden("fish_s2/lm_generate")
    (made,) = generation.generate(network, [layout(arrays["prompt_a"])], Sampling(1.3, 12, 1.0), [4], [14])
    window = [np.r_[[-1] * 10, made.codes[1:step, 0]][-10:] for step in range(1, len(seen))]
    np.testing.assert_array_equal(seen[1:], window)


def test_trap_the_last_frame_of_a_take_that_was_cut_is_kept(network):
    """Upstream cuts the last column whether it is the stop or not."""
    _, arrays = golden("fish_s2/lm_generate")
    (made,) = generation.generate(network, [layout(arrays["prompt_a"])], GREEDY, [1], [9])
    assert made.finish == "length" and len(made.codes) == 9
    np.testing.assert_array_equal(made.codes, arrays["greedy_a"][1:, :9].T)


def test_trap_the_entry_that_crosses_top_p_is_left_out():
    """And the likeliest stays: upstream's sets exactly, and its probabilities as far as 4,000 draws show them."""
    _, arrays = golden("fish_s2/sampling")
    draws = 4000
    uniform = (torch.arange(draws) + 0.5) / draws
    for (temperature, top_p, top_k), wanted in zip(arrays["settings"].tolist(), arrays["probs"], strict=True):
        for row, probabilities in zip(arrays["logits"], wanted, strict=True):
            asked = Sampling(max(temperature, 1e-5), int(top_k), top_p)
            made = draw(torch.from_numpy(row).expand(draws, -1), uniform, asked, crossing=False)
            shares = np.bincount(made.numpy(), minlength=len(row)) / draws
            np.testing.assert_allclose(shares, probabilities, atol=1.5 / draws)
            assert not shares[probabilities == 0].any()


# --- adapters -----------------------------------------------------------------------------------------------------

FAST = ("fast_attention", "fast_mlp", "fast_output", "fast_embeddings")


@pytest.mark.parametrize(("name", "targets"), [("attention_mlp", ("attention", "mlp")), ("fast", FAST)])
def test_merged_adapters_are_upstreams(network, name, targets):
    what, arrays = golden("fish_s2/lora")
    settings = AdaptSettings("lora", 4, 8.0, 0.0, targets)
    copy = FishNetwork(network.config, network.prompt.tokenizer).eval()
    copy.load_state_dict(network.state_dict())
    keys = FAMILY.lora_state(FAMILY.adapt(copy, settings))
    adapter = {key: formula.value(key, tuple(tensor.shape)) for key, tensor in keys.items()}
    merged = FishNetwork(network.config, network.prompt.tokenizer).eval().requires_grad_(False)
    merged.load_state_dict(network.state_dict())
    FAMILY.merge_lora(merged, adapter, settings, 1.0)
    inp = torch.from_numpy(golden("fish_s2/lm_logits")[1]["inp"]).long()[None]
    codes = inp[:, 1:].transpose(1, 2)
    hidden = merged.slow(inp[:, 0], codes)[0]
    fast = merged.fast(hidden[-18:-1], codes[0, -17:, :-1])
    np.testing.assert_allclose(merged.slow_logits(hidden[-18:]), arrays[f"{name}/merged_slow_logits"][:, [*range(300, 364), 7]], atol=2e-5)
    np.testing.assert_allclose(fast, arrays[f"{name}/merged_fast_logits"][:, 1:], atol=2e-5)


# --- the whole chain ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain's weights in released form: nested configuration, two shards by released names, the codec."""
    folder, what = tmp_path_factory.mktemp("print4"), golden("fish_s2/chain")[0]
    (folder / "config.json").write_text(json.dumps(what["config"]["language model"]))
    shutil.copy(FISH / "tokenizer.json", folder / "tokenizer.json")
    shapes = {name: tuple(tensor.shape) for name, tensor in FishNetwork(FishConfig.load(folder)).state_dict().items()}
    shards: list[dict[str, torch.Tensor]] = [{}, {}]
    for number, (name, shape) in enumerate(shapes.items()):
        fast = name.startswith("fast_") or name.startswith("codebook_embeddings")
        released = f"audio_decoder.{name.removeprefix('fast_')}" if fast else f"text_model.model.{name}"
        shards[number % 2][released] = formula.value(name, shape)
    files = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, folder / file)
    index = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    codec = DAC(Sizes.of(golden("fish_s2/codec_encode")[0]["keys"]))
    formula.fill(codec)
    save_file(codec.state_dict(), folder / "codec.safetensors")
    return folder


def test_a_recording_and_a_text_become_upstreams_speech(release):
    """Waveform in, waveform out: the reference's codes, the prompt, the take and its wave."""
    what, arrays = golden("fish_s2/chain")
    codec, network = FAMILY.codec(release), FAMILY.network(release)
    assert isinstance(codec, ReleasedCodec)
    (codes,) = codec.encode([arrays["reference_audio"]])
    np.testing.assert_array_equal(codes.T, arrays["reference_codes"])
    voice = Voice("", np.zeros(0, np.float32), (Example("r", what["case"]["prompt_text"][0], "", codes),))
    text = what["case"]["text"].partition(" <|speaker")[0]
    made = network.prompt(text, voice.prompts)
    assert made.tokens == arrays["prompt_0"][0].tolist()
    (one,) = FAMILY.generate(network, [text], voice, GREEDY, [1], [arrays["codes_0"].shape[1]])
    np.testing.assert_array_equal(one.codes.T, arrays["codes_0"])
    np.testing.assert_allclose(FAMILY.decision_logprobs(network, text, voice, one), one.logprobs, atol=1e-4)
    for n in (0, 1):
        (wave,) = codec.decode([arrays[f"codes_{n}"].T], voice)
        np.testing.assert_allclose(wave, arrays[f"audio_{n}"], atol=1e-2)


def test_released_names_and_shapes_are_ours():
    """All 358 of the two shards, on the meta device."""
    keys = json.loads((FISH / "keys/model.safetensors.json").read_text())
    with torch.device("meta"):
        network = FishNetwork(RELEASED)
        network.load_state_dict({own_name(name): torch.empty(shape) for name, (shape, _) in keys.items()}, strict=True)
    assert len(keys) == 358
