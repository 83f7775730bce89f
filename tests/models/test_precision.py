"""What large bases ask of every family: a bfloat16 base under a float32 adapter, and blocks that are computed twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import models
from models.parts.checkpointing import checkpoint_gradients
from models.parts.family import AdaptSettings, Example, Family, Loss, Voice
from models.parts.weights import load_network
from stages.train import selfcheck
from tests import toy_chatterbox, toy_cosyvoice, toy_fish_s2, toy_indextts2, toy_qwen3_tts, toy_voxcpm, toy_voxtral
from tests.family_checks import loss, trained_a_little

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOYS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "cosyvoice3": (toy_cosyvoice.weights, PROJECTIONS),
    "fish_s2": (toy_fish_s2.folder, ("attention", "mlp", "fast_output")),
    "qwen3_tts": (toy_qwen3_tts.folder, PROJECTIONS),
    "chatterbox": (toy_chatterbox.folder, PROJECTIONS),
    "indextts2": (toy_indextts2.folder, ("c_attn", "c_proj", "c_fc")),
    "voxcpm": (toy_voxcpm.folder, PROJECTIONS[:4]),
    "voxtral": (toy_voxtral.folder, (*PROJECTIONS, "wq", "wk", "wv", "wo", "w1", "w2", "w3")),
}
TEXT = "Press one to go home."


@pytest.fixture(scope="module", params=TOYS)
def toy(request, tmp_path_factory) -> tuple[Family, Path, AdaptSettings]:
    write, targets = TOYS[request.param]
    settings = AdaptSettings("lora", 4, 8.0, 0.1, targets)
    return models.load(request.param), write(tmp_path_factory.mktemp(request.param)), settings


def rows(family: Family, network: nn.Module) -> list[Example]:
    random = np.random.default_rng(3)
    blank = [family.blank(network, TEXT[: 10 + 5 * index], 3 + 4 * index) for index in range(3)]
    return [replace(one, codes=random.integers(0, 16, one.codes.shape).astype(one.codes.dtype)) for one in blank]


def step(family: Family, network: nn.Module) -> tuple[Loss, dict[str, torch.Tensor]]:
    torch.manual_seed(7)
    network.zero_grad()
    found = family.loss(network.train(), family.batch(network, rows(family, network)))
    found.total.backward()
    return found, {name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None}


def kept(family: Family, network: nn.Module) -> int:
    """Bytes that a loss keeps for its backward pass, weights aside."""
    storages = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        family.loss(network.train(), family.batch(network, rows(family, network)))
    return sum(storages.values()) - sum(storages.get(p.untyped_storage().data_ptr(), 0) for p in network.parameters())


@pytest.mark.parametrize("mode", ["lora", "sft"])
def test_checkpointing_changes_no_bit_of_loss_and_gradients_and_keeps_less(toy, mode):
    family, folder, settings = toy
    network = trained_a_little(family, family.network(folder), replace(settings, mode=mode), rows(family, family.network(folder)), 0.01)
    plain, gradients = step(family, network)
    before = kept(family, network)
    checkpoint_gradients(network)
    again, recomputed = step(family, network)
    assert torch.equal(again.total, plain.total) and again.parts == plain.parts
    assert gradients.keys() == recomputed.keys() and len(gradients) > 10
    for name, gradient in gradients.items():
        assert torch.equal(gradient, recomputed[name]), name
    assert kept(family, network) < 0.75 * before


def test_a_bfloat16_base_trains_a_float32_adapter(toy):
    family, folder, settings = toy
    network = family.network(folder, torch.bfloat16)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    examples = rows(family, network)
    batch = family.batch(network, examples)
    bare, exact = loss(family, network, examples), loss(family, family.network(folder), examples)
    assert bare == pytest.approx(exact, rel=0.05)
    network = selfcheck.same_after_wrapping(family, network, settings, batch)
    assert loss(family, network, examples) == bare  # a fresh adapter adds nothing at all
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    _, gradients = step(family, network)
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    assert any(gradient.abs().max() > 0 for gradient in gradients.values())
    assert {tensor.dtype for tensor in family.adapter_state(network, settings).values()} == {torch.float32}


def test_a_bfloat16_network_speaks_as_it_is_trained(toy):
    family, folder, _ = toy
    network = family.network(folder, torch.bfloat16)
    speaker = family.blank(network, TEXT, 1)
    vector = speaker.speaker_embedding if family.name != "indextts2" else toy_indextts2.voice().speaker_embedding
    gap = selfcheck.alignment(family, network, TEXT, Voice("toy", vector), 3)
    assert gap < 0.5


def test_an_adapter_is_merged_in_float32_and_rounded_once(toy):
    family, folder, settings = toy
    network = family.network(folder)
    trained = trained_a_little(family, network, settings, rows(family, network), 0.05)
    state = family.adapter_state(trained, settings)
    exact = family.merged(folder, state, settings, 0.7).state_dict()
    plain = family.network(folder, torch.bfloat16).state_dict()
    rounded = family.merged(folder, state, settings, 0.7, torch.bfloat16)
    assert {parameter.dtype for parameter in rounded.parameters()} == {torch.bfloat16}
    for name, tensor in rounded.state_dict().items():
        # The base was rounded when it was loaded, the sum is once more: two halves of the last of eight bits.
        bound = 2**-8 * (plain[name].float().abs() + exact[name].abs()) + 1e-6
        assert ((tensor.float() - exact[name]).abs() <= bound).all(), name


# --- loading ------------------------------------------------------------------------------------------------------


def test_half_precision_on_disk_is_exactly_its_float32_in_memory(toy):
    family, folder, _ = toy
    (file,) = folder.glob("*.safetensors")
    stored = load_file(file)
    loaded = family.network(folder).state_dict()
    if family.name != "voxtral":  # whose file has other names
        assert loaded.keys() == stored.keys()
        assert all(torch.equal(loaded[name], stored[name].float()) for name in stored)
    fresh = torch.get_rng_state()
    family.network(folder)
    assert torch.equal(torch.get_rng_state(), fresh) or family.name == "indextts2"  # no random weight is drawn and thrown away


def test_the_meta_device_needs_no_weights(toy, tmp_path):
    family, folder, _ = toy
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    shapes, real = family.network(tmp_path, torch.bfloat16, "meta"), family.network(folder, torch.bfloat16)
    assert {tensor.device.type for tensor in (*shapes.parameters(), *shapes.buffers())} == {"meta"}
    assert [(n, p.shape, p.dtype) for n, p in shapes.named_parameters()] == [(n, p.shape, p.dtype) for n, p in real.named_parameters()]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("table", torch.arange(3.0), persistent=False)


def test_weights_in_the_wanted_precision_stay_in_the_mapped_file_and_tied_ones_stay_one(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"embedding.weight": torch.randn(50, 8).bfloat16(), "head.weight": torch.randn(50, 8).bfloat16()}, path)
    network = load_network(Tied, path, torch.bfloat16)
    assert network.head.weight is network.embedding.weight
    mapped = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    place = network.embedding.weight.data_ptr()
    assert any(int(start, 16) <= place < int(end, 16) for start, end in mapped)
    assert network.table.tolist() == [0, 1, 2] and not network.table.is_meta
