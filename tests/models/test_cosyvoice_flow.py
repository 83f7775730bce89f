"""CosyVoice 3 with its flow trained too: `parts: [llm, flow]`, from the recordings to the export."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from models.cosyvoice3 import CosyVoice3
from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Example, Family
from models.parts.speech_lm import SpeechLM
from stages import tokenise
from stages.common.checkpoints import Checkpoints
from stages.common.files import read_jsonl
from stages.common.params import load_params
from stages.train import __main__ as train
from stages.train.plan import plan
from tests import small_cosyvoice
from tests.family_checks import loss, trained_a_little
from tests.small_cosyvoice import ROOT, Release, noise, workplace

TARGETS = ("q_proj", "v_proj", "to_q", "to_v")
BOTH = AdaptSettings("lora", 4, 8.0, 0.0, TARGETS, ("llm", "flow"))
FAMILY = CosyVoice3()
MODEL = ["--model", "cosyvoice3"]
CHECKPOINTS = Path("data/cosyvoice3/checkpoints")


@pytest.fixture(scope="module")
def release() -> Release:
    return small_cosyvoice.release(3)


@pytest.fixture(scope="module")
def rows(release: Release) -> list[Example]:
    clips = [noise(seconds, seed) for seed, seconds in enumerate((1.0, 2.51, 1.6))]
    return [
        Example(f"u{number}", "Hello there.", "ann", made, release.codec.speaker_embedding(clip), audio=partial(np.copy, clip))
        for number, (clip, made) in enumerate(zip(clips, release.codec.encode(clips), strict=True))
    ]


def parts_of(family: Family, network: torch.nn.Module, rows: list[Example]) -> dict[str, float]:
    return family.loss(network, family.batch(network, rows)).parts


def untrained(release: Release, settings: AdaptSettings = BOTH) -> SpeechLM:
    return release.family.network_to_train(release.folder, settings)


@pytest.fixture(scope="module")
def state(release: Release, rows: list[Example]) -> dict[str, torch.Tensor]:
    """What a checkpoint holds after a few steps."""
    return release.family.adapter_state(trained_a_little(release.family, untrained(release), BOTH, rows, 0.05), BOTH)


# --- what is learnt -----------------------------------------------------------------------------------------------


def test_codes_and_mel_are_cut_alike(release: Release, rows: list[Example]) -> None:
    """2.51 s have 63 codes and 125 frames: both end at 62. What has more mel than codes ends with its codes."""
    batch = release.family.batch(untrained(release), [*rows, replace(rows[2], codes=rows[2].codes[:7])])
    assert batch["covered"].tolist() == [25, 62, 40, 7] and batch["mel"].shape == (4, 80, 124)
    assert batch["lengths"][1, 1] == 63  # the language model reads every code
    assert not batch["mel"][3, :, 14:].any() and batch["mel"][3, :, 13].any()


def test_a_fresh_adapter_changes_no_loss_and_validation_draws_the_same_numbers_again(release: Release, rows: list[Example]) -> None:
    network = untrained(release)
    bare = loss(release.family, network, rows)
    adapted = release.family.adapt(network, BOTH)
    assert loss(release.family, adapted, rows) == bare == loss(release.family, adapted, rows)
    parts = parts_of(release.family, adapted, rows)
    assert bare == pytest.approx(parts["speech"] + parts["flow"]) and parts["flow"] > 0
    adapted.train()
    assert len({loss(release.family, adapted, rows) for _ in range(3)}) == 3


def test_both_parts_learn_and_a_checkpoint_holds_both(release: Release, state: dict[str, torch.Tensor]) -> None:
    for part in ("llm.model.model.layers.", "flow.decoder.estimator.transformer_blocks."):
        assert any(name.startswith(part) and "lora_B" in name and tensor.any() for name, tensor in state.items())
    assert all("lora_" in name for name in state)


def test_the_flow_learns_a_voice(release: Release, rows: list[Example]) -> None:
    """Its loss falls on what it hears."""
    settings = AdaptSettings("sft", parts=("llm", "flow"))
    family: Family = release.family
    network = family.adapt(untrained(release, settings), settings)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    before, batch = parts_of(family, network, rows)["flow"], family.batch(network, rows)
    for _ in range(20):
        optimizer.zero_grad()
        family.loss(network.train(), batch).total.backward()
        optimizer.step()
    assert parts_of(family, network.eval(), rows)["flow"] < 0.8 * before
    assert "flow.input_embedding.weight" in release.family.adapter_state(network, settings)


def test_a_plan_counts_the_flow(release: Release, rows: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the shapes alone, and as much as there is."""
    monkeypatch.chdir(workplace(tmp_path, "cosyvoice3", release.folder, [1.0, 1.0], targets=list(TARGETS), parts=["llm", "flow"]))
    both = load_params().family("cosyvoice3")
    alone = both.model_copy(update={"train": both.train.model_copy(update={"targets": ["q_proj"], "parts": ["llm"]})})
    planned, without = (plan(release.family, block, False, lambda network: [release.family.blank(network, "Hello.", 40)]) for block in (both, alone))
    flow = load_file(release.folder / "flow.safetensors")
    assert planned.parameters - without.parameters == sum(tensor.numel() for name, tensor in flow.items() if "inv_freq" not in name)
    assert planned.trainable > without.trainable and planned.activations > without.activations


