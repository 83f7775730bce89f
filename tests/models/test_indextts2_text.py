"""How released IndexTTS2 reads a text: upstream's words for numbers, its marks, capitals, and its pieces."""

from __future__ import annotations

import io
import json

import pytest
from sentencepiece import SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

from models.indextts2.released import rehearsal
from models.indextts2.released.text import MOST_UNKNOWN, Pieces, capitals, normalise
from models.parts.errors import UserError
from tests.golden_fixtures import GOLDEN


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Pieces:
    """The pieces of `bpe.model` that the texts of the fixture have, by their ids, and its way with marks; the fewest pieces win."""
    named = {id: piece for row in rows() for id, piece in zip(row["ids"], row["tokens"], strict=False) if piece != "…"}
    made = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([rehearsal.SAID]), model_writer=made, vocab_size=100, hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc", bos_id=0, eos_id=1, unk_id=2, minloglevel=2,
    )  # fmt: skip
    model = ModelProto.FromString(made.getvalue())
    del model.pieces[3:]
    for id in range(3, 12000):
        model.pieces.add(piece=named.get(id, f"<{id}>"), score=-1.0 if id in named else -100.0)
    path = tmp_path_factory.mktemp("text") / "bpe.model"
    path.write_bytes(model.SerializeToString())
    return Pieces(path)


def rows() -> list[dict]:
    found: list[dict] = json.loads((GOLDEN / "indextts2/text.json").read_text())["rows"]
    return found


def test_texts_are_normalised_as_upstream_does() -> None:
    assert [normalise(row["text"]) for row in rows()] == [row["normalised"] for row in rows()]


def test_ids_are_upstreams(pieces: Pieces) -> None:
    for row in rows():
        if row["tokens"][-1] != "…":  # the fixture lists not all of a long one
            assert pieces.ids(row["text"]) == row["ids"], row["text"]


def test_trap_small_letters_become_capitals(pieces: Pieces) -> None:
    assert pieces.ids("hello world.") == pieces.ids("Hello World.") == [11122, 10394, 10216]
    assert pieces.model.encode("hello world.").count(2) > 1
    assert pieces.ids("a") == pieces.ids("A")  # upstream leaves a single letter small, and speaks an unknown piece


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("啊，你好。呃", "啊,你好.呃"), ("花儿开了", "花儿开了"),  # the packaged grammar drops both
        ("ju1 shi5 的", "JV1 SHI5 的"), ("克里斯托弗·诺兰1999年", "克里斯托弗-诺兰一九九九年"), ("GPT-5很好，$5", "GPT-五很好,五美元"),
        ("he's here, it's 5", "he is here, it is five"),
    ],
)  # fmt: skip
def test_what_the_fixture_has_not(text: str, normalised: str) -> None:
    assert normalise(text) == normalised


def test_chinese_characters_stand_alone() -> None:
    assert capitals("I love 你好, ok") == "I LOVE 你 好 , OK"


@pytest.mark.parametrize(("text", "message"), [(" \n", "nothing to say"), ("Привет, мир!", "of its .* pieces are not in .*English and Chinese")])
def test_a_text_that_can_not_be_read_is_refused(pieces: Pieces, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pieces.ids(text)
    assert MOST_UNKNOWN < 0.5 and len(pieces.ids("the naïve café costs £5")) == 17
