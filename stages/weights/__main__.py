"""Stage `weights`: which weights the chosen profile of a family has, so that later stages notice when they change.

    python -m stages.weights --model NAME     ->  data/NAME/weights.json

DVC can't pick a dependency by profile, so the file is the same as long as these weights are: released weights that come
in make no stage of the tiny profile run again, and one other byte in them makes every stage of the full profile do so.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from models.parts.errors import UserError
from stages.common.cli import run
from stages.common.files import sha256, write_json
from stages.common.params import load_params
from stages.weights.manifest import FOLDER, MANIFEST, check_bytes


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.weights", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    name = parser.parse_args(argv).model
    found = identify(name, load_params().family(name).weights)
    write_json(Path(f"data/{name}/weights.json"), found)
    print(f"{found['folder']}: {len(found['files'])} files, as they should be")


def identify(name: str, weights: Path) -> dict[str, Any]:
    """What `weights` are. UserError where they are not what they should be, or where DVC would not see a change."""
    tiny = Path("models") / name / "tiny"
    if weights == tiny:  # a base of this repository's, in git
        read = [path for kind in ("*.safetensors", "config.json", "tokenizer.json") for path in weights.rglob(kind)]
        files = {path.relative_to(weights).as_posix(): sha256(path) for path in read}
        return {"folder": str(weights), "commits": {}, "files": files}
    if weights != FOLDER / name:
        raise UserError(
            f"params.yaml: weights of {name}: {weights}: only {tiny} and {FOLDER / name} are watched; bring them "
            f"in with `make weights MODEL={name} FROM={weights}` and set weights: {FOLDER / name}"
        )
    if not (weights / MANIFEST).is_file():
        raise UserError(f"{weights}: no {MANIFEST}, so nobody knows what it holds; bring weights in with `make weights MODEL={name}`")
    manifest = check_bytes(weights, name)
    files = {file: facts["sha256"] for file, facts in manifest["files"].items()}
    return {"folder": str(weights), "commits": manifest["commits"], "files": files}


if __name__ == "__main__":
    run(main)
