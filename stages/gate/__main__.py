"""Stage `gate`: every checkpoint reads the same texts, a listener writes down what it hears, and words decide.

    python -m stages.gate --model cosyvoice3
    python -m stages.gate --judge takes.jsonl    # audio from anywhere, by the same rules: stages/gate/judging.py

A finished checkpoint is kept in `.scratch/gate`: a killed run continues with the next one and ends with the same bytes.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import models
from models.parts.family import Codec, Family, Sampling, Voice
from models.parts.precision import repeatable
from stages.common.checkpoints import Checkpoints
from stages.common.cli import run
from stages.common.files import SCRATCH, read_json, read_jsonl, staged, write_json, write_jsonl
from stages.common.metrics import StageMetrics
from stages.common.params import FamilyParams, GateParams, Params, load_params
from stages.common.tokens import read_voice
from stages.gate.floor import Corpus, Floor, fingerprint, noise_floor, write_flac
from stages.gate.hearing import Hearing, unheard
from stages.gate.judging import judge_file
from stages.gate.listener import resampled
from stages.gate.prompts import Prompt, prompts
from stages.gate.reader import Reader, Script, Spoken
from stages.gate.verdict import Row, judge, promote, score, tiers

CORPUS = Path("data/corpus")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.gate", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model")
    what.add_argument("--judge", type=Path, metavar="FILE.jsonl", help="rows of text and wav")
    asked = parser.parse_args(argv)
    params = load_params()
    if asked.judge:
        judge_file(asked.judge, params.gate, CORPUS)
    else:
        gate(asked.model, params)


def gate(name: str, params: Params) -> None:
    with StageMetrics("gate", name) as metrics:
        # 1. What is judged: the base, and the checkpoints that training left.
        repeatable()
        block, family = params.family(name), models.load(name)
        folder = Path(f"data/{name}/checkpoints")
        checkpoints = Checkpoints(family, block, folder)
        base, *trained = checkpoints.epochs
        judged = [base, *(trained if params.gate.checkpoints == "all" else trained[-1:])]
        voice = read_voice(Path(f"data/{name}/tokens"))

        # 2. The texts, and what the listener makes of real recordings.
        corpus = Corpus(CORPUS)
        texts = prompts(corpus.manifest, corpus.stats["words_per_second"], params.gate.prompts)
        hearing = Hearing(corpus.speaker())
        floor = noise_floor(corpus, params.gate, hearing)

        # 3. Every checkpoint reads every text with every seed.
        exam = Exam(
            family, block, checkpoints, family.codec(block.weights), voice, corpus, texts, params.gate, hearing, floor
        )
        inputs = fingerprint(
            *code(name), *files(block.weights), *files(folder), Path(f"data/{name}/tokens/voice.json"),
            CORPUS / "manifest.jsonl", params.gate, block.dtype, block.sampling, block.scale,
        )  # fmt: skip
        work = SCRATCH / "gate" / name / inputs
        takes = len(texts) * len(params.gate.seeds)
        rows: dict[str, list[Row]] = {}
        with tqdm(total=takes * len(judged), desc=f"gate {name}", unit="take", disable=None) as bar:
            for checkpoint in judged:
                kept = work / checkpoint
                if not kept.is_dir():
                    with staged(kept) as partial:
                        write_jsonl(partial / "rows.jsonl", exam.take(checkpoint, partial, bar.update))
                else:
                    bar.update(takes)
                rows[checkpoint] = read_jsonl(kept / "rows.jsonl")

        # 4. What the frozen codec alone makes of the recordings: no checkpoint can sound better.
        through = work / "codec"
        if not through.is_dir():
            with staged(through) as partial:
                write_json(partial / "rows.json", exam.resynthesise(partial))

        # 5. Decide.
        order = list(rows)
        verdicts = {checkpoint: tiers(takes, params.gate.pass_share) for checkpoint, takes in rows.items()}
        scores = {checkpoint: score(takes, floor.rows) for checkpoint, takes in rows.items()}
        promoted, why = promote(order, verdicts, scores)

        # 6. Publish: rows, audio, the verdict, the floor.
        with staged(Path(f"data/{name}/gate")) as out:
            for system in [*order, "codec"]:
                shutil.copytree(work / system / "audio", out / "audio", dirs_exist_ok=True)
            if floor.folder:
                shutil.copytree(floor.folder / "audio", out / "audio", dirs_exist_ok=True)
            write_jsonl(out / "rows.jsonl", [row for checkpoint in order for row in rows[checkpoint]])
            write_json(out / "floor.json", floor.as_json())
            write_json(out / "codec.json", {"rows": read_json(through / "rows.json")})
            write_json(out / "verdict.json", {
                "family": name, "promoted": promoted, "why": why, "tiers": verdicts, "scores": scores, "order": order,
            })  # fmt: skip
        shown = promoted or order[-1]
        metrics.set(
            promoted=promoted, scale=block.scale, checkpoints=len(order), takes=takes,
            frames=sum(row["frames"] for some in rows.values() for row in some),
            passed_takes=sum(row["passed"] for row in rows[shown]), word_error_rate=scores[shown]["word_error_rate"],
            base_word_error_rate=scores["base"]["word_error_rate"], similarity=scores[shown]["similarity"],
        )
        shutil.rmtree(work)
        print(f"gate {name}: {why}")


@dataclass(frozen=True)
class Exam:
    """What is the same for every checkpoint of a family."""

    family: Family
    block: FamilyParams
    checkpoints: Checkpoints
    codec: Codec
    voice: Voice
    corpus: Corpus
    prompts: list[Prompt]
    gate: GateParams
    hearing: Hearing
    floor: Floor

    def take(self, checkpoint: str, folder: Path, heard: Callable[[int], object]) -> list[Row]:
        """The judged rows of one checkpoint, its audio in `folder`; `heard(1)` is called after each take."""
        epoch = self.checkpoints.epochs[checkpoint]
        seeds = self.gate.seeds
        scripts = [(prompt, Script(prompt.id, prompt.text, seed)) for prompt in self.prompts for seed in seeds]
        reader = Reader(
            self.family, self.checkpoints.network(checkpoint), self.codec, self.voice, Sampling(**self.block.sampling.model_dump()),
            self.corpus.stats["chars_per_second"], self.gate.segment_words,
        )  # fmt: skip
        audios = reader.read([script for _, script in scripts])

        def row(job: tuple[tuple[Prompt, Script], Spoken]) -> Row:
            (prompt, script), spoken = job
            fixed = {
                "family": self.family.name, "checkpoint": checkpoint, "epoch": epoch,
                "scale": self.block.scale if epoch else None, "tier": prompt.tier, "prompt": prompt.id,
                "kind": prompt.kind, "seed": script.seed, "text": prompt.text, "wav": None,
                "frames": spoken.frames, "finish": spoken.finish, "error": spoken.error,
            }  # fmt: skip
            if spoken.audio is None:
                measured = unheard(prompt.text)
            else:
                wav = fixed["wav"] = f"audio/{checkpoint}/{prompt.id}-{script.seed}.flac"
                audio, rate = write_flac(folder / wav, spoken.audio, self.codec.output_sample_rate)
                measured = self.hearing.measure(prompt.text, audio, rate)
            reasons = judge(fixed | measured, self.floor.tolerances[prompt.tier])
            heard(1)
            return fixed | measured | {"passed": not reasons, "reasons": reasons}

        (folder / "audio").mkdir()
        with ThreadPoolExecutor() as pool:
            return list(pool.map(row, zip(scripts, audios, strict=True)))

    def resynthesise(self, folder: Path) -> list[Row]:
        """The recordings of the held-out prompts, encoded and decoded again; rows without a verdict, audio in `folder`."""
        chosen = [prompt for prompt in self.prompts if prompt.clips]
        waves = [resampled(*self.corpus.recording(prompt), self.codec.contract.sample_rate) for prompt in chosen]
        decoded = self.codec.decode(self.codec.encode(waves), self.voice)

        def row(job: tuple[Prompt, np.ndarray]) -> Row:
            prompt, wave = job
            wav = f"audio/codec/{prompt.id}.flac"
            audio, rate = write_flac(folder / wav, wave, self.codec.output_sample_rate)
            fixed = {"system": "codec", "tier": prompt.tier, "prompt": prompt.id, "text": prompt.text, "wav": wav}
            return fixed | self.hearing.measure(prompt.text, audio, rate)

        (folder / "audio").mkdir()
        with ThreadPoolExecutor() as pool:
            return list(pool.map(row, zip(chosen, decoded, strict=True)))


def code(name: str) -> list[Path]:
    """What a kept checkpoint's takes depend on besides their inputs."""
    shared = ("stages/gate", "stages/common", "models/parts", "models/small", "models/released")
    return [path for folder in (*shared, f"models/{name}") for path in Path(folder).rglob("*.py")]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


if __name__ == "__main__":
    run(main)
