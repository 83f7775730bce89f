"""Training in several processes (gloo, on the processor): it learns what one process learns, and nobody is left when one of them ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from models.parts.errors import UserError
from models.parts.text import load_tokenizer
from stages import tokenise
from stages.common.files import read_json, read_jsonl
from stages.train import __main__ as train
from tests.toy_cosyvoice import change, contents, workplace

ROOT = Path(__file__).parents[2]
MODEL = ["--model", "cosyvoice3"]
CHECKPOINTS = Path("data/cosyvoice3/checkpoints")


@pytest.fixture(scope="module")
def tokenised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = workplace(tmp_path_factory.mktemp("processes"))
    with chdir(place):
        tokenise.main(MODEL)
    return place


@pytest.fixture
def place(tokenised: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of it by name, with other settings."""

    def copy(name: str, **settings: Any) -> Path:
        folder = shutil.copytree(tokenised, tmp_path / name)
        change(folder, accumulate=3, **settings)  # five batches: a step of three, and one of two
        return folder

    return copy


def start(folder: Path) -> subprocess.Popen[str]:
    command, environment = [sys.executable, "-m", "stages.train", *MODEL], os.environ | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def trained(folder: Path) -> list[dict[str, Any]]:
    """The history of a run of the stage."""
    process = start(folder)
    _, told = process.communicate()
    assert process.returncode == 0, told
    return history(folder)


def at_work(folder: Path) -> list[psutil.Process]:
    """Every process of a run."""

    def where(process: psutil.Process) -> str:
        with suppress(psutil.Error):
            return str(process.cwd())
        return ""

    return [process for process in psutil.process_iter() if where(process) == str(folder)]


def failed(folder: Path, process: subprocess.Popen[str]) -> str:
    """What a run that ends with code 1 says; no process of it is there any more."""
    _, told = process.communicate()
    assert process.returncode == 1, told
    assert not psutil.wait_procs(at_work(folder), timeout=5)[1]
    return told.rstrip("\n")


def compare(one: list[dict[str, Any]], several: list[dict[str, Any]]) -> None:
    """The same epochs, steps, rates and labels, and losses equal to 1e-5."""
    assert [{key: row.get(key) for key in ("epoch", "step", "lr", "labels")} for row in one] == [
        {key: row.get(key) for key in ("epoch", "step", "lr", "labels")} for row in several
    ]
    for mine, theirs in zip(one, several, strict=True):
        assert theirs["validation"]["total"] == pytest.approx(mine["validation"]["total"], abs=1e-5)
        assert theirs["validation"]["parts"] == pytest.approx(mine["validation"]["parts"], abs=1e-5)
        assert theirs.get("train") == pytest.approx(mine.get("train"), abs=1e-5)


SETTINGS: dict[str, dict[str, Any]] = {"lora": {"mode": "lora", "lr": 1e-2}, "sft": {"mode": "sft", "lr": 1e-3}}


