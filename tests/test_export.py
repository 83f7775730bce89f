"""The stage `export` and `make speak`, on a toy network that was really trained: what is exported is what the gate heard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
import yaml

import models
from models.parts.errors import UserError
from stages import export, tokenise
from stages.common.checkpoints import Checkpoints
from stages.common.files import read_json, write_json
from stages.common.params import load_params
from stages.gate import speak
from stages.train import __main__ as train
from tests.toy_cosyvoice import ROOT, contents, workplace

MODEL = ["--model", "cosyvoice3"]
TARGET = Path("data/cosyvoice3/export")
WEIGHTS = Path("data/cosyvoice3/weights.json")
RELEASED = {"folder": "weights", "commits": {"some/Release": "c0ffee"}, "files": {}}
TIER = {"verdict": "passes", "takes": 8, "passed_takes": 8, "needed": None, "reasons": []}
SCORE = {"word_error_rate": 0.031, "ci": [0.01, 0.05], "similarity": 0.71, "similarity_ci": [0.7, 0.72], "dnsmos": 3.1, "similarity_margin": 0.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after `train`, and what the stages around it would have left."""
    root = workplace(tmp_path_factory.mktemp("export"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        tokenise.main(MODEL)
        train.main(MODEL)
        write_json(Path("data/corpus/stats.json"), {"seconds": 90.0, "chars_per_second": 14.0})
        write_json(WEIGHTS, RELEASED)
        Path("models").symlink_to(ROOT / "models")
    return root


def decide(promoted: str | None, why: str) -> None:
    judged = SCORE | {"tiers": dict.fromkeys(("5s", "15s", "30s"), TIER)}
    candidates = dict.fromkeys(("base", "epoch-02"), {"screened": judged, "confirmed": judged})
    verdict: dict[str, Any] = {"promoted": promoted, "why": why, "candidates": candidates, "order": [*candidates]}
    write_json(Path("data/cosyvoice3/gate/verdict.json"), verdict)


@pytest.fixture
def place(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    decide("epoch-02", "epoch-02 passes all three tiers.")
    return trained


def test_the_promoted_checkpoint_loads_like_a_base_and_is_the_one_that_was_judged(place: Path) -> None:
    export.main(MODEL)
    family, block = models.load("cosyvoice3"), load_params().family("cosyvoice3")
    judged = Checkpoints(family, block, Path("data/cosyvoice3/checkpoints")).network("epoch-02").state_dict()
    exported = family.network(TARGET).state_dict()
    assert exported.keys() == judged.keys()
    for name, tensor in judged.items():
        torch.testing.assert_close(exported[name], tensor, rtol=1e-3, atol=1e-4, msg=name)  # half precision on disk
    base = family.network(block.weights).state_dict()
    assert any(not torch.equal(base[name], exported[name]) for name in base)
    assert family.codec(TARGET).contract == family.codec(block.weights).contract
    assert "Apache License" in (TARGET / "LICENSE").read_text()


def test_the_card_says_what_it_is_made_of_and_what_the_gate_heard(place: Path) -> None:
    export.main(MODEL)
    card = (TARGET / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"license": "apache-2.0", "base_model": "some/Release", "language": "en", "pipeline_tag": "text-to-speech"}
    for said in ("at commit c0ffee", "epoch-02, LoRA scale 1.0", "recorded 2003 to 2010: ann, 1.5 minutes", "| 30s | 8 of 8 | passes |",
                 "3.1% (95 % interval 1.0% to 5.0%)", "0.710", "Apache-2.0: Free for commercial use"):
        assert said in card, said
    assert "Not promoted" not in card


def test_the_card_says_when_a_network_said_the_corpus(place: Path) -> None:
    export.main(MODEL)
    assert "A voice fine-tuned on one speaker." in (TARGET / "README.md").read_text()
    Path("data/corpus/codes.safetensors").touch()
    export.main(MODEL)
    Path("data/corpus/codes.safetensors").unlink()
    assert "on no recording: how it pronounces and reads may be new, the voice is not" in (TARGET / "README.md").read_text()


def test_the_same_inputs_export_the_same_bytes(place: Path) -> None:
    export.main(MODEL)
    first = contents(TARGET)
    export.main(MODEL)
    assert contents(TARGET) == first


def test_without_a_promotion_there_is_a_record_and_nothing_else(place: Path) -> None:
    decide(None, "None of 2 checkpoints passes.")
    export.main(MODEL)
    assert [path.name for path in TARGET.iterdir()] == ["export.json"]
    assert read_json(TARGET / "export.json")["why"] == "None of 2 checkpoints passes."
    with pytest.raises(UserError, match="None of 2 checkpoints passes. Say which one should speak, like CHECKPOINT=epoch-02"):
        speak.main([*MODEL, "--text", "hello", "--out", "take.wav"])


def test_another_checkpoint_is_exported_on_request_and_marked(place: Path) -> None:
    export.main([*MODEL, "--checkpoint", "epoch-03"])
    card = Path("data/cosyvoice3/export-epoch-03/README.md").read_text()
    assert "**Not promoted.**" in card and "has not judged this checkpoint" in card
    with pytest.raises(UserError, match="there is no checkpoint epoch-09; there are base, epoch-02, epoch-03"):
        export.main([*MODEL, "--checkpoint", "epoch-09"])
    assert not Path("data/cosyvoice3/export-epoch-09").exists()


def test_the_notices_that_came_with_the_base_go_along_and_a_small_base_claims_no_release(place: Path) -> None:
    Path("weights/LICENSE").write_text("You may.")
    Path("weights/NOTICE.txt").write_text("Name us.")
    export.main(MODEL)
    assert [(TARGET / name).read_text() for name in ("LICENSE", "NOTICE.txt")] == ["You may.", "Name us."]
    for name in ("LICENSE", "NOTICE.txt"):
        Path("weights", name).unlink()
    write_json(WEIGHTS, {"folder": "models/cosyvoice3/tiny", "commits": {}, "files": {}})
    export.main(MODEL)
    write_json(WEIGHTS, RELEASED)
    assert not (TARGET / "LICENSE").exists()
    card = (TARGET / "README.md").read_text()
    assert "license: other" in card and "a small one that it trained itself" in card and "Apache" not in card


def said(*more: str) -> np.ndarray:
    speak.main([*MODEL, "--text", "Press one, please. " * 9, "--out", "take.wav", *more])
    audio, rate = sf.read("take.wav")
    assert rate == 24000
    return audio


def test_checkpoint_and_export_say_the_same_and_the_scale_is_heard(place: Path) -> None:
    export.main(MODEL)
    promoted = said()
    assert np.array_equal(promoted, said("--checkpoint", "epoch-02"))
    assert np.array_equal(said("--checkpoint", "base"), said("--scale", "0"))
    assert not np.array_equal(promoted, said("--checkpoint", "epoch-02", "--scale", "40"))
    exported = said("--checkpoint", str(TARGET))
    assert len(exported) > 24000  # half precision may draw another code here and there
    with pytest.raises(UserError, match="is merged already, at scale 1.0"):
        said("--checkpoint", str(TARGET), "--scale", "0.5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", " ", "--out", "take.wav"], "--text: nothing to say"),
        (["--text", "hello", "--out", "nowhere/take.wav"], "nowhere: no such folder"),
        (["--text", "hello", "--out", "take.wav", "--checkpoint", "epoch-77"], "there is no checkpoint epoch-77"),
    ],
)
def test_what_can_not_be_spoken_is_one_line(place: Path, arguments: list[str], message: str) -> None:
    Path("take.wav").unlink(missing_ok=True)
    with pytest.raises(UserError, match=message):
        speak.main([*MODEL, *arguments])
    assert not Path("take.wav").exists()


def test_an_export_of_another_family_is_refused(place: Path) -> None:
    export.main(MODEL)
    record = json.loads((TARGET / "export.json").read_text())
    write_json(TARGET / "export.json", record | {"family": "fish_s2"})
    with pytest.raises(UserError, match="holds no voice of cosyvoice3"):
        speak.main([*MODEL, "--text", "hello", "--out", "take.wav", "--checkpoint", str(TARGET)])
