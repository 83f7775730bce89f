"""CosyVoice's training format: Parquet files of up to 1,000 utterances and the `data.list` that names them.

Columns are upstream's (FunAudioLLM/CosyVoice `tools/make_parquet_list.py`): utt, text, spk, speech_token,
utt_embedding, spk_embedding, and `instruct`, which version 3 cannot do without. Upstream also puts the audio in; its
language model never reads it, so it stays in the resampled shards. Embeddings are float32 lists: upstream's python
floats come back as objects and stop the training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.parts.errors import UserError
from models.parts.family import Example

PER_FILE = 1000
LIST = "data.list"
SCHEMA = pa.schema([
    ("utt", pa.string()), ("text", pa.string()), ("spk", pa.string()), ("speech_token", pa.list_(pa.int32())),
    ("utt_embedding", pa.list_(pa.float32())), ("spk_embedding", pa.list_(pa.float32())),
])


def write(examples: Sequence[Example], folder: Path, instruct: str | None) -> None:
    """Write the set. `spk_embedding` is the float32 mean over the speaker's utterances in this set."""
    folder.mkdir(parents=True, exist_ok=True)
    by_speaker: dict[str, list[np.ndarray]] = defaultdict(list)
    for example in examples:
        by_speaker[example.speaker].append(example.speaker_embedding)
    means = {speaker: np.mean(vectors, axis=0, dtype=np.float64).astype(np.float32) for speaker, vectors in by_speaker.items()}
    schema = SCHEMA if instruct is None else SCHEMA.append(pa.field("instruct", pa.string()))
    names = []
    for index in range(0, len(examples), PER_FILE):
        part = examples[index : index + PER_FILE]
        columns: dict[str, list] = {
            "utt": [e.id for e in part],
            "text": [e.text for e in part],
            "spk": [e.speaker for e in part],
            "speech_token": [e.codes[:, 0] for e in part],
            "utt_embedding": [e.speaker_embedding for e in part],
            "spk_embedding": [means[e.speaker] for e in part],
        }
        if instruct is not None:
            columns["instruct"] = [instruct] * len(part)
        name = f"parquet_{index // PER_FILE:09d}.parquet"
        pq.write_table(pa.table(columns, schema=schema), folder / name, compression="zstd")
        names.append(name)
    (folder / LIST).write_text("".join(f"{name}\n" for name in names))


def read(folder: Path, instruct: str | None) -> list[Example]:
    """Every utterance of the set, in order; UserError for a file that is missing or of another shape."""
    if not (folder / LIST).is_file():
        raise UserError(f"{folder / LIST}: not there; run the tokenise stage")
    schema = SCHEMA if instruct is None else SCHEMA.append(pa.field("instruct", pa.string()))
    examples = []
    for name in (folder / LIST).read_text().split("\n"):
        if not name:
            continue
        path = folder / name
        if not path.is_file():
            # Upstream only logs a warning here and trains on what is left.
            raise UserError(f"{path}: {LIST} names it and it is not there; delete {folder} and run the tokenise stage again")
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path}: not a whole Parquet file ({str(error).splitlines()[0]}); delete {folder} and run the tokenise stage again") from None
        absent = [field.name for field in schema if field.name not in table.column_names]
        if absent:
            raise UserError(f"{path}: no column {', '.join(absent)}; it was made for another model, run the tokenise stage again")
        for row in table.select(schema.names).cast(schema).to_pylist():
            if instruct is not None and row["instruct"] != instruct:
                raise UserError(f"{path}: utterance {row['utt']} has the instruction {row['instruct']!r}, the network's is {instruct!r}; run the tokenise stage again")
            examples.append(Example(
                row["utt"], row["text"], row["spk"], np.array(row["speech_token"], np.int32)[:, None],
                np.array(row["utt_embedding"], np.float32),
            ))
    return examples
