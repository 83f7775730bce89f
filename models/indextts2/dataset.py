"""IndexTTS2's training format: a JSONL manifest of pairs and arrays (.npy).

A pair is a target, whose text and codes are learnt, and a prompt, another utterance of the same speaker, whose latents
and emotion vector condition it (instavar/indextts2-finetuning, `tools/build_gpt_prompt_pairs.py`). Kinds, types and
shapes of the arrays are upstream's; `style` is what the decoder takes, which upstream computes at inference. Upstream
has a file for every utterance and kind; here a kind is one array, and the manifest says where in it an utterance is.

    pairs.jsonl      id, speaker, target_id, target_text, target_text_start, target_text_len, target_codes_start,
                     target_code_len, prompt_id, prompt_row; the n-th line's target is row n of the last three arrays
    text_ids.npy     int32 (sum of lengths,)     ids of the base's tokenizer
    codes.npy        int32 (sum of lengths,)     semantic tokens
    condition.npy    float32 (n, N, W)           latents of the base's conditioner (released: 32 of 1280)
    emo_vec.npy      float32 (n, W)              emotion vectors
    style.npy        float32 (n, S)              speaker vector of the decoder (released: none, it hears a recording)
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.indextts2.conditioner import unpack
from models.parts.errors import UserError
from models.parts.family import Example

MANIFEST = "pairs.jsonl"
KINDS: dict[str, tuple[type, int]] = {
    "text_ids": (np.int32, 1), "codes": (np.int32, 1), "condition": (np.float32, 3), "emo_vec": (np.float32, 2),
    "style": (np.float32, 2),
}  # fmt: skip
FIELDS = {
    "id": str, "speaker": str, "target_id": str, "target_text": str, "target_text_start": int, "target_text_len": int,
    "target_codes_start": int, "target_code_len": int, "prompt_id": str, "prompt_row": int,
}  # fmt: skip
AGAIN = "run the tokenise stage again"


@dataclass(frozen=True, kw_only=True)
class Target(Example):
    """An utterance with its prompt: `condition` (N, W) and `emotion` (W,) come from utterance `prompt_id`.

    `text_ids` int32 (L,): the text without start and stop. `speaker_embedding` is the utterance's own: style,
    condition and emotion, one after the other.
    """

    text_ids: np.ndarray
    prompt_id: str
    condition: np.ndarray
    emotion: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Heard(Example):
    """An utterance with the prompt itself, for training the conditioner: `hear()` is float32 (T, D)."""

    hear: Callable[[], np.ndarray]


def pairs(examples: Sequence[Example]) -> dict[str, Example]:
    """The prompt of each utterance, by its id: never itself, and every utterance is the prompt of one other.

    The utterances of a speaker stand in a ring, ordered by the hashes of their ids; the next one is the prompt. So a
    pair does not depend on the order of a set. UserError for a speaker with one utterance.
    """
    rings: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        rings[example.speaker].append(example)
    prompts: dict[str, Example] = {}
    for speaker, ring in rings.items():
        if len(ring) < 2:
            raise UserError(f"speaker {speaker}: utterance {ring[0].id} is the only one of its set, so there is no other to be its prompt; raise corpus.validation and corpus.test, or add recordings")
        ring.sort(key=lambda e: (hashlib.sha256(e.id.encode()).digest(), e.id))
        prompts |= {target.id: prompt for target, prompt in zip(ring, ring[1:] + ring[:1], strict=True)}
    return prompts


def paired(examples: Sequence[Example], text_ids: Callable[[str], list[int]], config: dict[str, Any]) -> list[Target]:
    """Utterances as the codec made them -> what `write` takes."""
    prompts, targets = pairs(examples), []
    for example in examples:
        prompt = prompts[example.id]
        _, condition, emotion = unpack(prompt.speaker_embedding, config)
        targets.append(Target(
            **vars(example), text_ids=np.array(text_ids(example.text), np.int32), prompt_id=prompt.id,
            condition=condition, emotion=emotion,
        ))  # fmt: skip
    return targets


def write(targets: Sequence[Target], folder: Path) -> None:
    """Write the set; every prompt is one of its targets, as `paired` has it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {target.id: row for row, target in enumerate(targets)}
    own: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    lines, text_start, codes_start = [], 0, 0
    for target in targets:
        count, width = target.condition.shape
        style, condition, emotion = unpack(target.speaker_embedding, {"condition_num_latent": count, "model_dim": width})
        arrays = (target.text_ids, target.codes[:, 0], condition[None], emotion[None], style[None])
        for kind, array in zip(KINDS, arrays, strict=True):
            own[kind].append(array)
        lines.append(json.dumps({
            "id": f"{target.id}__{target.prompt_id}", "speaker": target.speaker, "target_id": target.id,
            "target_text": target.text, "target_text_start": text_start, "target_text_len": len(target.text_ids),
            "target_codes_start": codes_start, "target_code_len": len(target.codes),
            "prompt_id": target.prompt_id, "prompt_row": rows[target.prompt_id],
        }) + "\n")  # fmt: skip
        text_start += len(target.text_ids)
        codes_start += len(target.codes)
    for kind, (dtype, dimensions) in KINDS.items():
        array = np.concatenate(own[kind]) if own[kind] else np.zeros((0,) * dimensions)
        np.save(folder / f"{kind}.npy", array.astype(dtype))
    (folder / MANIFEST).write_text("".join(lines))


