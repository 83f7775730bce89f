"""Fish's training format: shards of length-prefixed protobuf records (`text_data`).

A record is a 4-byte little-endian unsigned length and one serialised `TextData`. Here a record is one utterance:
`source` holds its id, `name` its speaker, and the one sentence has the text and one `Semantics` a codebook. Upstream's
tool (tools/llama/build_dataset.py) puts all that a speaker says into one record, which is read too. The schema is
upstream's (fishaudio/fish-speech, fish_speech/datasets/protos/text-data.proto); it is built here, so that no generated
code, which would be tied to a protoc version, comes with it.
"""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from models.parts.errors import UserError
from models.parts.family import Example

REFERENCE_FRAMES = 215  # 10 seconds
SHARD_BYTES = 10 * 1024 * 1024  # upstream's default
LENGTH = struct.Struct("<I")


def _schema() -> type[Any]:
    """The class of the message `text_data.TextData`."""
    field: Any = descriptor_pb2.FieldDescriptorProto
    schema: dict[str, list[tuple[str, int, Any, Any, str | None]]] = {
        "Semantics": [("values", 1, field.LABEL_REPEATED, field.TYPE_UINT32, None)],
        "Sentence": [
            ("texts", 1, field.LABEL_REPEATED, field.TYPE_STRING, None),
            ("semantics", 3, field.LABEL_REPEATED, field.TYPE_MESSAGE, ".text_data.Semantics"),
        ],
        "TextData": [
            ("source", 1, field.LABEL_OPTIONAL, field.TYPE_STRING, None),
            ("name", 2, field.LABEL_OPTIONAL, field.TYPE_STRING, None),
            ("sentences", 4, field.LABEL_REPEATED, field.TYPE_MESSAGE, ".text_data.Sentence"),
        ],
    }
    file = descriptor_pb2.FileDescriptorProto(name="text_data.proto", package="text_data", syntax="proto3")
    for message, fields in schema.items():
        entry = file.message_type.add(name=message)
        for name, number, label, kind, type_name in fields:
            entry.field.add(name=name, number=number, label=label, type=kind, type_name=type_name)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("text_data.TextData"))


TextData = _schema()


def write(examples: Sequence[Example], folder: Path) -> None:
    """Write `examples` to `folder`/00000000.protos …, at most 10 MB each (a larger record gets a shard of its own)."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.protos"):
        old.unlink()
    shards, size = [bytearray()], 0
    for example in examples:
        if example.speaker_embedding.size:
            raise ValueError(f"{example.id}: this format has no place for a speaker embedding")
        body = TextData(
            source=example.id,
            name=example.speaker,
            sentences=[{"texts": [example.text], "semantics": [{"values": row} for row in example.codes.T.tolist()]}],
        ).SerializeToString(deterministic=True)
        record = LENGTH.pack(len(body)) + body
        if size and size + len(record) > SHARD_BYTES:
            shards.append(bytearray())
            size = 0
        shards[-1] += record
        size += len(record)
    for index, shard in enumerate(shards):
        (folder / f"{index:08d}.protos").write_bytes(shard)


def read(folder: Path) -> list[Example]:
    """What `write` wrote, in order. UserError names the file and the record that is cut or of another shape."""
    files = sorted(folder.glob("*.protos"))
    if not files:
        raise UserError(f"{folder}: no .protos shards here; run the tokenise stage")
    if [file.name for file in files] != [f"{index:08d}.protos" for index in range(len(files))]:
        raise UserError(f"{folder}: a shard before {files[-1].name} is missing; run the tokenise stage again")
    examples: list[Example] = []
    for file in files:
        for number, body in enumerate(_records(file)):
            for example in _examples(body, f"{file}: record {number}"):
                examples.append(example)
                if example.codes.shape[1] != examples[0].codes.shape[1]:
                    raise UserError(
                        f"{file}: record {number}: {example.codes.shape[1]} codebooks, but the first record has "
                        f"{examples[0].codes.shape[1]}; run the tokenise stage again"
                    )
    return examples


def with_references(examples: Sequence[Example]) -> list[Example]:
    """Each with another utterance of its speaker as its prompt, of at most `REFERENCE_FRAMES`; none where there is no such one.

    The utterances of a speaker stand in a ring, ordered by the hashes of their ids, and the next that is short enough is the
    prompt: so it does not depend on the order of a set, and no clip is everybody's.
    """
    speakers: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        speakers[example.speaker].append(example)
    prompts: dict[str, Example | None] = {}
    for spoken in speakers.values():
        ring = sorted(spoken, key=lambda example: hashlib.sha256(example.id.encode()).digest())
        following: Example | None = None
        for example in reversed(ring + ring):
            prompts[example.id] = None if following is example else following
            following = example if len(example.codes) <= REFERENCE_FRAMES else following
    return [example if (prompt := prompts[example.id]) is None else replace(example, prompt=prompt.codes, prompt_text=prompt.text) for example in examples]


def _records(file: Path) -> Iterator[bytes]:
    data, start, number = file.read_bytes(), 0, 0
    while start < len(data):
        head = data[start : start + LENGTH.size]
        length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else 0
        body = data[start + LENGTH.size : start + LENGTH.size + length]
        if len(head) < LENGTH.size or len(body) < length:
            raise UserError(f"{file}: record {number} is cut; run the tokenise stage again")
        yield body
        start += len(head) + length
        number += 1


def _examples(body: bytes, where: str) -> list[Example]:
    """One utterance a sentence. Where a record has several, they are numbered after its source."""
    record = TextData()
    try:
        record.ParseFromString(body)
    except DecodeError:
        raise UserError(f"{where} is not a text_data record; run the tokenise stage again") from None
    if not record.sentences:
        raise UserError(f"{where} holds no sentence; run the tokenise stage again")
    alone = len(record.sentences) == 1
    ids = [record.source if alone else f"{record.source}/{number}" for number in range(len(record.sentences))]
    return [_example(sentence, id, record.name, where) for id, sentence in zip(ids, record.sentences, strict=True)]


def _example(sentence: Any, id: str, speaker: str, where: str) -> Example:
    if len(sentence.texts) != 1:
        raise UserError(f"{where} ({id}): {len(sentence.texts)} texts, not one; run the tokenise stage again")
    rows = [row.values for row in sentence.semantics]
    if not rows or len({len(row) for row in rows}) > 1:
        raise UserError(
            f"{where} ({id}): {len(rows)} codebooks of {[len(row) for row in rows]} frames, not one length; "
            "run the tokenise stage again"
        )
    codes = np.array(rows, np.uint32).T
    if codes.size and codes.max() > np.iinfo(np.int32).max:
        raise UserError(f"{where} ({id}): code {codes.max()} is out of range; run the tokenise stage again")
    return Example(id, sentence.texts[0], speaker, np.ascontiguousarray(codes, dtype=np.int32))
