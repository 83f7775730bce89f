"""Stage `takes`: a voice of released weights says a corpus, and its codes arrive in the training set without an encoder."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from models.parts.errors import UserError
from models.voxtral import Voxtral
from models.voxtral.released import rehearsal
from stages import resample, takes, tokenise
from stages.common.codes import CODES, brought_codes, write_codes
from stages.common.files import read_json, read_jsonl
from stages.common.params import load_params
from stages.common.shards import Shards
from stages.corpus import __main__ as corpus
from stages.weights import bring
from tests.conftest import ROOT

VOICE = "casual_female"
MODEL = ["--model", "voxtral"]
FOLDER, CORPUS = Path("data/takes") / VOICE, Path("data/corpus")
TEXTS = [f"The {noun} is number {number} of our walk today" for number, noun in enumerate(["river", "garden", "station", "letter"] * 8)]
RESPELT = "Meet me at Toa Payoh | Meet me at Toe-ah Pie-oh"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small release brought in, and a list of texts."""
    rehearsal.write(tmp_path / "release", "small")
    shutil.copy(ROOT / "weights.lock", tmp_path)
    monkeypatch.chdir(tmp_path)
    settings({})
    bring.main([*MODEL, "--from", "release"])
    Path("texts.txt").write_text("# a walk\n\n" + "\n".join([*TEXTS, RESPELT]) + "\n")
    return tmp_path


def settings(changes: dict[str, object]) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params |= {"profile": "full", "models": ["voxtral"], "takes": {"voices": [VOICE], "texts": "texts.txt"}} | changes
    params["corpus"] |= {"source": str(FOLDER), "speaker": VOICE, "validation": 0.15, "test": 0.15}
    params["voxtral"]["full"] |= {"dtype": "float32"}
    params["voxtral"]["full"]["sampling"]["max_ratio"] = 0.1
    Path("params.yaml").write_text(yaml.safe_dump(params))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_a_voice_says_goes_through_every_stage_to_the_training_set(place: Path) -> None:
    takes.main([*MODEL, "--voice", VOICE])
    rows, codes = read_jsonl(FOLDER / "takes.jsonl"), load_file(FOLDER / CODES)
    assert [row["text"] for row in rows] == [*TEXTS, "Meet me at Toa Payoh"] and {row["speaker"] for row in rows} == {VOICE}
    good = [row["id"] for row in rows if "exclude" not in row]
    assert set(codes) == set(good) and {row["exclude"] for row in rows if row["id"] not in good} <= {
        "it never stopped by itself", "nothing was said: the network stopped at once"
    }  # fmt: skip
    assert zipfile.ZipFile(FOLDER / "audio.zip").namelist() == [f"{id}.flac" for id in good]

    corpus.main([])
    resample.main(MODEL)
    tokenise.main(MODEL)
    left_out = {one["source"] for one in read_json(Path("reports/corpus/audit.json"))["left_out"]}
    assert {f"audio.zip/{row['id']}.flac" for row in rows if row["id"] not in good} <= left_out
    trained = {one.id: one for split in ("train", "validation", "test") for one in Voxtral().read(Path(f"data/voxtral/tokens/{split}"))}
    assert len(trained) > 12
    shards = Shards(CORPUS)
    for id, one in trained.items():
        np.testing.assert_array_equal(one.codes, codes[id])
        assert one.speaker == VOICE and len(shards[id].audio) == 1920 * len(codes[id])  # silence at the ends has codes too
    assert read_json(Path("reports/metrics/tokenise-voxtral.json"))["own_voice"] == VOICE


def test_the_same_inputs_give_the_same_bytes_and_a_killed_run_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    takes.main([*MODEL, "--voice", VOICE])
    whole, honest, batches = everything(FOLDER), Voxtral.generate, []

    def dies_at_second(*arguments: object) -> object:
        batches.append(1)
        if len(batches) == 2:
            raise UserError("killed")
        return honest(*arguments)  # type: ignore[arg-type]

    shutil.rmtree(FOLDER)
    monkeypatch.setattr(Voxtral, "generate", dies_at_second)
    with pytest.raises(UserError, match="killed"):
        takes.main([*MODEL, "--voice", VOICE])
    assert not FOLDER.exists()
    takes.main([*MODEL, "--voice", VOICE])
    assert everything(FOLDER) == whole and len(batches) == 4  # of three batches, the first was kept


