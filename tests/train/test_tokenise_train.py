"""The stages `tokenise` and `train`, started as DVC starts them, on a toy network: what they keep, refuse and repeat."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import models
from models.parts.errors import UserError
from models.parts.family import Example
from stages import tokenise
from stages.bench import __main__ as bench
from stages.common.files import read_jsonl
from stages.common.params import load_params
from stages.common.shards import Clip, write_shards
from stages.common.tokens import read_contract, read_voice
from stages.train import __main__ as train
from stages.train.batching import length_batches
from tests.toy_cosyvoice import again, change, contents, workplace

MODEL = ["--model", "cosyvoice3"]
TOKENS, CHECKPOINTS = Path("data/cosyvoice3/tokens"), Path("data/cosyvoice3/checkpoints")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(workplace(tmp_path))
    return tmp_path


@pytest.fixture
def tokenised(place):
    tokenise.main(MODEL)
    return place


# --- tokenise -----------------------------------------------------------------------------------------------------


def test_tokenised_set_is_whole_and_says_what_made_it(tokenised):
    family = models.load("cosyvoice3")
    rows = {split: [r["id"] for r in read_jsonl(Path("data/corpus/manifest.jsonl")) if r["split"] == split] for split in ("train", "validation", "test")}
    for split, ids in rows.items():
        assert [e.id for e in family.read(TOKENS / split)] == ids
    assert read_contract(TOKENS) == family.codec(Path("weights")).contract
    assert json.loads(Path("reports/metrics/tokenise-cosyvoice3.json").read_text())["clips"] == 14


def test_a_batch_of_clips_equals_single_clips_bit_for_bit(place):
    codec = models.load("cosyvoice3").codec(Path("weights"))
    rng = np.random.default_rng(2)
    waves = [(0.1 * rng.normal(size=n)).astype(np.float32) for n in (4000, 16000, 9999, 16000)]
    for wave, together in zip(waves, codec.encode(waves), strict=True):
        np.testing.assert_array_equal(codec.encode([wave])[0], together)
    voice = train_voice(codec, waves)
    for codes, together in zip(codec.encode(waves), codec.decode(codec.encode(waves), voice), strict=True):
        np.testing.assert_array_equal(codec.decode([codes], voice)[0], together)


def train_voice(codec, waves):
    return tokenise.voice_of([Example("a", "", "ann", np.zeros((3, 1), np.int32), codec.speaker_embedding(waves[0]))])


def test_the_voice_is_the_mean_over_clips_and_reads_back_exactly(tokenised):
    train_set = models.load("cosyvoice3").read(TOKENS / "train")
    mean = np.stack([e.speaker_embedding for e in train_set]).mean(0, dtype=np.float64)
    np.testing.assert_allclose(read_voice(TOKENS).speaker_embedding, mean, rtol=1e-6)


def test_a_killed_tokenise_goes_on_and_ends_with_the_same_bytes(place, monkeypatch):
    monkeypatch.setattr(tokenise, "BATCH_SECONDS", 3.0)
    tokenise.main(MODEL)
    whole = contents(TOKENS)
    again(place)
    honest, done, log = tokenise.encode_batch, [], place / "encoded"

    def ends_at_third(*arguments):
        done.append(1)
        if len(done) == 3:
            raise UserError("no more")
        return honest(*arguments)

    def logged(codec, shards, batch, brought):
        with log.open("a") as file:  # in whatever process
            file.write(batch[0]["id"] + "\n")
        return honest(codec, shards, batch, brought)

    monkeypatch.setattr(tokenise, "encode_batch", ends_at_third)
    with pytest.raises(UserError, match="no more"):  # and the batches that other processes are at are lost
        tokenise.main(MODEL)
    assert not TOKENS.exists()
    kept = len(list(Path(".scratch/tokenise/cosyvoice3").glob("*.safetensors")))
    monkeypatch.setattr(tokenise, "encode_batch", logged)
    tokenise.main(MODEL)
    assert contents(TOKENS) == whole
    todo = tokenise.batches(read_jsonl(Path("data/corpus/manifest.jsonl")))
    assert kept >= 2 and len(log.read_text().splitlines()) == len(todo) - kept


@pytest.mark.parametrize("cards", [1, 2, 3])
def test_cards_share_the_clips_out_and_the_bytes_are_the_same(place, monkeypatch, cards):
    """Here they compute on the processor, each in a process that begins anew."""
    monkeypatch.setattr(tokenise, "BATCH_SECONDS", 3.0)
    tokenise.main(MODEL)
    on_cores = contents(TOKENS)
    again(place)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    tokenise.main(MODEL)
    assert contents(TOKENS) == on_cores


def test_audio_of_another_rate_is_named(place):
    write_shards(Path("data/cosyvoice3/resampled"), [Clip(f"clip-{i:02d}", 22050, np.zeros(9000, np.float32)) for i in range(14)])
    with pytest.raises(UserError, match="clip-00 has 22050 Hz, the tokeniser needs 16000"):
        tokenise.main(MODEL)
    assert not TOKENS.exists()


# --- train --------------------------------------------------------------------------------------------------------


def test_every_checkpoint_is_kept_and_the_base_is_measured(tokenised):
    train.main(MODEL)
    record, history = json.loads((CHECKPOINTS / "train.json").read_text()), read_jsonl(CHECKPOINTS / "history.jsonl")
    assert record["epochs"] == [2, 3]  # every second, and always the last
    assert sorted(p.name for p in CHECKPOINTS.iterdir() if p.is_dir()) == ["epoch-02", "epoch-03"]
    assert [row["epoch"] for row in history] == [0, 1, 2, 3]
    assert history[0]["validation"] == record["base_validation"]
    assert history[3]["train"]["total"] < history[1]["train"]["total"]


def test_two_runs_give_the_same_bytes_on_any_number_of_cores(tokenised):
    torch.set_num_threads(1)  # what a machine with one core begins with
    train.main(MODEL)
    first, threads = contents(CHECKPOINTS), torch.get_num_threads()
    again(tokenised)
    tokenise.main(MODEL)
    torch.set_num_threads(3)
    train.main(MODEL)
    assert contents(CHECKPOINTS) == first
    assert torch.get_num_threads() == threads  # larger networks than this one round by them


@pytest.mark.parametrize("steps_before", [1, 4, 7])
def test_a_killed_run_goes_on_bit_identical(tokenised, monkeypatch, steps_before):
    change(tokenised, dropout=0.2, accumulate=2)  # random numbers in every step, and steps of two batches
    train.main(MODEL)
    whole = contents(CHECKPOINTS)
    shutil.rmtree(CHECKPOINTS)
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    honest, count = torch.optim.AdamW.step, []

    def power_cut(self, *arguments, **options):
        if len(count) == steps_before:
            raise KeyboardInterrupt
        count.append(1)
        return honest(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", power_cut)
    with pytest.raises(KeyboardInterrupt):
        train.main(MODEL)
    assert not CHECKPOINTS.exists()
    monkeypatch.setattr(torch.optim.AdamW, "step", honest)
    train.main(MODEL)
    assert contents(CHECKPOINTS) == whole


def test_a_rate_written_as_text_reaches_the_optimizer_as_a_number(tokenised, monkeypatch):
    change(tokenised, lr="2e-06", schedule="constant", warmup=0)  # as `dvc exp run -S lr=2e-6` writes it
    rates = set()
    honest = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a, **k: rates.add(self.param_groups[0]["lr"]) or honest(self, *a, **k))
    train.main(MODEL)
    assert rates == {2e-06}
    assert json.loads(Path("reports/metrics/train-cosyvoice3.json").read_text())["lr"] == 2e-06


def test_sft_trains_every_weight_that_speech_comes_from(tokenised):
    change(tokenised, mode="sft", lr=1e-3)
    train.main(MODEL)
    record = json.loads((CHECKPOINTS / "train.json").read_text())
    assert record["trainable_parameters"] == record["parameters"]


def test_without_held_out_sentences_there_is_no_loss_rather_than_a_loss_of_zero(place):
    manifest = Path("data/corpus/manifest.jsonl")
    manifest.write_text(manifest.read_text().replace('"validation"', '"train"').replace('"test"', '"train"'))
    tokenise.main(MODEL)
    train.main(MODEL)
    metrics, history = json.loads(Path("reports/metrics/train-cosyvoice3.json").read_text()), read_jsonl(CHECKPOINTS / "history.jsonl")
    assert {metrics[key] for key in ("base_validation_loss", "best_validation_loss", "last_validation_loss", "best_epoch")} == {None}
    assert [row["validation"]["total"] for row in history] == [None] * 4 and history[3]["train"]["total"] > 0
    curves = Path("reports/curves/cosyvoice3/plots/metrics")
    assert (curves / "train/loss.tsv").is_file() and not (curves / "validation").exists()


def test_zero_epochs_make_a_control(tokenised):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["cosyvoice3"]["tiny"]["train"] = {"mode": "lora", "epochs": 0}  # nothing else need be said
    Path("params.yaml").write_text(yaml.safe_dump(params))
    train.main(MODEL)
    record = json.loads((CHECKPOINTS / "train.json").read_text())
    assert record["epochs"] == [] and record["lr"] is None and record["trainable_parameters"] == 0
    assert len(read_jsonl(CHECKPOINTS / "history.jsonl")) == 1


def test_tokens_of_another_tokeniser_are_refused(tokenised):
    path = TOKENS / "contract.json"
    path.write_text(path.read_text().replace("toy-s3", "toy-s2"))
    with pytest.raises(UserError, match="contract.json: made with tokeniser toy-s2"):
        train.main(MODEL)
    assert not CHECKPOINTS.exists()


def test_an_utterance_that_is_gone_from_a_whole_looking_set_is_missed(tokenised):
    family = models.load("cosyvoice3")
    family.write(family.read(TOKENS / "train")[:-1], TOKENS / "train")
    with pytest.raises(UserError, match="9 utterances, but .*contract.json says 10"):
        train.main(MODEL)
    assert not CHECKPOINTS.exists()


def test_nothing_encoded_by_other_code_comes_back(tokenised):
    assert not Path(".scratch/tokenise/cosyvoice3").exists()


def test_a_rate_that_breaks_the_weights_stops_the_run(tokenised):
    change(tokenised, lr=1e30, mode="sft", clip=1e9)
    with pytest.raises(UserError, match="the loss is (nan|inf); lower lr"):
        train.main(MODEL)
    assert not CHECKPOINTS.exists()


def test_warm_up_then_cosine_down_to_a_tenth(tokenised):
    train.main(MODEL)
    rates = [row["lr"] for row in read_jsonl(CHECKPOINTS / "history.jsonl")[1:]]
    peak = load_params().family("cosyvoice3").train.lr
    assert rates == sorted(rates, reverse=True) and 0.1 * peak <= rates[-1] < 0.3 * peak


@given(st.lists(st.integers(1, 90), min_size=1, max_size=40), st.integers(20, 200), st.booleans())
def test_batches_hold_every_utterance_once_and_keep_the_budget(lengths, frames, shuffled):
    examples = [Example(str(i), "", "", np.zeros((n, 1), np.int32)) for i, n in enumerate(lengths)]
    batches = length_batches(examples, frames, random.Random(4) if shuffled else None)
    assert sorted(e.id for batch in batches for e in batch) == sorted(e.id for e in examples)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(len(e.codes) for e in batch) <= frames


# --- bench --------------------------------------------------------------------------------------------------------


def test_the_bench_names_both_throughputs_and_their_ratio(tokenised, capsys):
    train.main(MODEL)
    bench.main([])
    ratios, costs = capsys.readouterr().out.split("\n\n")
    for what in ("tokenise:", "train:", "generate:"):
        lines = [line for line in ratios.splitlines() if what in line]
        for first, second, ratio in (map(float, line.split()[-3:]) for line in lines):
            assert first > 0 and ratio == pytest.approx(first / second, abs=0.02)
        assert len(lines) == (2 if what == "train:" else 1)
    assert {line.split()[1] for line in costs.splitlines()[1:]} >= {"tokenise", "train"}
