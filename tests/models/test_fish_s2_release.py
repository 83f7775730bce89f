"""S2 Pro's folder: what is wrong with one is said in a line, an export is a release again, and planning reads no weight."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from models.fish_s2 import FishS2, decisions
from models.fish_s2.config import RELEASED, FishConfig
from models.fish_s2.network import FishNetwork
from models.fish_s2.released import rehearsal
from models.fish_s2.released.check import shapes_of
from models.fish_s2.released.export import write
from models.fish_s2.released.files import FILES, PICKLE
from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Example, Sampling, Voice
from models.parts.sampling import logprob
from stages.common.params import load_params
from stages.common.shards import Clip
from stages.common.tokens import read_voice, write_voice
from stages.common.weights import FOLDER
from stages.tokenise import with_reference
from stages.train import selfcheck
from stages.train.plan import Device, longest_clips, plan
from stages.weights import bring as weights
from stages.weights.convert import convert
from tests.conftest import ROOT
from tests.family_checks import trained_a_little
from tests.golden_fixtures import GOLDEN
from tests.spoil import field, tensors

FAMILY = FishS2()
NOBODY = Voice("nobody", np.zeros(0, np.float32))
GREEDY = Sampling(temperature=1.0, top_k=1, top_p=0.9)
LORA = AdaptSettings("lora", 4, 8.0, 0.0, ("attention", "mlp", "fast_embeddings"))
TEXTS = ["Hello there, how are you today?", "No."]
SHARD = "model-00001-of-00002.safetensors"
NORM = "text_model.model.norm.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small release as `make weights` leaves it."""
    folder = tmp_path_factory.mktemp("release")
    rehearsal.write(folder, "small")
    bring(folder)
    return folder


def bring(folder: Path) -> None:
    convert(folder / PICKLE, PICKLE, folder / "codec.safetensors")
    (folder / PICKLE).unlink()