def test_another_text_in_the_list_changes_no_other_take(place: Path) -> None:
    takes.main([*MODEL, "--voice", VOICE])
    before = {row["text"]: row for row in read_jsonl(FOLDER / "takes.jsonl")}
    codes = load_file(FOLDER / CODES)
    Path("texts.txt").write_text("\n".join(["A new sentence before all the others", *TEXTS]))
    takes.main([*MODEL, "--voice", VOICE])
    again = load_file(FOLDER / CODES)
    for row in read_jsonl(FOLDER / "takes.jsonl")[1:]:
        if "exclude" not in row:
            np.testing.assert_array_equal(again[row["id"]], codes[before[row["text"]]["id"]])


def test_a_respelling_is_said_and_the_spelling_is_kept(place: Path) -> None:
    """So is a pronunciation taught: the sound of one text under the letters of another."""
    Path("texts.txt").write_text(f"{RESPELT}\nMeet me at Toe-ah Pie-oh\n")
    line, plain = takes.read_lines(Path("texts.txt"))
    assert (line.written, line.said) == ("Meet me at Toa Payoh", plain.said)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "texts.txt: no text in it"), ("# nothing\n", "texts.txt: no text in it"), ("Hello.\nToa Payoh |\n", "texts.txt: line 2: must be a sentence"),
     ("a | b | c", "texts.txt: line 1: must be a sentence")],
)  # fmt: skip
def test_a_list_that_is_none_is_one_line(place: Path, text: str, message: str) -> None:
    Path("texts.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        takes.main([*MODEL, "--voice", VOICE])
    assert not FOLDER.exists()


def test_a_manifest_gives_its_texts_but_those_that_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "One."}\n{"text": "Two.", "exclude": "noise"}\n{"text": "Three."}\n')
    assert [line.said for line in takes.read_lines(path)] == ["One.", "Three."]
    path.write_text('{"text": "One."}\n{"txt": "Two."}\n')
    with pytest.raises(UserError, match='rows.jsonl: row 2: has no "text"'):
        takes.read_lines(path)
    with pytest.raises(UserError, match="takes.texts: .*none.txt: no such file"):
        takes.read_lines(tmp_path / "none.txt")


def test_a_voice_that_there_is_not_is_named(place: Path) -> None:
    with pytest.raises(UserError, match="no voice 'ann'; there are casual_female, neutral_male"):
        takes.main([*MODEL, "--voice", "ann"])
    settings({"takes": {"voices": ["../ann"], "texts": "texts.txt"}})
    with pytest.raises(UserError, match="takes.voices.0: '../ann' must be a name of letters, digits"):
        load_params()


def test_the_tiny_base_has_no_voice_to_say_a_corpus(place: Path) -> None:
    settings({"profile": "tiny"})
    Path("models/voxtral").mkdir(parents=True)
    Path("models/voxtral/tiny").symlink_to(ROOT / "models/voxtral/tiny")
    with pytest.raises(UserError, match="models/voxtral/tiny: not released weights, .* set profile: full"):
        takes.main([*MODEL, "--voice", VOICE])


def test_recordings_stay_refused_in_plain_words(place: Path) -> None:
    """The encoder was never released: the family's first stage says so, before anything is resampled."""
    with pytest.raises(UserError, match="data/weights/voxtral: the codec's encoder was never released, so recordings can't be turned into Voxtral's codes; let one of its own voices"):
        resample.main(MODEL)
    assert not Path("data/voxtral").exists()


def test_codes_of_another_codec_are_none_and_of_another_release_an_error(place: Path) -> None:
    contract = Voxtral().codec(Path("data/weights/voxtral")).contract
    write_codes(place, contract, {"a": np.ones((2, 37), np.int32)})
    found = brought_codes(place, contract)
    assert found is not None and found["a"].shape == (2, 37)
    other = {"tokeniser": "another", "tokeniser_sha256": "other"}
    assert brought_codes(place, type(contract)(**vars(contract) | {"tokeniser": other["tokeniser"]})) is None
    with pytest.raises(UserError, match="codes.safetensors: said in the codes of another Voxtral-4B-TTS-codec than these weights have"):
        brought_codes(place, type(contract)(**vars(contract) | {"tokeniser_sha256": other["tokeniser_sha256"]}))
    assert brought_codes(place / "none", contract) is None