@pytest.fixture(scope="module", params=SETTINGS)
def alone(request: pytest.FixtureRequest, tokenised: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What one process makes of LoRA, and of every weight."""
    folder = shutil.copytree(tokenised, tmp_path_factory.mktemp("alone") / request.param)
    change(folder, accumulate=3, **SETTINGS[request.param])
    with chdir(folder):
        train.main(MODEL)
    return request.param, folder


def history(folder: Path) -> list[dict[str, Any]]:
    return read_jsonl(folder / CHECKPOINTS / "history.jsonl")


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_learn_what_one_learns(place: Callable[..., Path], alone: tuple[str, Path], processes: int) -> None:
    mode, one = alone
    several = place("several", processes=processes, **SETTINGS[mode])
    compare(history(one), trained(several))
    assert history(one)[-1]["train"]["total"] < history(one)[1]["train"]["total"] - 0.05  # 1e-5 is little of what was learnt
    assert [path.name for path in sorted((several / CHECKPOINTS).iterdir())] == [path.name for path in sorted((one / CHECKPOINTS).iterdir())]
    assert read_json(several / CHECKPOINTS / "train.json") == read_json(one / CHECKPOINTS / "train.json") | {"processes": processes}
    assert read_json(several / "reports/metrics/train-cosyvoice3.json")["processes"] == processes


def test_a_network_that_is_cut_among_processes_learns_the_same(place: Callable[..., Path], alone: tuple[str, Path]) -> None:
    mode, one = alone
    cut = place("cut", processes=2, shard=True, **SETTINGS[mode])
    compare(history(one), trained(cut))
    for name in ("epoch-02", "epoch-03"):
        mine, whole = (load_file(folder / CHECKPOINTS / name / "adapter.safetensors") for folder in (cut, one))
        assert mine.keys() == whole.keys() and all(mine[key].shape == whole[key].shape for key in mine)
        assert max(float((mine[key] - whole[key]).abs().max()) for key in mine) < 1e-5


def test_what_is_drawn_does_not_depend_on_the_number_of_processes(place: Callable[..., Path]) -> None:
    two, three = (trained(place(str(processes), processes=processes, dropout=0.3, lr=1e-2)) for processes in (2, 3))
    compare(two, three)


LONG: dict[str, Any] = {"processes": 2, "dropout": 0.2, "epochs": 8}


@pytest.fixture(scope="module")
def whole(tokenised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nobody stopped."""
    folder = shutil.copytree(tokenised, tmp_path_factory.mktemp("whole") / "whole")
    change(folder, accumulate=3, **LONG)
    trained(folder)
    return folder


@pytest.mark.parametrize("shard", [False, True])
def test_a_killed_run_goes_on_and_leaves_nobody(place: Callable[..., Path], whole: Path, shard: bool) -> None:
    """Bit-identical to one that was not; where the network is cut among them, to rounding."""
    cut = place("cut", shard=shard, **LONG)
    process = start(cut)
    while not [*cut.glob(".scratch/train/cosyvoice3/*/state.safetensors")]:
        assert process.poll() is None
        time.sleep(0.01)
    assert len(at_work(cut)) == 3
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(at_work(cut), timeout=5)[1]
    assert not (cut / CHECKPOINTS).exists()
    compare(history(whole), trained(cut))
    assert shard or contents(cut / CHECKPOINTS) == contents(whole / CHECKPOINTS)


def test_what_is_wrong_in_one_process_is_said_once_as_one_process_says_it(place: Callable[..., Path]) -> None:
    """An embedding of no number, of a word that a single batch has: one process comes upon it, and the others wait for that."""
    places = [place(str(processes), processes=processes) for processes in (1, 2)]
    for folder in places:
        spoil(folder)
    one, two = (failed(folder, start(folder)) for folder in places)
    assert one == two and two.startswith("cosyvoice3: epoch 1, batch ") and "the loss is nan" in two and "\n" not in two
    assert not (places[1] / CHECKPOINTS).exists()


def test_a_process_that_is_killed_ends_the_run_in_one_line(place: Callable[..., Path]) -> None:
    folder = place("killed", processes=2, epochs=1000)
    process = start(folder)
    while not [*folder.glob(".scratch/train/cosyvoice3/*/state.safetensors")]:
        assert process.poll() is None
        time.sleep(0.01)
    _, second = sorted(child.pid for child in at_work(folder) if child.pid != process.pid)
    os.kill(second, signal.SIGKILL)
    assert failed(folder, process).startswith("a process of stages.train was killed (SIGKILL); if memory ran out, free some or lower train.processes")


def test_more_processes_than_batches_in_a_step_are_refused(place: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place("4", processes=4))
    with pytest.raises(UserError, match="cosyvoice3.tiny.train: 4 processes share out the batches of a step, and accumulate makes it 3; set it to 4"):
        train.main(MODEL)


def test_more_processes_than_cards_are_refused(place: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place("2", processes=2))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="train.processes: 2 of them need a GPU each, and 1 can be seen"):
        train.main(MODEL)


def spoil(folder: Path) -> None:
    """The last training clip says a sound that no other has, and what the network knows of it is no number."""
    family, tokens, file = models.load("cosyvoice3"), folder / "data/cosyvoice3/tokens/train", folder / "weights/model.safetensors"
    *others, last = family.read(tokens)
    family.write([*others, replace(last, text="measure")], tokens)
    state = load_file(file)
    state["llm.model.model.embed_tokens.weight"][load_tokenizer(folder / "weights/tokenizer.json").token_to_id("zh")] = torch.nan
    save_file(state, file)
