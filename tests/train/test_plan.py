"""The plan of a training run: as much memory as a real step takes, known from config.json and tokenizer.json alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

import models
from models.parts.checkpointing import checkpoint_gradients
from models.parts.errors import UserError
from models.parts.family import Example, Family
from models.parts.precision import training_arithmetic
from stages import tokenise
from stages.common.checkpoints import adapt_settings
from stages.common.files import read_json, read_jsonl
from stages.common.params import FamilyParams, load_params
from stages.train import __main__ as train
from stages.train import plan as planning
from stages.train.plan import Device, longest_clips, plan
from tests.toy_cosyvoice import change, contents, workplace

ROOT = Path(__file__).parents[2]
FRAMES, SECONDS = 240, 5.0


def block_of(name: str, checkpointing: bool = False) -> FamilyParams:
    block = load_params(ROOT / "params.yaml").families[name]["tiny"]
    train = block.train.model_copy(update={"batch_frames": FRAMES, "gradient_checkpointing": checkpointing})
    return block.model_copy(update={"train": train, "weights": ROOT / block.weights})


def peak_of_a_real_step(family: Family, block: FamilyParams) -> int:
    """Bytes that PyTorch's allocator had given out at most during forward and backward pass, by the profiler."""
    network = family.network(block.weights)
    batch = family.batch(network, longest_clips(family, network, FRAMES, SECONDS))
    if block.train.gradient_checkpointing:
        checkpoint_gradients(network)
    network = family.adapt(network, adapt_settings(block.train)).train()
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler, training_arithmetic(torch.device("cpu")):
        loss = family.loss(network, batch).total
        loss.backward()
    waiting, sizes = list(profiler.profiler.kineto_results.experimental_event_tree()), []
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag == _EventType.Allocation:
            sizes.append((event.start_time_ns, event.extra_fields.alloc_size))
    live = peak = 0
    for _, size in sorted(sizes, key=lambda one: one[0]):
        live += size
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("name", ["qwen3_tts", "fish_s2", "indextts2"])  # PEFT, loralib, every weight
def test_the_plan_is_what_a_step_takes_and_checkpointing_makes_it_smaller(name: str, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    family, found = models.load(name), []
    for checkpointing in (False, True):
        block = block_of(name, checkpointing)
        planned, real = plan(family, block, False, lambda network: longest_clips(family, network, FRAMES, SECONDS)).activations, peak_of_a_real_step(family, block)
        assert planned == pytest.approx(real, rel=0.05)
        found.append(real)
    assert found[1] < 0.6 * found[0]


@pytest.mark.parametrize("name", [path.parents[1].name for path in sorted(ROOT.glob("models/*/tiny/config.json"))])
def test_every_family_is_planned_from_its_configuration_and_tokenizer_alone(name: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    block = settings[name]["tiny"]
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes((ROOT / block["weights"] / file).read_bytes())
    size = sum(parameter.numel() for parameter in models.load(name).network(ROOT / block["weights"]).parameters())
    block |= {"weights": str(tmp_path)}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(planning, "load_params", lambda: load_params(tmp_path / "params.yaml"))
    planning.main(["--model", name, "--gpu", "24"])
    head, *figures = capsys.readouterr().out.splitlines()
    assert f"plan {name}: {size:,} parameters" in head
    *parts, total, free = [float(line.split()[-1]) for line in figures]
    assert total == pytest.approx(sum(parts), abs=0.03) and 0 < total < free == 24.0


def test_bfloat16_halves_the_weights_and_only_them() -> None:
    family, block = models.load("fish_s2"), block_of("fish_s2")
    full, half = (
        plan(family, block.model_copy(update={"dtype": dtype}), False, lambda network: longest_clips(family, network, FRAMES, SECONDS))
        for dtype in ("float32", "bfloat16")
    )
    adapter = full.gradients  # float32 in both
    assert half.weights - adapter == pytest.approx((full.weights - adapter) / 2, rel=0.15)  # buffers stay
    assert (half.parameters, half.trainable, half.gradients, half.optimizer) == (full.parameters, full.trainable, full.gradients, full.optimizer)


def test_the_most_expensive_batch_is_the_one_that_counts() -> None:
    family, block = models.load("fish_s2"), block_of("fish_s2")

    def clips(*frames: int) -> planning.Examples:
        return lambda network: [family.blank(network, "Press one.", length) for length in frames]

    long = plan(family, block, False, clips(100)).activations
    assert plan(family, block, False, clips(10, 100, 20)).activations >= long > plan(family, block, False, clips(20)).activations


def test_a_device_that_is_too_small_is_refused_in_one_line_that_says_what_to_change() -> None:
    family, block = models.load("fish_s2"), block_of("fish_s2")
    with pytest.raises(UserError) as caught:
        planning.announce(
            family, block, Device("the GPU", 2**20, True), lambda network: longest_clips(family, network, FRAMES, SECONDS)
        )
    message = str(caught.value)
    assert "\n" not in message and "the GPU has 0.0 free" in message
    assert all(way in message for way in ("dtype: bfloat16", "gradient_checkpointing: true", "batch_frames (240"))
    assert "mode: lora" not in message  # it is


def test_several_processes_take_as_much_each_and_less_where_they_cut_the_network_among_them(capsys) -> None:
    family, block = models.load("indextts2"), block_of("indextts2")  # every weight is trained

    def among(**settings: object) -> FamilyParams:
        return block.model_copy(update={"train": block.train.model_copy(update=settings)})

    def clips(network: torch.nn.Module) -> list[Example]:
        return longest_clips(family, network, FRAMES, SECONDS)

    one, cut = plan(family, block, False, clips), plan(family, among(processes=4, shard=True), False, clips)
    assert one.optimizer == pytest.approx(4 * cut.optimizer, abs=4) and one.weights / 4 < cut.weights < one.weights and cut.gradients < one.gradients
    planning.announce(family, among(processes=2), Device("this computer", 2 * one.total, False), clips)
    assert "GiB in each of 2 processes:" in capsys.readouterr().out
    planning.announce(family, among(processes=2), Device("the GPU", one.total + 2**20, True), clips)  # each has a GPU
    with pytest.raises(UserError, match=r"this computer has .* lower train.processes \(2\)"):
        planning.announce(family, among(processes=2), Device("this computer", 2 * one.total - 1, False), clips)


def test_training_is_refused_before_anything_is_loaded(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    tokenise.main(["--model", "cosyvoice3"])
    monkeypatch.setattr(Device, "here", classmethod(lambda cls: cls("this computer", 1000, False)))
    (tmp_path / "weights/model.safetensors").unlink()
    with pytest.raises(UserError, match="cosyvoice3: training takes .* GiB and this computer has 0.0 free"):
        train.main(["--model", "cosyvoice3"])
    assert not Path("data/cosyvoice3/checkpoints").exists()


def test_a_run_with_checkpointing_learns_what_one_without_learns(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    tokenise.main(["--model", "cosyvoice3"])
    found = []
    for checkpointing in (False, True):
        change(tmp_path, gradient_checkpointing=checkpointing, dropout=0.2)
        train.main(["--model", "cosyvoice3"])
        found.append(contents(Path("data/cosyvoice3/checkpoints")))
    assert found[0] == found[1]
    assert capsys.readouterr().out.startswith("plan cosyvoice3: ")


def test_a_bfloat16_base_is_trained_and_recorded(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    tokenise.main(["--model", "cosyvoice3"])
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["cosyvoice3"]["tiny"]["dtype"] = "bfloat16"
    Path("params.yaml").write_text(yaml.safe_dump(params))
    train.main(["--model", "cosyvoice3"])
    record, history = (Path("data/cosyvoice3/checkpoints") / name for name in ("train.json", "history.jsonl"))
    assert read_json(record)["dtype"] == "bfloat16"
    losses = [row["train"]["total"] for row in read_jsonl(history)[1:]]
    assert losses[-1] < losses[0]
