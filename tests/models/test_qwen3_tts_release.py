"""A folder of released weights: its files' names and shapes are our modules', and what is wrong with one is said in a line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.parts.errors import UserError
from models.parts.family import Example, Family, Sampling, Voice
from models.parts.weights import check_header, write_tensors
from models.qwen3_tts import Qwen3TTS
from models.qwen3_tts.network import Qwen3TTSNetwork
from models.qwen3_tts.released import rehearsal
from models.qwen3_tts.released.check import check_tokens
from models.qwen3_tts.released.codec import SpeechTokenizer
from models.qwen3_tts.tokenizer import load
from models.released import formula
from tests.golden_fixtures import GOLDEN
from tests.spoil import tensors

KEYS = GOLDEN / "qwen3_tts" / "keys"
RELEASES = [f"Qwen3-TTS-12Hz-{name}" for name in ("1.7B-Base", "0.6B-Base", "1.7B-CustomVoice", "0.6B-CustomVoice", "1.7B-VoiceDesign")]
FAMILY = Qwen3TTS()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    rehearsal.write(folder, "small")
    return folder


@pytest.fixture
def release(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    for path in whole.rglob("*"):
        target = tmp_path / path.relative_to(whole)
        target.mkdir(exist_ok=True) if path.is_dir() else target.write_bytes(path.read_bytes())
    return tmp_path


# --- the released files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", [*RELEASES, "speech_tokenizer"])
def test_released_names_and_shapes_are_ours(release: str) -> None:
    config = json.loads((KEYS / f"{release}+config.json").read_text())
    keys = json.loads((KEYS / f"{release}+model.safetensors.json").read_text())
    with torch.device("meta"):
        module = SpeechTokenizer(config, KEYS) if release == "speech_tokenizer" else Qwen3TTSNetwork(config)
        module.load_state_dict({name: torch.empty(shape) for name, (shape, _) in keys.items()}, strict=True)


def test_a_whole_release_passes(whole: Path) -> None:
    FAMILY.check_release(whole)


def test_a_family_without_released_weights_says_so(whole: Path) -> None:
    with pytest.raises(UserError, match="qwen3_tts: released weights can't be brought in yet"):
        Family.check_release(FAMILY, whole)


# --- what may be wrong with a folder ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer_config.json",
     "speech_tokenizer/config.json", "speech_tokenizer/preprocessor_config.json", "speech_tokenizer/model.safetensors"],
)  # fmt: skip
def test_a_missing_file_is_named(release: Path, name: str) -> None:
    (release / name).unlink()
    with pytest.raises(UserError, match=f"{name}: not there"):
        FAMILY.check_release(release)


def edited(name: str, *changes: tuple[str, object]) -> Callable[[Path], object]:
    """Set fields of a JSON file, `a.b` for one inside another; None takes it out."""

    def change(folder: Path) -> None:
        config = json.loads((folder / name).read_text())
        for field, value in changes:
            *path, last = field.split(".")
            section = config
            for step in path:
                section = section[step]
            section.pop(last)
            if value is not None:
                section[last] = value
        (folder / name).write_text(json.dumps(config))

    return change


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


MAIN, CODEC = "model.safetensors", "speech_tokenizer/model.safetensors"
NORM = "talker.model.norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edited("config.json", ("model_type", "qwen3")), "config.json: model_type is qwen3, not qwen3_tts"),
        (edited("config.json", ("tts_model_type", "custom_voice")), "config.json: tts_model_type is custom_voice.*Base"),
        (edited("config.json", ("tokenizer_type", "qwen3_tts_tokenizer_25hz")), "config.json: tokenizer_type is .*25hz"),
        (edited("config.json", ("talker_config.text_hidden_size", None)), "config.json: .*text_hidden_size"),
        (edited("config.json", ("speaker_encoder_config.enc_dim", None)), "config.json: .*enc_dim"),
        (edited("config.json", ("tts_pad_token_id", 3)), "tokenizer_config.json: <tts_pad> is token 297.*tts_pad_token_id is 3"),
        (edited("generation_config.json", ("subtalker_top_k", None)), "generation_config.json: no subtalker_top_k"),
        (edited("tokenizer_config.json", ("added_tokens_decoder", {})), "tokenizer_config.json: .*im_start.*is token None"),
        (text("tokenizer_config.json", "{"), "tokenizer_config.json: no tokenizer"),
        (text("merges.txt", "zz zz\n"), "merges.txt, .*: no tokenizer .*out of vocabulary"),
        (text("config.json", "[]"), "config.json: not a JSON object"),
        (edited("speech_tokenizer/config.json", ("decoder_config.latent_dim", None)), "speech_tokenizer/config.json: .*latent_dim"),
        (edited("speech_tokenizer/config.json", ("decoder_config.latent_dim", 64)), f"{CODEC}: decoder.* is .*config.json makes it"),
        (tensors(MAIN, lambda state: state.pop(NORM)), rf"{MAIN}: 1 tensors are missing \['{NORM}'\]"),
        (tensors(MAIN, lambda state: state.update(more=torch.ones(1))), rf"{MAIN}: .*1 unexpected \['more'\]"),
        (tensors(MAIN, lambda state: state.update({NORM: torch.ones(3)})), rf"{MAIN}: {NORM} is \(3,\), config.json makes it \(64,\)"),
        (tensors(MAIN, lambda state: state.update({NORM: torch.ones(64).long()})), f"{MAIN}: {NORM} is I64"),
        (tensors(CODEC, lambda state: state.update({k: v.bfloat16() for k, v in state.items()})), f"{CODEC}: .* is BF16, not F32"),
        (lambda folder: (folder / MAIN).write_bytes((folder / MAIN).read_bytes()[:-1]), f"{MAIN}: .* bytes, but its header speaks of"),
        (lambda folder: (folder / MAIN).write_bytes(b"<html>not found</html>"), f"{MAIN}: not a safetensors file"),
        (lambda folder: (folder / CODEC).write_bytes((folder / MAIN).read_bytes()), f"{CODEC}: .*another model's file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(release: Path, change: Callable[[Path], object], message: str) -> None:
    change(release)
    with pytest.raises(UserError, match=f"^{re.escape(str(release))}.*{message}") as raised:
        FAMILY.check_release(release)
    assert "\n" not in str(raised.value)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "a.safetensors"
    save_file({"x": torch.ones(3, 4), "y": torch.ones(2)}, path)
    check_header(path, {"x": (3, 4), "y": (2,)}, ("F32",))
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(UserError, match="a.safetensors: .*download it again"):
        check_header(path, {"x": (3, 4), "y": (2,)}, ("F32",))


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "shape", "dtype", "data_offsets"]), inner, max_size=3),
    max_leaves=8,
).map(lambda header: len(json.dumps(header)).to_bytes(8, "little") + json.dumps(header).encode())))  # fmt: skip
def test_a_file_of_anything_is_refused_in_words(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.safetensors: "):
        check_header(path, {"x": (3,)}, ("F32",))


# --- weights by formula and the rehearsal -------------------------------------------------------------------------


def test_rules_change_whole_keys_and_single_rows_and_kept_keys_stay() -> None:
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2), "ab": torch.nn.Linear(3, 2)})
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    rules = ({"keys": "a.weight", "mul": 2.0, "add": 1.0}, {"keys": ".*bias", "row": 1, "mul": 0.0, "add": 5.0}, {"keys": "a", "mul": 0.0, "add": 9.0})
    formula.fill(module, rules, kept=("ab.bias",))
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    np.testing.assert_array_equal(state["a.weight"], formula.tensor("a.weight", (2, 3)) * 2 + 1)
    np.testing.assert_array_equal(state["ab.weight"], formula.tensor("ab.weight", (2, 3)))
    assert state["a.bias"][1] == 5 and state["a.bias"][0] == formula.tensor("a.bias", (2,))[0]
    np.testing.assert_array_equal(state["ab.bias"], before["ab.bias"])


def test_written_tensors_are_read_by_the_library(tmp_path: Path) -> None:
    wanted = {"b": (2, 3), "a": (5,), "empty": (0,)}
    made = {name: torch.randn(shape) for name, shape in wanted.items()}
    write_tensors(tmp_path / "a.safetensors", wanted, torch.bfloat16, made.__getitem__)
    torch.testing.assert_close(load_file(tmp_path / "a.safetensors"), {k: v.bfloat16() for k, v in made.items()}, rtol=0, atol=0)
    check_header(tmp_path / "a.safetensors", wanted, ("BF16",))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_small_rehearsal_speaks_and_ends(whole: Path) -> None:
    """The network of the folder, the voice that its codec measures, its takes: every part fits the others."""
    codec, network = FAMILY.codec(whole), FAMILY.network(whole)
    FAMILY.check_shapes(network, codec.contract)
    clip = (0.1 * np.random.default_rng(0).standard_normal(24000)).astype(np.float32)
    example = Example("utt", "Hello there.", "x", codec.encode([clip])[0], codec.speaker_embedding(clip))
    assert FAMILY.loss(network, FAMILY.batch(network, [example])).labels == 16 * 13 + 1
    voice = Voice("x", example.speaker_embedding)
    takes = FAMILY.generate(network, ["Hello.", "Who is it?"], voice, Sampling(0.9, 50, 1.0), [1, 2], [120] * 2)
    assert {take.finish for take in takes} == {"stop"}
    for wave, take in zip(codec.render(takes, voice), takes, strict=True):
        assert len(wave) == 1920 * len(take.codes) and 0.01 < np.abs(wave).mean() < 0.9


@pytest.mark.parametrize("size", [None, rehearsal.FIRST_SPECIAL])
def test_a_rehearsals_tokens_have_the_ids_that_its_configuration_says(tmp_path: Path, size: int | None) -> None:
    """With as many tokens before them as the release has, the special ones have the release's ids."""
    config = json.loads((KEYS / "Qwen3-TTS-12Hz-0.6B-Base+config.json").read_text())
    released = dict(config)
    rehearsal.write_tokenizer(tmp_path, config, size)
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_tokens(config, tmp_path)
    role = load(tmp_path).encode("<|im_start|>assistant\n", add_special_tokens=False).ids
    assert role == [config["im_start_token_id"], config["assistant_token_id"], 198]
    assert (config == released) == bool(size)
    assert load(tmp_path).decode(load(tmp_path).encode("Größe!", add_special_tokens=False).ids) == "Größe!"


def test_a_rehearsal_has_the_releases_names_formats_and_fields(whole: Path) -> None:
    """Of 0.6B-Base, but that its transformers have two layers each."""
    for release, folder in (("Qwen3-TTS-12Hz-0.6B-Base", whole), ("speech_tokenizer", whole / "speech_tokenizer")):
        keys = json.loads((KEYS / f"{release}+model.safetensors.json").read_text())
        left_out = re.compile(r".*layers\.([2-9]|\d\d)\.(self_attn|mlp|input_layernorm|post_attention_layernorm).*")
        wanted = {name: dtype for name, (_, dtype) in keys.items() if not left_out.fullmatch(name)}
        state = load_file(folder / "model.safetensors")
        assert {name: str(tensor.dtype) for name, tensor in state.items()} == {n: f"torch.{d}" for n, d in wanted.items()}
        config = json.loads((KEYS / f"{release}+config.json").read_text())
        assert json.loads((folder / "config.json").read_text()).keys() == config.keys()
