"""Voxtral's released weights: names, shapes, row order, formulas and tokenizer are upstream's."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from models.parts.errors import UserError
from models.voxtral import Voxtral
from models.voxtral.config import RELEASED
from models.voxtral.network import VoxtralNetwork
from models.voxtral.tekken import bytes_to_unicode, load_tekken
from tests import toy_voxtral as toy
from tests.family_checks import toy_fixtures

family, folder = toy_fixtures(Voxtral, toy.folder)


def test_released_names_shapes_and_size():
    with torch.device("meta"):
        network = VoxtralNetwork(RELEASED)
    state = network.released_state()
    block = {
        "attention.wq": (4096, 3072), "attention.wk": (1024, 3072), "attention.wv": (1024, 3072),
        "attention.wo": (3072, 4096), "feed_forward.w1": (9216, 3072), "feed_forward.w2": (3072, 9216),
        "feed_forward.w3": (9216, 3072), "attention_norm": (3072,), "ffn_norm": (3072,),
    }
    head = "acoustic_transformer"
    wanted = {
        "mm_audio_embeddings.tok_embeddings": (131072, 3072), "norm": (3072,), f"{head}.norm": (3072,),
        "mm_audio_embeddings.audio_codebook_embeddings.embeddings": (9088, 3072),
        f"{head}.input_projection": (3072, 36), f"{head}.time_projection": (3072, 3072),
        f"{head}.llm_projection": (3072, 3072), f"{head}.semantic_codebook_output": (8320, 3072),
        f"{head}.acoustic_codebook_output": (36, 3072),
    }
    layers = [f"layers.{n}" for n in range(26)] + [f"{head}.layers.{n}" for n in range(3)]
    wanted |= {f"{layer}.{part}": shape for layer in layers for part, shape in block.items()}
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {f"{k}.weight": v for k, v in wanted.items()}
    assert sum(p.numel() for p in network.trunk.parameters()) == pytest.approx(3429.0e6, rel=0.01)
    assert sum(p.numel() for p in network.acoustic_transformer.parameters()) == pytest.approx(393.9e6, rel=0.01)


def test_a_released_folder_loads_by_its_own_names(family, tmp_path):
    network = family.network(toy.released_folder(tmp_path))
    original = toy.network(vocab_size=300).state_dict()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, original[name].bfloat16().float(), rtol=0, atol=0)
    assert network.prompt("ein", "toy").tokens == [1, 3, 2, 2, 5, 10 + ord("e"), 10 + 256, 4, 3]
    family.batch(network, toy.examples())


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"norm.weight": None}, r"missing \['trunk.norm.weight'\]"), ({"epoch": torch.ones(1)}, r"unexpected \['epoch'\]"),
     ({"layers.1.attention.wq.weight": torch.zeros(16, 32)}, r"q_proj.weight is \(16, 32\)")],
)
def test_weights_load_strictly(family, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        family.network(toy.released_folder(tmp_path, changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda p: p.pop("dim"), "not Voxtral TTS's configuration"), (lambda p: p.update(use_biases=True), "biases"),
     (lambda p: p["multimodal"]["audio_model_args"]["acoustic_transformer_args"].update(dim=16), "another width")],
)
def test_a_configuration_of_another_network_is_refused(family, tmp_path, change, message):
    params = json.loads((toy.released_folder(tmp_path) / "params.json").read_text())
    change(params)
    (tmp_path / "params.json").write_text(json.dumps(params))
    with pytest.raises(UserError, match=f"params.json: .*{message}"):
        family.network(tmp_path)


def test_the_saved_file_is_key_for_key_a_released_one(family, folder):
    saved = load_file(folder / "model.safetensors")
    assert {"layers.0.attention.wq.weight", "acoustic_transformer.layers.1.feed_forward.w3.weight"} <= saved.keys()
    assert saved.keys() == toy.network().released_state().keys()
    torch.testing.assert_close(load_file(folder / "model.safetensors"), {
        name: tensor.half() for name, tensor in family.network(folder).released_state().items()
    }, rtol=0, atol=0)


def test_the_trunk_computes_mistrals_own_formulas_from_released_weights(family, folder):
    """By hand, from the file: RoPE on neighbouring rows, grouped heads, SwiGLU. A wrong row order would show here."""
    network = family.network(folder)
    config, batch = network.config, family.batch(network, toy.examples(1))
    weights = {name: tensor.double().numpy() for name, tensor in load_file(folder / "model.safetensors").items()}
    table, sizes = weights["mm_audio_embeddings.audio_codebook_embeddings.embeddings.weight"], config.codebook_rows
    first = np.cumsum([0, *sizes[:-1]])
    x = np.stack([
        weights["mm_audio_embeddings.tok_embeddings.weight"][token] if frame[0] < 0 else table[frame + 2 + first].sum(0)
        for token, frame in zip(batch["tokens"][0].tolist(), batch["codes"][0].numpy(), strict=True)
    ])
    half = config.head_dim // 2
    angles = np.outer(np.arange(len(x)), config.rope_theta ** (-np.arange(half) / half))

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * weights[f"{name}.weight"]

    def turned(x: np.ndarray) -> np.ndarray:
        pairs = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * angles)
        return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)

    for layer in (f"layers.{n}" for n in range(config.n_layers)):
        inner = norm(x, f"{layer}.attention_norm")
        heads = {part: np.split(inner @ weights[f"{layer}.attention.w{part}.weight"].T, count, axis=1)
                 for part, count in (("q", config.n_heads), ("k", config.n_kv_heads), ("v", config.n_kv_heads))}
        outputs = []
        for head, query in enumerate(heads["q"]):
            group = head // (config.n_heads // config.n_kv_heads)
            scores = np.exp(turned(query) @ turned(heads["k"][group]).T / np.sqrt(config.head_dim)) * np.tri(len(x))
            outputs.append(scores / scores.sum(1, keepdims=True) @ heads["v"][group])
        x = x + np.concatenate(outputs, 1) @ weights[f"{layer}.attention.wo.weight"].T
        inner = norm(x, f"{layer}.ffn_norm")
        gate, up, down = (weights[f"{layer}.feed_forward.w{number}.weight"].T for number in (1, 3, 2))
        x = x + ((inner @ gate) / (1 + np.exp(-inner @ gate)) * (inner @ up)) @ down
    with torch.no_grad():
        hidden = network.trunk(inputs_embeds=network.embed(batch["tokens"], batch["reference"], batch["codes"])).last_hidden_state[0]
    np.testing.assert_allclose(hidden.numpy(), norm(x, "norm"), atol=1e-4)


def test_the_flow_head_computes_upstreams_formulas(family, folder):
    """By hand: noise, time and hidden state as three tokens without positions; the first one gives the velocity."""
    network = family.network(folder)
    head, dim = network.acoustic_transformer, toy.CONFIG.dim
    weights = {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}
    random = np.random.default_rng(1)
    values, state, time = random.normal(size=toy.VALUES), random.normal(size=dim), 0.375
    angle = time * 10000.0 ** (-np.arange(dim // 2) / (dim // 2))
    x = np.stack([
        weights["input_projection.weight"] @ values,
        weights["time_projection.weight"] @ np.concatenate([np.cos(angle), np.sin(angle)]),
        weights["llm_projection.weight"] @ state,
    ])

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weights[f"{name}.weight"]

    for layer in ("layers.0", "layers.1"):
        inner = norm(x, f"{layer}.attention_norm")
        q, k, v = (np.split(inner @ weights[f"{layer}.attention.w{p}.weight"].T, n, axis=1) for p, n in (("q", 4), ("k", 2), ("v", 2)))
        scores = [np.exp(q[h] @ k[h // 2].T / np.sqrt(8)) for h in range(4)]
        mixed = np.concatenate([s / s.sum(1, keepdims=True) @ v[h // 2] for h, s in enumerate(scores)], 1)
        x = x + mixed @ weights[f"{layer}.attention.wo.weight"].T
        inner = norm(x, f"{layer}.ffn_norm")
        gate, up, down = (weights[f"{layer}.feed_forward.w{number}.weight"].T for number in (1, 3, 2))
        x = x + ((inner @ gate) / (1 + np.exp(-inner @ gate)) * (inner @ up)) @ down
    expected = weights["acoustic_codebook_output.weight"] @ norm(x[0], "norm")
    with torch.no_grad():
        given = (torch.from_numpy(values), torch.tensor(time), torch.from_numpy(state))
        velocity = head.velocity(*(tensor[None].float() for tensor in given))[0]
    np.testing.assert_allclose(velocity.numpy(), expected, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=20), st.lists(st.binary(min_size=2, max_size=2), max_size=6, unique=True))
def test_tekken_merges_by_rank(tmp_path_factory, text, pairs):
    """Against the rule itself: of all neighbours, the pair whose union has the lowest rank is merged first."""
    words = [*(p for word in {"the", "them", " an", "éa"} for p in prefixes(word.encode())), *pairs]
    words = [word for word in dict.fromkeys(words) if len(word) > 1]
    tokenizer = load_tekken(toy.tekken(tmp_path_factory.mktemp("tekken") / "tekken.json", tuple(words)))
    ranks = {word: 256 + rank for rank, word in enumerate(words)}
    expected = []
    for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text + " them anthem éa"):
        letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
        parts = [bytes([letters[letter]]) for letter in piece]
        while candidates := [(ranks[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False)) if a + b in ranks]:
            at = min(candidates)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        expected += [10 + (ranks[part] if len(part) > 1 else part[0]) for part in parts]
    assert tokenizer.encode(text + " them anthem éa", add_special_tokens=False).ids == expected


def prefixes(word: bytes) -> list[bytes]:
    return [word[:end] for end in range(2, len(word) + 1)]


def test_a_file_that_is_no_tokenizer_is_named(family, tmp_path):
    toy.released_folder(tmp_path)
    (tmp_path / "tekken.json").write_text("{}")
    with pytest.raises(UserError, match="tekken.json: not a tekken tokenizer"):
        family.network(tmp_path)