# --- what speaks --------------------------------------------------------------------------------------------------


def test_a_checkpoint_speaks_with_its_own_flow_and_so_does_its_export(release: Release, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    family, voice, take = release.family, release.voice, release.voice.prompts[0].codes[:20]

    def spoken(scale: float) -> np.ndarray:
        network = family.merged(release.folder, state, BOTH, scale)
        return release.codec.tuned(network).decode([take], voice)[0]

    frozen, tuned = release.codec.decode([take], voice)[0], spoken(1.0)
    np.testing.assert_array_equal(spoken(0.0), frozen)
    assert np.abs(tuned - frozen).max() > 1e-3
    np.testing.assert_array_equal(release.codec.decode([take], voice)[0], frozen)  # which stays as it is

    family.export(family.merged(release.folder, state, BOTH, 1.0), voice, release.folder, tmp_path)
    np.testing.assert_array_equal(family.codec(tmp_path).decode([take], voice)[0], tuned)
    for name, changed in (("llm", {"q_proj", "v_proj"}), ("flow", {"to_q", "to_v"})):
        written, before = torch.load(tmp_path / f"{name}.pt", weights_only=True), load_file(release.folder / f"{name}.safetensors")
        assert {key: (tensor.shape, tensor.dtype) for key, tensor in written.items()} == {key: (tensor.shape, tensor.dtype) for key, tensor in before.items()}
        assert {key.rsplit(".", 2)[1] for key in written if not torch.equal(written[key], before[key])} == changed


# --- the stage ----------------------------------------------------------------------------------------------------


@pytest.fixture
def place(release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tokenised set, and settings under which both parts train."""
    settings = {"targets": list(TARGETS), "parts": ["llm", "flow"], "rank": 2, "epochs": 2, "save_every_n_epochs": 1, "batch_frames": 60, "accumulate": 1}
    monkeypatch.chdir(workplace(tmp_path, "cosyvoice3", release.folder, [1.0, 1.21, 0.8, 1.5, 0.9, 1.1], **settings))
    tokenise.main(MODEL)
    return tmp_path


def test_training_hears_the_recordings_and_goes_on_where_it_was_killed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train.main(MODEL)
    record, history = json.loads((CHECKPOINTS / "train.json").read_text()), read_jsonl(CHECKPOINTS / "history.jsonl")
    assert record["settings"]["parts"] == ["llm", "flow"] and record["epochs"] == [1, 2]
    assert all(set(row["validation"]["parts"]) == {"speech", "flow"} for row in history) and history[1]["train"]["flow"] > 0
    whole = {path: path.read_bytes() for path in CHECKPOINTS.rglob("*") if path.is_file()}
    checkpoints = Checkpoints(FAMILY, load_params().family("cosyvoice3"), CHECKPOINTS)
    assert checkpoints.network("base").flow is None and checkpoints.network("epoch-02").flow is not None

    shutil.rmtree(CHECKPOINTS)
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    honest, count = torch.optim.AdamW.step, list[int]()

    def power_cut(self, *arguments, **options):
        if len(count) == 3:
            raise KeyboardInterrupt
        count.append(1)
        return honest(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", power_cut)
    with pytest.raises(KeyboardInterrupt):
        train.main(MODEL)
    monkeypatch.setattr(torch.optim.AdamW, "step", honest)
    train.main(MODEL)
    assert {path: path.read_bytes() for path in CHECKPOINTS.rglob("*") if path.is_file()} == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["q_proj", "v_proj"]}, "params.yaml: cosyvoice3: train.targets: none of them is a layer of the flow; add some, like to_q, to_v"),
        ({"targets": ["to_q"]}, "params.yaml: cosyvoice3: train.targets: none of them is a layer of the language model; add some, like q_proj, v_proj"),
        ({"parts": ["flow"]}, "params.yaml: cosyvoice3.tiny.train.parts: [flow] must be [llm] or [llm, flow]"),
        ({"parts": ["llm", "vocoder"]}, "params.yaml: cosyvoice3.tiny.train.parts: [llm, vocoder] must be [llm] or [llm, flow]"),
    ],
)
def test_what_would_stay_untrained_is_told(place: Path, changes: dict, message: str) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["cosyvoice3"]["tiny"]["train"] |= changes
    Path("params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(UserError) as raised:
        train.main(MODEL)
    assert str(raised.value) == message and not CHECKPOINTS.exists()


def test_a_tiny_base_has_no_flow_to_train() -> None:
    with pytest.raises(UserError, match="params.yaml: cosyvoice3: train.parts: flow: .*models/cosyvoice3/tiny has no flow to train, a release has"):
        FAMILY.network_to_train(ROOT / "models/cosyvoice3/tiny", BOTH)