@pytest.fixture
def release(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return shutil.copytree(whole, tmp_path / "release")


# --- what may be wrong with a folder ------------------------------------------------------------------------------


def test_a_whole_release_passes(whole: Path) -> None:
    FAMILY.check_release(whole)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(release: Path, name: str) -> None:
    (release / name).unlink()
    with pytest.raises(UserError, match=f"{name}: not there"):
        FAMILY.check_release(release)


INDEX, CODEC = "model.safetensors.index.json", "codec.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (field("config.json", "model_type", "dual_ar"), "config.json: model_type is dual_ar, not fish_qwen3_omni"),
        (field("config.json", "audio_decoder_config/num_codebooks", None), "config.json: .*num_codebooks"),
        (field("config.json", "semantic_start_token_id", 7), r"<\|semantic:0\|> is 291, config.json says 7"),
        (field("tokenizer_config.json", "tokenizer_class", None), "tokenizer_config.json: no tokenizer_class"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json: no tokenizer"),
        (field(INDEX, f"weight_map/{NORM}", None), rf"{INDEX}: 1 tensors are missing \['norm.weight'\]"),
        (field(INDEX, "weight_map/text_model.model.more", SHARD), rf"{INDEX}: .*1 unexpected \['more'\]"),
        (field(INDEX, "weight_map/norm.weight", SHARD), f"{INDEX}: 0 tensors are missing"),
        (field(INDEX, f"weight_map/{NORM}", "model.safetensors"), f"{INDEX}: does not share the tensors out among"),
        (tensors("model-00002-of-00002.safetensors", lambda state: state.pop(NORM)), rf"1 tensors are missing \['{NORM}'\]"),
        (tensors("model-00002-of-00002.safetensors", lambda state: state.update({NORM: torch.ones(3)})), rf"{NORM} is \(3,\), config.json makes it \(64,\)"),
        (tensors(SHARD, lambda state: state.update({k: v.long() for k, v in state.items()})), f"{SHARD}: .* is I64"),
        (tensors(CODEC, lambda state: state.update({"encoder.block.5.alpha": torch.ones(1, 128, 1).bfloat16()})), f"{CODEC}: encoder.block.5.alpha is torch.bfloat16"),
        (tensors(CODEC, lambda state: state.pop("encoder.block.5.alpha")), rf"{CODEC}: 1 tensors are missing"),
        (lambda folder: (folder / CODEC).write_bytes((folder / SHARD).read_bytes()), f"{CODEC}: not S2's codec"),
        (lambda folder: (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-1]), f"{SHARD}: .* bytes, but its header speaks of"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(release: Path, change: Callable[[Path], object], message: str) -> None:
    change(release)
    with pytest.raises(UserError, match=f"^{re.escape(str(release))}.*{message}") as raised:
        FAMILY.check_release(release)
    assert "\n" not in str(raised.value)


# --- the rehearsal ------------------------------------------------------------------------------------------------


def test_a_rehearsal_has_the_releases_names_formats_and_fields(whole: Path) -> None:
    for files, keys in (([CODEC], "codec.pth"), (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "model.safetensors")):
        wanted = {name: dtype for name, (_, dtype) in json.loads((GOLDEN / f"fish_s2/keys/{keys}.json").read_text()).items()}
        found = {name: str(tensor.dtype)[6:] for file in files for name, tensor in load_file(whole / file).items()}
        left_out = {name for name in wanted if re.search(r"\.layers\.([2-9]|\d\d)\.|block\.5\.layers\.1\.", name)}
        assert found == {name: dtype for name, dtype in wanted.items() if name not in left_out}


def test_with_as_many_tokens_before_them_the_special_ones_have_the_releases_ids(tmp_path: Path) -> None:
    config = rehearsal.write_tokenizer(tmp_path, RELEASED, rehearsal.FIRST_SPECIAL)
    assert config == RELEASED
    described = rehearsal.nested(config)
    assert [described[f"{name}_token_id"] for name in ("pad", "eos", "audio_pad")] == [151669, 151645, 151677]
    (tmp_path / "config.json").write_text(json.dumps(described))
    with torch.device("meta"):
        assert shapes_of(FishNetwork(FishConfig.load(tmp_path))) == shapes_of(FishNetwork(RELEASED))


def test_a_small_rehearsals_parts_fit_each_other(whole: Path) -> None:
    codec, network = FAMILY.codec(whole), FAMILY.network(whole)
    FAMILY.check_shapes(network, codec.contract)
    clip = (0.1 * np.random.default_rng(0).standard_normal(44100)).astype(np.float32)
    example = Example("utt", "Hello there.", "x", codec.encode([clip])[0])
    assert FAMILY.loss(network, FAMILY.batch(network, [example])).labels == 10 * 22 + 1
    takes = FAMILY.generate(network, TEXTS, NOBODY, Sampling(), [1, 2], [12] * 2)
    for wave, take in zip(codec.render(takes, NOBODY), takes, strict=True):
        assert len(wave) == 2048 * len(take.codes) and 0.01 < np.abs(wave).mean() < 0.9


# --- the reference ------------------------------------------------------------------------------------------------


def spoken(frames: int, name: str = "utt", text: str = "Hello there.", speaker: str = "ann") -> Example:
    codes = np.random.default_rng(frames).integers(0, 1024, (frames, 10), np.int32)
    return Example(name, text, speaker, codes)


def test_a_release_is_trained_with_the_prompt_that_it_speaks_with(whole: Path) -> None:
    """Another utterance of the speaker, its text and its codes, as upstream's inference puts them before a text."""
    network, heard, said = FAMILY.network(whole), spoken(7, "a", "One."), spoken(5, "b", "Two.")
    row = replace(said, prompt=heard.codes, prompt_text=heard.text)
    batch = FAMILY.batch(network, [row])
    layout = network.prompt(said.text, [heard])
    assert batch["tokens"][0, : len(layout)].tolist() == layout.tokens
    np.testing.assert_array_equal(batch["codes"][0, : len(layout)], layout.codes)
    voice = Voice("ann", np.zeros(0, np.float32), (heard,))
    selfcheck.alignment(FAMILY, network, said.text, voice, 3)
    (take,) = FAMILY.generate(network, [said.text], voice, Sampling(), [3], [6])
    for example, same in ((row, True), (said, False)):
        slow, choices, _, _ = decisions(network, FAMILY.batch(network, [replace(example, codes=take.codes)]))
        scored = logprob(slow, choices)[: len(take.codes)].detach().numpy()
        assert np.allclose(scored, take.logprobs[::10][: len(take.codes)], atol=1e-4) == same


def test_every_utterance_has_a_short_other_one_of_its_speaker_as_its_reference(tmp_path: Path) -> None:
    rows = [spoken(4 + n, f"ann-{n}", f"Text {n}.") for n in range(5)] + [spoken(400, "long"), spoken(6, "bob-1", speaker="bob")]
    FAMILY.write(rows, tmp_path)
    back = {row.id: row for row in FAMILY.read(tmp_path)}
    by_text = {row.text: row for row in rows[:5]}
    assert len({row.prompt_text for row in back.values() if row.speaker == "ann"}) > 2  # no clip is everybody's
    for row in back.values():
        if row.speaker == "ann":
            assert row.prompt_text in by_text and by_text[row.prompt_text].id != row.id
            np.testing.assert_array_equal(row.prompt, by_text[row.prompt_text].codes)
    assert back["bob-1"].prompt_text == "" and not len(back["bob-1"].prompt)


def test_the_voice_is_a_clip_of_at_most_ten_seconds(whole: Path, tmp_path: Path) -> None:
    """Its codes are the prompt; its text and its sound are kept, as upstream's inference wants them."""
    codec, random = FAMILY.codec(whole), np.random.default_rng(0)
    waves = {name: (0.1 * random.standard_normal(frames * 2048)).astype(np.float32) for name, frames in (("short", 6), ("good", 12), ("long", 220))}
    rows = [Example(name, f"{name} text", "ann", codec.encode([wave])[0]) for name, wave in waves.items() if name != "long"]
    rows.append(spoken(220, "long"))

    class Clips(dict):  # type: ignore[type-arg]
        def __getitem__(self, id: str) -> Clip:
            return Clip(id, 44100, waves[id])

    write_voice(tmp_path, with_reference(Voice("ann", np.zeros(0, np.float32)), codec, rows, Clips()))  # type: ignore[arg-type]
    voice = read_voice(tmp_path)
    (prompt,) = voice.prompts
    assert (prompt.id, prompt.text) == ("good", "good text")
    np.testing.assert_array_equal(prompt.codes, rows[1].codes)
    np.testing.assert_array_equal(voice.reference, waves["good"])


# --- export -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def merged(whole: Path) -> FishNetwork:
    codes = np.random.default_rng(1).integers(0, 1024, (2, 6, 10), np.int32)
    rows = [Example(f"u{n}", text, "ann", codes[n]) for n, text in enumerate(TEXTS)]
    state = FAMILY.adapter_state(trained_a_little(FAMILY, FAMILY.network(whole), LORA, rows, 0.05), LORA)
    network = FAMILY.merged(whole, state, LORA, 0.5)
    assert isinstance(network, FishNetwork)
    return network


@pytest.fixture(scope="module")
def exported(whole: Path, merged: FishNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    FAMILY.export(merged, NOBODY, whole, folder)
    return folder


def test_an_export_is_the_release_with_its_shards_rewritten(whole: Path, exported: Path, merged: FishNetwork) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    before, after = files(whole), files(exported)
    assert after.keys() == before.keys() | {PICKLE, "Notice"}
    assert {name for name in before if before[name] != after[name]} == {SHARD, "model-00002-of-00002.safetensors"}
    for shard in (SHARD, "model-00002-of-00002.safetensors"):
        with safe_open(whole / shard, "pt") as old, safe_open(exported / shard, "pt") as new:
            assert set(new.keys()) == set(old.keys()) and new.metadata() == {"format": "pt"}
            assert {new.get_tensor(name).dtype for name in new.keys()} == {torch.bfloat16}  # noqa: SIM118
    with safe_open(exported / "model-00001-of-00002.safetensors", "pt") as file:
        table = file.get_tensor("audio_decoder.embeddings.weight")
    torch.testing.assert_close(table, merged.fast_embeddings.weight.detach().bfloat16(), rtol=0, atol=0)


def test_an_exports_notice_says_what_the_licence_wants(exported: Path) -> None:
    said = (exported / "Notice").read_text()
    assert "This model is licensed under the Fish Audio Research License, Copyright © 39 AI, INC. All Rights Reserved." in said
    assert "was modified" in said and "Built with Fish Audio" in said


def test_an_exports_pickle_holds_what_the_releases_did(whole: Path, exported: Path, tmp_path: Path) -> None:
    """541 tensors, nothing but tensors, and `make weights` makes the same bytes of it again."""
    convert(exported / PICKLE, PICKLE, tmp_path / "codec.safetensors")
    assert (tmp_path / "codec.safetensors").read_bytes() == (whole / "codec.safetensors").read_bytes()
    assert (exported / PICKLE).stat().st_size < 1.1 * (whole / "codec.safetensors").stat().st_size


def test_an_export_brought_in_as_a_base_speaks_the_same_codes(exported: Path, whole: Path, merged: FishNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command, `make weights FROM=`."""
    for name in ("params.yaml", "weights.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    weights.main(["--model", "fish_s2", "--from", str(exported)])
    again = FOLDER / "fish_s2"
    assert FAMILY.codec(again).contract == FAMILY.codec(whole).contract
    rounded = FishNetwork(merged.config, merged.prompt.tokenizer).eval()
    rounded.load_state_dict({name: tensor.bfloat16().float() for name, tensor in merged.state_dict().items()})
    wanted = FAMILY.generate(rounded, TEXTS, NOBODY, GREEDY, [1, 1], [12, 12])
    for take, other in zip(FAMILY.generate(FAMILY.network(again), TEXTS, NOBODY, GREEDY, [1, 1], [12, 12]), wanted, strict=True):
        np.testing.assert_array_equal(take.codes, other.codes)
        np.testing.assert_allclose(take.logprobs, other.logprobs, atol=1e-5)


@pytest.mark.parametrize("name", FILES)
def test_a_base_without_a_file_of_the_release_is_no_export(release: Path, merged: FishNetwork, tmp_path: Path, name: str) -> None:
    (release / name).unlink()
    with pytest.raises(UserError, match=f"{name}: not there"):
        write(release, merged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- what would go wrong in silence -------------------------------------------------------------------------------


def test_trap_no_older_file_of_weights_hides_what_was_merged(exported: Path) -> None:
    """Upstream takes shards before model.safetensors, and that before model.pth."""
    assert sorted(path.name for path in exported.iterdir() if path.name.startswith("model")) == sorted([SHARD, "model-00002-of-00002.safetensors", INDEX])


def test_trap_a_wrong_name_in_a_shard_is_no_log_line(release: Path) -> None:
    """Upstream loads whatever fits, and says of the rest what nobody reads."""
    tensors("model-00002-of-00002.safetensors", lambda state: state.update({"text_model.model.nrom.weight": state.pop(NORM)}))(release)
    with pytest.raises(UserError, match="norm.weight"):
        FAMILY.network(release)


def test_trap_adapters_on_the_tied_embeddings_are_refused(whole: Path) -> None:
    """Merged, they would change the head as well, which training does not."""
    with pytest.raises(UserError, match="embeddings can't be adapted"):
        FAMILY.adapt(FAMILY.network(whole), AdaptSettings("lora", 4, 8.0, 0.0, ("embeddings",)))


def test_trap_no_mask_of_a_gigabyte_stays_with_the_network(whole: Path) -> None:
    """Upstream's language model makes one of 32768 × 32768, and a cache for as many positions."""
    network = FAMILY.network(whole)
    assert network.config.max_seq_len == 32768 and sum(buffer.nbytes for buffer in network.buffers()) < 2**23


def test_a_bfloat16_base_has_float32_adapters_that_merge_into_it(whole: Path) -> None:
    network = FAMILY.adapt(FAMILY.network(whole, torch.bfloat16), LORA)
    kinds = {parameter.dtype for name, parameter in network.named_parameters() if "lora_" not in name}
    adapter = {name: parameter.dtype for name, parameter in network.named_parameters() if "lora_" in name}
    assert kinds == {torch.bfloat16} and {*adapter.values()} == {torch.float32}
    assert {"fast_embeddings.lora_A", "fast_embeddings.lora_B", "layers.0.attention.wqkv.lora_A"} <= adapter.keys()
    codes = np.random.default_rng(3).integers(0, 1024, (6, 10), np.int32)
    FAMILY.loss(network, FAMILY.batch(network, [Example("u", "Hello.", "ann", codes)])).total.backward()
    assert all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)


# --- planning -----------------------------------------------------------------------------------------------------


def test_the_released_size_is_planned_from_its_configuration_alone(tmp_path: Path) -> None:
    """As `make plan MODEL=fish_s2 GPU=24`: 4.56 billion parameters in bfloat16, adapters beside them, in 24 GB."""
    config = rehearsal.write_tokenizer(tmp_path, RELEASED, rehearsal.FIRST_SPECIAL)
    (tmp_path / "config.json").write_text(json.dumps(rehearsal.nested(config)))
    block = load_params(ROOT / "params.yaml").families["fish_s2"]["full"].model_copy(update={"weights": tmp_path})
    made = plan(FAMILY, block, True, lambda network: longest_clips(FAMILY, network, block.train.batch_frames, 30.0))
    assert made.parameters == pytest.approx(4561.9e6, rel=1e-3) and 0 < made.trainable < 50e6
    assert 9.1e9 < made.weights < 9.4e9 and made.total < Device("a GPU", 24 * 2**30, True).memory