def read(folder: Path) -> list[Target]:
    """What `write` wrote, in order. UserError names the file that is missing, cut or of another shape."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{path}: not there; run the tokenise stage")
    arrays = {kind: _array(folder / f"{kind}.npy", *KINDS[kind]) for kind in KINDS}
    lines = [_line(line, f"{path}: line {number}") for number, line in enumerate(path.read_text().splitlines(), 1)]
    for kind in ("condition", "emo_vec", "style"):
        if len(arrays[kind]) != len(lines):
            raise UserError(f"{folder}/{kind}.npy: {len(arrays[kind])} rows for the {len(lines)} lines of {MANIFEST}; {AGAIN}")
    if arrays["condition"].shape[2:] != arrays["emo_vec"].shape[1:]:
        raise UserError(f"{folder}/emo_vec.npy: {arrays['emo_vec'].shape[1:]} values a row, condition.npy has {arrays['condition'].shape[2:]}; {AGAIN}")
    return [_target(row, line, lines, arrays, f"{path}: line {row + 1}") for row, line in enumerate(lines)]


def _array(path: Path, dtype: type, dimensions: int) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path}: not there; {AGAIN}")
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a whole .npy file ({str(error).splitlines()[0]}); {AGAIN}") from None
    if array.dtype != dtype or array.ndim != dimensions:
        raise UserError(f"{path}: {array.dtype} of {array.ndim} dimensions, not {np.dtype(dtype)} of {dimensions}; {AGAIN}")
    return array


def _line(text: str, where: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except json.JSONDecodeError:
        raise UserError(f"{where} is not JSON, perhaps cut; {AGAIN}") from None
    if not isinstance(line, dict) or any(not isinstance(line.get(name), kind) for name, kind in FIELDS.items()):
        raise UserError(f"{where} is not a pair ({', '.join(FIELDS)}); {AGAIN}")
    return line


def _target(row: int, line: dict[str, Any], lines: list[dict[str, Any]], arrays: dict[str, np.ndarray], where: str) -> Target:
    prompt = line["prompt_row"]
    if not 0 <= prompt < len(lines) or lines[prompt]["target_id"] != line["prompt_id"]:
        raise UserError(f"{where}: prompt {line['prompt_id']} is not in the set; {AGAIN}")
    if prompt == row:
        raise UserError(f"{where}: {line['target_id']} is its own prompt, which teaches the network to copy it; {AGAIN}")

    def part(kind: str, start: int, length: int) -> np.ndarray:
        if start < 0 or length < 0 or start + length > len(arrays[kind]):
            raise UserError(f"{where}: {kind}.npy ends before {line['target_id']} does; {AGAIN}")
        return arrays[kind][start : start + length]

    codes = part("codes", line["target_codes_start"], line["target_code_len"])
    own = [arrays[kind][row].ravel() for kind in ("style", "condition", "emo_vec")]
    return Target(
        line["target_id"], line["target_text"], line["speaker"], codes[:, None], np.concatenate(own),
        text_ids=part("text_ids", line["target_text_start"], line["target_text_len"]), prompt_id=line["prompt_id"],
        condition=arrays["condition"][prompt], emotion=arrays["emo_vec"][prompt],
    )  # fmt: skip
