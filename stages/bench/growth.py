"""How time and memory of the stages grow with a corpus: the demo once, 5 and 24 times over, each time under ids of its own.

    python -m stages.bench.growth [--model qwen3_tts]        (make bench-growth)

Every size is a run of its own, of one family and one epoch, in a temporary copy of the repository; the last column is what
`dvc status` takes when it has found nothing to do.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import yaml

from models.parts.errors import UserError
from stages.common.cli import run
from stages.common.files import read_json, read_jsonl, write_jsonl
from stages.rehearse import copy_repository

TIMES = (1, 5, 24)  # 0.4, 2 and 10 hours
STAGES = ("corpus", "resample", "tokenise", "train")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.bench.growth", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="qwen3_tts")
    parser.add_argument("--times", type=int, nargs="+", default=TIMES, help="how often the demo is there, of each run")
    asked = parser.parse_args(argv)
    columns = "".join(f"{f'{stage}: s, GiB':>20}" for stage in STAGES)
    print(f"{asked.model:<12}{'hours':>6}{columns}{'dvc status: s':>15}")
    for times in asked.times:
        with tempfile.TemporaryDirectory(prefix="growth-") as place:
            print(row(asked.model, times, Path(place, "repository")), flush=True)


def row(name: str, times: int, root: Path) -> str:
    copy_repository(root)
    repeat(root / "data/demo", times)
    path = root / "params.yaml"
    params: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["models"] = [name]
    params[name]["tiny"]["train"] |= {"epochs": 1, "save_every_n_epochs": 1}
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    dvc(root, "repro", f"train@{name}")
    took = [read_json(root / "reports/metrics" / f"{stage}.json") for stage in ("corpus", *(f"{stage}-{name}" for stage in STAGES[1:]))]
    hours = read_json(root / "data/corpus/stats.json")["seconds"] / 3600
    began = time.perf_counter()
    dvc(root, "status", f"train@{name}")
    status = time.perf_counter() - began
    costs = "".join(f"{one['seconds']:>13.1f}{one['peak_mib'] / 2**10:>7.2f}" for one in took)
    return f"{f'{times} x':<12}{hours:>6.2f}{costs}{status:>15.1f}"


def repeat(demo: Path, times: int) -> None:
    """The clips of the demo `times` over, in archives of their own: each time an eighth of a millisecond shorter, since the same
    audio is taken once."""
    rows = read_jsonl(demo / "transcripts.jsonl")
    again = []
    with ZipFile(demo / "allison.zip") as clips:
        for turn in range(times):
            archive = f"turn-{turn:02d}.zip"
            with ZipFile(demo / archive, "w") as shorter:
                for name in clips.namelist():
                    shorter.writestr(name, clips.read(name)[turn:])  # G.722: a byte is two samples at 16 kHz
            again += [row | {"id": f"{row['id']}-{turn:02d}", "audio": row["audio"].replace("allison.zip", archive)} for row in rows]
    write_jsonl(demo / "transcripts.jsonl", again)


def dvc(root: Path, *arguments: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"dvc {' '.join(arguments)}: {done.stdout[-500:]} {done.stderr[-500:]}")


if __name__ == "__main__":
    run(main)
