"""Chatterbox's training format: safetensors shards of up to 1,000 utterances.

Columns have the names that community trainers give their one .pt file a clip (gokhaneraslan/chatterbox-finetuning):
`text`, `speech_tokens` (no start, no stop), `speaker_emb`, `prompt_tokens`; `id` and `speaker` are added. A column is
one tensor, all rows one after the other (texts as UTF-8), and `<column>.lengths` says where each ends.

The prompt of an utterance is the start of another one of the same speaker, so that nothing of it is in its own
conditioning. Community trainers take the utterance's own first seconds: a short clip could then be copied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from models.parts.errors import UserError
from models.parts.family import Example

PER_SHARD = 1000
COLUMNS = {
    "id": np.uint8, "text": np.uint8, "speaker": np.uint8, "speech_tokens": np.int32, "speaker_emb": np.float32,
    "prompt_tokens": np.int32,
}  # fmt: skip


def prompted(examples: Sequence[Example], length: int) -> list[Example]:
    """Each utterance with a prompt: the first `length` codes of the one before it of the same speaker.

    The first one takes the speaker's last; an utterance without company has no prompt.
    """
    by_speaker: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        by_speaker[example.speaker].append(index)
    result = list(examples)
    for indices in by_speaker.values():
        for index, before in zip(indices, [indices[-1], *indices], strict=False):
            prompt = examples[before].codes[: length if before != index else 0]
            result[index] = replace(examples[index], prompt=prompt)
    return result


def write(examples: Sequence[Example], folder: Path) -> None:
    """Write `examples` to `folder`/00000.safetensors …, the same bytes for the same examples."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    starts = range(0, max(1, len(examples)), PER_SHARD)
    for shard, start in enumerate(starts):
        rows = [_row(example) for example in examples[start : start + PER_SHARD]]
        tensors = {}
        for column, kind in COLUMNS.items():
            cells = [row[column] for row in rows]
            tensors[column] = np.concatenate([np.zeros(0, kind), *cells]).astype(kind)
            tensors[f"{column}.lengths"] = np.array([len(cell) for cell in cells], np.int32)
        save_file(tensors, folder / f"{shard:05d}.safetensors", metadata={"shards": str(len(starts))})


def read(folder: Path) -> list[Example]:
    """What `write` wrote, in order. UserError names the file that is missing, cut or of another shape."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: no .safetensors shards here; run the tokenise stage")
    examples = []
    for shard, file in enumerate(files):
        tensors, shards = _tensors(file)
        if file.name != f"{shard:05d}.safetensors" or len(files) != shards:
            raise UserError(f"{folder}: {len(files)} shards up to {files[-1].name}, but {file.name} is one of {shards}; run the tokenise stage again")
        examples += _examples(tensors, file)
    return examples


def _row(example: Example) -> dict[str, np.ndarray]:
    for codes in (example.codes, example.prompt):
        if codes.ndim != 2 or codes.shape[1] != 1:
            raise ValueError(f"{example.id}: codes of shape {codes.shape}, this format holds one codebook")
    texts = {"id": example.id, "text": example.text, "speaker": example.speaker}
    return {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()} | {
        "speech_tokens": example.codes[:, 0], "speaker_emb": example.speaker_embedding,
        "prompt_tokens": example.prompt[:, 0],
    }  # fmt: skip


def _tensors(file: Path) -> tuple[dict[str, np.ndarray], int]:
    """The tensors of a shard, and how many shards its set has."""
    try:
        with safe_open(file, "numpy") as opened:
            shards = int((opened.metadata() or {}).get("shards", 0))
            return {name: opened.get_tensor(name) for name in opened.keys()}, shards  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{file}: not a whole shard ({error}); run the tokenise stage again") from None


def _examples(tensors: dict[str, np.ndarray], file: Path) -> list[Example]:
    columns: dict[str, list[np.ndarray]] = {}
    for column, kind in COLUMNS.items():
        cells, lengths = tensors.get(column), tensors.get(f"{column}.lengths")
        if cells is None or lengths is None:
            raise UserError(f"{file}: no column {column}; it was made for another model, run the tokenise stage again")
        if cells.dtype != kind or cells.ndim != 1 or lengths.ndim != 1 or lengths.sum() != len(cells) or (lengths < 0).any():
            raise UserError(f"{file}: column {column} is not rows of {np.dtype(kind)} that fill it; run the tokenise stage again")
        columns[column] = np.split(cells, np.cumsum(lengths)[:-1]) if len(lengths) else []
    if len({len(rows) for rows in columns.values()}) > 1:
        raise UserError(f"{file}: columns of unequal length; run the tokenise stage again")
    try:
        texts = {name: [cell.tobytes().decode() for cell in columns[name]] for name in ("id", "text", "speaker")}
    except UnicodeDecodeError:
        raise UserError(f"{file}: a text is not UTF-8; run the tokenise stage again") from None
    return [
        Example(texts["id"][i], texts["text"][i], texts["speaker"][i], codes[:, None], columns["speaker_emb"][i], columns["prompt_tokens"][i][:, None])
        for i, codes in enumerate(columns["speech_tokens"])
    ]
