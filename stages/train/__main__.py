"""Stage `train`: LoRA or full fine-tuning of one family, every checkpoint kept.

    python -m stages.train --model cosyvoice3

With `epochs: 0` nothing is trained: the family is a zero-shot control, and the gate judges its base.
A killed run continues where it stopped (`.scratch/train`) and ends bit-identical to an uninterrupted one. With
`train.processes` above 1 the stage starts itself again under Accelerate, so many times.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from dvclive import Live
from tqdm import tqdm

import models
from models.parts.checkpointing import checkpoint_gradients
from models.parts.evaluating import evaluating
from models.parts.family import AdaptSettings, Example, Family, Loss
from models.parts.precision import compute_device, repeatable, training_arithmetic
from stages.common.checkpoints import adapt_settings, checkpoint_name
from stages.common.cli import run
from stages.common.files import SCRATCH, read_json, staged, write_json, write_jsonl
from stages.common.metrics import StageMetrics
from stages.common.params import Params, TrainParams, load_params
from stages.common.shards import Shards
from stages.common.tokens import read_contract, read_split, read_voice
from stages.train import selfcheck
from stages.train.batching import length_batches
from stages.train.plan import Device, announce
from stages.train.processes import Alone, is_launched, launch, rank

SAVE_SECONDS = 60.0  # how much work a killed run may lose
CHECK_EXAMPLES = 4
THREADS = 2
Score = Callable[[Sequence[Example]], Loss]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.train", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    name = parser.parse_args(argv).model
    params = load_params()
    train = params.family(name).train
    if train.processes == 1 or not train.epochs:
        learn(name, params, Alone())
    elif is_launched():
        with rank(train.shard) as one:
            learn(name, params, one)
    else:
        launch("stages.train", argv, train.processes)


def learn(name: str, params: Params, team: Alone) -> None:
    """Train family `name`, as what `team` says: the only process, or one of several."""
    block, lr = params.family(name), params.learning_rate(name)
    train = block.train
    settings = adapt_settings(train)
    tokens = Path(f"data/{name}/tokens")
    with StageMetrics("train", name) as metrics:
        # 1. The same numbers in every run.
        repeatable(THREADS)
        device = compute_device()

        # 2. The tokens, and whether they are this network's.
        family = models.load(name)
        contract = read_contract(tokens)
        audio = None if settings.parts == ("llm",) else Shards(Path(f"data/{name}/resampled"))  # what else trains hears the recordings
        examples, validation = (read_split(family, tokens, split, audio) for split in ("train", "validation"))
        selfcheck.largest_code([*examples, *validation], contract, str(tokens))
        if team.first or device.type == "cuda":  # of a card each process has its own
            announce(family, block, Device.here(), lambda _: examples)
        loaded_on = team.loads_on or device
        network = family.network_to_train(block.weights, settings, block.torch_dtype, loaded_on)
        size = sum(parameter.numel() for parameter in network.parameters())
        selfcheck.contracts(family, network, contract, family.codec(block.weights).contract, f"{tokens}/contract.json")

        # 3. Training scores exactly what generation decides, and the adapter starts from the base.
        torch.manual_seed(params.seed)  # here, so that what a run draws does not depend on how its base was loaded
        gap = selfcheck.alignment(family, network, examples[0].text, read_voice(tokens), params.seed)
        if train.epochs:
            if train.gradient_checkpointing:
                checkpoint_gradients(network)
            check = to(family.batch(network, examples[:CHECK_EXAMPLES]), loaded_on)
            network = selfcheck.same_after_wrapping(family, network, settings, check)
        loss_of = team.prepare(family, network)
        parameters = [p for p in network.parameters() if p.requires_grad] if train.epochs else []

        def score(batch: Sequence[Example]) -> Loss:
            return loss_of(to(family.batch(network, batch), device))

        base_validation = validate(score, network, validation, train.batch_frames, team)

        # 4. Train.
        history: list[dict[str, Any]] = [{"epoch": 0, "step": 0, "lr": 0.0, "validation": base_validation}]
        base_sha = read_json(Path(f"data/{name}/weights.json"))["sha256"]
        key = hashlib.sha256(repr((base_sha, block.dtype, contract, settings, train, lr, params.seed, digest(examples), digest(validation))).encode()).hexdigest()[:16]
        work = SCRATCH / "train" / name / key
        (work / "checkpoints").mkdir(parents=True, exist_ok=True)
        if train.epochs:
            history = fit(score, family, network, parameters, examples, validation, train, settings, lr, params.seed, device, work, history, team)
        team.others_end()

        # 5. Publish: checkpoints, curves, what was really used.
        saved = [epoch for epoch in range(1, train.epochs + 1) if is_saved(epoch, train)]
        record = {
            "family": name, "mode": train.mode, "settings": vars(settings),
            "lr": lr if train.epochs else None, "epochs": saved, "weights": str(block.weights), "base_sha256": base_sha,
            "labels_per_epoch": history[-1].get("labels", 0),
            "trainable_parameters": sum(p.numel() for p in parameters),
            "parameters": size, "dtype": block.dtype, "processes": team.count,
            "base_validation": base_validation,
        }
        with staged(Path(f"data/{name}/checkpoints")) as folder:
            for epoch in saved:
                shutil.copytree(work / "checkpoints" / checkpoint_name(epoch), folder / checkpoint_name(epoch))
            write_jsonl(folder / "history.jsonl", history)
            write_json(folder / "train.json", record)
        curves(Path(f"reports/curves/{name}"), history)
        losses = [row["validation"]["total"] for row in history if "validation" in row]
        best = min(losses) if validation else None  # without a held-out sentence there is no loss, and no best epoch
        metrics.set(
            mode=train.mode, lr=lr if train.epochs else None, rank=train.rank if train.epochs else None, processes=team.count,
            epochs=train.epochs, steps=history[-1]["step"], frames=train.epochs * sum(len(e.codes) for e in examples), trainable_parameters=record["trainable_parameters"],
            base_validation_loss=losses[0], best_validation_loss=best, last_validation_loss=losses[-1],
            best_epoch=losses.index(best) if validation else None, alignment_gap=round(gap, 6),
        )
        shutil.rmtree(work)


def fit(
    score: Score, family: Family, network: torch.nn.Module, parameters: list[torch.nn.Parameter], examples: list[Example],
    validation: list[Example], train: TrainParams, settings: AdaptSettings, lr: float, seed: int, device: torch.device,
    work: Path, history: list[dict[str, Any]], team: Alone,
) -> list[dict[str, Any]]:
    """AdamW with warm-up, schedule, clipping and accumulation; returns the history, one row an epoch."""
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=train.weight_decay)
    plan = [length_batches(examples, train.batch_frames, random.Random(seed * 1000 + epoch)) for epoch in range(train.epochs)]
    total_steps = sum(-(-len(batches) // train.accumulate) for batches in plan)
    state = team.state(work / "state.safetensors")
    place: dict[str, Any] = {"epoch": 0, "batch": 0, "step": 0, "sums": {}, "labels": 0, "history": history}
    if found := state.load(parameters, optimizer):
        place = found
        print(f"train {family.name}: continues at epoch {place['epoch'] + 1}, batch {place['batch'] + 1}")
    optimizer.zero_grad()
    last_save = time.monotonic()
    network.train()
    bar = tqdm(total=sum(map(len, plan)), initial=sum(map(len, plan[: place["epoch"]])) + place["batch"], desc=f"train {family.name}", unit="batch")
    for epoch in range(place["epoch"], train.epochs):
        batches = [*enumerate(plan[epoch], 1)]
        for start in range(place["batch"], len(batches), train.accumulate):
            group, mine = batches[start : start + train.accumulate], []
            for number, batch in team.share(group):
                team.seed(seed, epoch, number)
                with training_arithmetic(device):
                    loss = score(batch)
                selfcheck.usable(loss, f"{family.name}: epoch {epoch + 1}, batch {number} ({batch[0].id} …)")
                team.backward(loss.total / len(group))
                mine.append(figures(loss))
            team.add_gradients(parameters)
            for terms, labels in (losses := team.merge(mine, len(group))):
                add(place["sums"], terms, labels)
                place["labels"] += labels
            torch.nn.utils.clip_grad_norm_(parameters, train.clip)
            optimizer.param_groups[0]["lr"] = rate = rate_at(place["step"], total_steps, lr, train)
            optimizer.step()
            optimizer.zero_grad()
            place |= {"step": place["step"] + 1, "batch": start + len(group)}
            bar.update(len(group))
            bar.set_postfix(epoch=epoch + 1, loss=f"{losses[-1][0]['total']:.3f}", lr=f"{rate:.1e}")
            if team.saves(due=time.monotonic() - last_save > SAVE_SECONDS):
                state.save(parameters, optimizer, place)
                last_save = time.monotonic()
        means = {part: round(value / place["labels"], 6) for part, value in place["sums"].items()}
        place["history"].append({
            "epoch": epoch + 1, "step": place["step"], "lr": optimizer.param_groups[0]["lr"], "labels": place["labels"], "train": means,
            "validation": validate(score, network, validation, train.batch_frames, team),
        })
        if is_saved(epoch + 1, train):
            team.save_checkpoint(work / "checkpoints" / checkpoint_name(epoch + 1), family, network, settings)
        place |= {"epoch": epoch + 1, "batch": 0, "sums": {}, "labels": 0}
        if team.saves():
            state.save(parameters, optimizer, place)
    bar.close()
    return list(place["history"])


def rate_at(step: int, total: int, lr: float, train: TrainParams) -> float:
    """The learning rate of optimizer step `step` (from 0): linear warm-up, then constant or a cosine down to a tenth."""
    warm = min(1.0, (step + 1) / train.warmup) if train.warmup else 1.0
    if train.schedule == "constant":
        return lr * warm
    return lr * warm * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / max(1, total))))


def is_saved(epoch: int, train: TrainParams) -> bool:
    """Every n epochs, and always the last."""
    return epoch % train.save_every_n_epochs == 0 or epoch == train.epochs


def validate(score: Score, network: torch.nn.Module, examples: list[Example], frames: int, team: Alone) -> dict[str, Any]:
    """Mean loss over the whole validation set: fixed batches, no dropout, so that checkpoints compare. None of no examples."""
    sums: dict[str, float] = {}
    with evaluating(network), torch.no_grad():
        batches = length_batches(examples, frames)
        losses = team.merge([figures(score(batch)) for batch in team.share(batches)], len(batches))
    for terms, labels in losses:
        add(sums, terms, labels)
    means = {part: round(value / sum(labels for _, labels in losses), 6) for part, value in sums.items()}
    return {"total": means.pop("total", None), "parts": means}


def figures(loss: Loss) -> tuple[dict[str, float], int]:
    """The total and the named terms of a batch, and its labels."""
    return {"total": float(loss.total.detach())} | loss.parts, loss.labels


def add(sums: dict[str, float], terms: dict[str, float], labels: int) -> None:
    """Batches count by their labels."""
    for part, value in terms.items():
        sums[part] = sums.get(part, 0.0) + value * labels


def to(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def digest(examples: list[Example]) -> str:
    """A hash of everything that training sees of a set."""
    sha = hashlib.sha256()
    for example in examples:
        sha.update(repr((example.id, example.text, example.codes.shape)).encode())
        sha.update(example.codes.tobytes() + example.speaker_embedding.tobytes() + example.prompt.tobytes())
    return sha.hexdigest()


def curves(folder: Path, history: list[dict[str, Any]]) -> None:
    """The history as DVCLive curves: one TSV a figure, for `dvc plots` and the editor extensions."""
    shutil.rmtree(folder, ignore_errors=True)
    with Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None) as live:  # type: ignore[arg-type]
        for row in history:
            live.step = row["epoch"]
            for kind in ("train", "validation"):
                if kind in row and row[kind]["total"] is not None:
                    live.log_metric(f"{kind}/loss", row[kind]["total"])
            live.log_metric("lr", row["lr"])
            live.make_summary()


if __name__ == "__main__":
    run(main)
