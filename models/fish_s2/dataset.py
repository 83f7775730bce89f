"""Fish's training format: shards of length-prefixed protobuf records (`text_data`).

A record is a 4-byte little-endian unsigned length and one serialised `TextData`. Here a record is one utterance:
`source` holds its id, `name` its speaker, and the one sentence has the text and one `Semantics` a codebook. The schema
is upstream's (fishaudio/fish-speech, fish_speech/datasets/protos/text-data.proto); it is built here, so that no
generated code, which would be tied to a protoc version, comes with it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from models.parts.errors import UserError
from models.parts.family import Example

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
            examples.append(_example(body, f"{file}: record {number}"))
            if examples[-1].codes.shape[1] != examples[0].codes.shape[1]:
                raise UserError(
                    f"{file}: record {number}: {examples[-1].codes.shape[1]} codebooks, but the first record has "
                    f"{examples[0].codes.shape[1]}; run the tokenise stage again"
                )
    return examples


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


def _example(body: bytes, where: str) -> Example:
    record = TextData()
    try:
        record.ParseFromString(body)
    except DecodeError:
        raise UserError(f"{where} is not a text_data record; run the tokenise stage again") from None
    if len(record.sentences) != 1 or len(record.sentences[0].texts) != 1:
        raise UserError(f"{where} does not hold exactly one sentence with one text; run the tokenise stage again")
    sentence = record.sentences[0]
    rows = [row.values for row in sentence.semantics]
    if not rows or len({len(row) for row in rows}) > 1:
        raise UserError(
            f"{where} ({record.source}): {len(rows)} codebooks of {[len(row) for row in rows]} frames, not one length; "
            "run the tokenise stage again"
        )
    codes = np.array(rows, np.uint32).T
    if codes.size and codes.max() > np.iinfo(np.int32).max:
        raise UserError(f"{where} ({record.source}): code {codes.max()} is out of range; run the tokenise stage again")
    return Example(record.source, sentence.texts[0], record.name, np.ascontiguousarray(codes, dtype=np.int32))
