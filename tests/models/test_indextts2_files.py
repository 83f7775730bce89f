"""IndexTTS2: adapters, the released network, the set of pairs, and the stages; upstream's defects in files are absent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from models.indextts2 import IndexTTS2, dataset
from models.indextts2.dataset import Target, pairs
from models.indextts2.network import RELEASED, UnifiedVoice
from models.parts.errors import UserError
from models.parts.family import Contract, Example, Sampling
from stages import tokenise
from stages.common.checkpoints import load_adapter
from stages.common.files import write_json, write_jsonl
from stages.common.shards import Clip, write_shards
from stages.common.tokens import read_voice
from stages.common.weights import record
from stages.gate.reader import Reader, Script
from stages.train import __main__ as train
from stages.train import selfcheck
from tests import toy_indextts2 as toy
from tests.family_checks import assert_a_batch_without_labels_stops_the_run, loss, toy_fixtures, trained_a_little
from tests.toy_indextts2 import LORA, SFT, noise

ROOT = Path(__file__).parents[2]
FREE = Sampling(temperature=1.0, top_k=0, top_p=1.0)
CONTRACT = Contract("toy", "", 24000, 50.0, 1, (toy.CODES,))
VOICE = toy.voice()
family, folder = toy_fixtures(IndexTTS2, toy.folder)


@pytest.fixture(scope="module")
def rows(folder) -> list[Example]:
    return toy.targets(folder)


@pytest.fixture(scope="module")
def codec(family, folder):
    return family.codec(folder)


# --- adapters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings_", [LORA, SFT])
def test_a_fresh_adapter_leaves_the_base_as_it_is(family, folder, rows, settings_):
    network = family.network(folder)
    wrapped = selfcheck.same_after_wrapping(family, network, settings_, family.batch(network, rows))
    assert any(p.requires_grad for p in wrapped.parameters())


@pytest.mark.parametrize("settings_", [LORA, SFT, replace(LORA, targets=("c_attn",))])
def test_merged_weights_equal_base_and_adapter(family, folder, rows, settings_):
    adapted = trained_a_little(family, family.network(folder), settings_, rows, 0.05)
    state = family.adapter_state(adapted, settings_)
    base, tuned = loss(family, family.network(folder), rows), loss(family, adapted, rows)
    assert base - tuned > 1e-2
    assert loss(family, family.merged(folder, state, settings_, 1.0), rows) == pytest.approx(tuned, abs=1e-5)
    assert loss(family, family.merged(folder, state, settings_, 0.0), rows) == pytest.approx(base, abs=1e-6)
    half = family.merged(folder, state, settings_, 0.5).state_dict()
    plain, full = family.network(folder).state_dict(), family.merged(folder, state, settings_, 1.0).state_dict()
    for key in plain:
        torch.testing.assert_close(half[key], (plain[key] + full[key]) / 2)


def test_a_target_that_does_not_exist_is_named(family, folder):
    with pytest.raises(UserError, match="q_proj.*there are c_attn, c_fc, c_proj"):
        family.adapt(family.network(folder), replace(LORA, targets=("q_proj", "c_proj")))


# --- guards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"codes": np.zeros((0, 1), np.int32)}, "utterance utt-0: no frames"),
     ({"codes": np.full((3, 1), 24, np.int32)}, "outside its codebook"),
     ({"codes": np.full((3, 1), -1, np.int32)}, "outside its codebook"),
     ({"codes": np.zeros((61, 1), np.int32)}, "61 speech tokens, the network has room for 60"),
     ({"text_ids": np.zeros(2, np.int32)}, "not those of the base's tokenizer"),
     ({"text": "one " * 27}, "81 tokens, the network reads 80")],
)  # fmt: skip
def test_an_utterance_that_does_not_fit_the_network_is_refused(family, folder, rows, changes, message):
    with pytest.raises(UserError, match=message):
        family.batch(family.network(folder), [replace(rows[0], **changes)])


@pytest.mark.parametrize(("text", "message"), [("  ", "nothing to say"), ("a <|stop|> b", "control token")])
def test_a_text_that_would_end_its_part_is_refused(family, folder, text, message):
    with pytest.raises(UserError, match=message):
        family.generate(family.network(folder), [text], VOICE, Sampling(), [1], [5])


def test_a_voice_of_another_network_is_refused(family, folder):
    with pytest.raises(UserError, match="do not hold 4 latents"):
        family.generate(family.network(folder), ["a"], replace(VOICE, speaker_embedding=np.zeros(100, np.float32)), FREE, [1], [5])


def test_a_batch_without_labels_stops_the_run(family, folder, rows):
    network = family.network(folder)
    assert_a_batch_without_labels_stops_the_run(family, network, rows)


def test_head_and_codec_must_fit(family, folder):
    network = family.network(folder)
    family.check_shapes(network, CONTRACT)
    with pytest.raises(UserError, match=r"24 codes before its start token, the codec \(25,\)"):
        family.check_shapes(network, replace(CONTRACT, vocabulary=(25,)))
    network.config = network.config | {"number_mel_codes": 30}
    with pytest.raises(UserError, match="30 columns, but 24 codes, start and stop make 26"):
        family.check_shapes(network, CONTRACT)
    network.config = network.config | {"number_mel_codes": 26, "number_text_tokens": 9}
    with pytest.raises(UserError, match="9 text tokens, but the last"):
        family.check_shapes(network, CONTRACT)


# --- the released network -----------------------------------------------------------------------------------------


def released_shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the released `gpt.pth` that belongs to the network (index-tts `indextts/gpt/model_v2.py`)."""
    width = 1280

    def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}

    def norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (size,), f"{name}.bias": (size,)}

    shapes: dict[str, tuple[int, ...]] = {"speed_emb.weight": (2, width), "text_embedding.weight": (12001, width), "mel_embedding.weight": (8194, width)}
    shapes |= {"mel_pos_embedding.emb.weight": (1818, width), "text_pos_embedding.emb.weight": (602, width)}
    shapes |= linear("text_head", 12001, width) | linear("mel_head", 8194, width) | norm("final_norm", width)
    shapes |= linear("emo_layer", width, width) | linear("emovec_layer", width, 1024) | norm("gpt.ln_f", width)
    for layer in (f"gpt.h.{number}" for number in range(24)):
        shapes |= norm(f"{layer}.ln_1", width) | norm(f"{layer}.ln_2", width)
        for name, columns, rows_ in (("attn.c_attn", 3 * width, width), ("attn.c_proj", width, width), ("mlp.c_fc", 4 * width, width), ("mlp.c_proj", width, 4 * width)):
            shapes |= {f"{layer}.{name}.weight": (rows_, columns), f"{layer}.{name}.bias": (columns,)}
    for prefix, blocks, heads, hidden in (("", 6, 8, 2048), ("emo_", 4, 4, 1024)):
        encoder = f"{prefix}conditioning_encoder"
        shapes |= {f"{encoder}.embed.conv.0.weight": (512, 1, 3, 3), f"{encoder}.embed.conv.0.bias": (512,)}
        shapes |= linear(f"{encoder}.embed.out.0", 512, 512 * 511) | {f"{encoder}.embed.pos_enc.pe": (1, 5000, 512)}
        shapes |= norm(f"{encoder}.after_norm", 512)
        for block in (f"{encoder}.encoders.{number}" for number in range(blocks)):
            for name in ("linear_q", "linear_k", "linear_v", "linear_out"):
                shapes |= linear(f"{block}.self_attn.{name}", 512, 512)
            shapes |= {f"{block}.self_attn.linear_pos.weight": (512, 512)}
            shapes |= {f"{block}.self_attn.pos_bias_{letter}": (heads, 512 // heads) for letter in "uv"}
            shapes |= linear(f"{block}.feed_forward.w_1", hidden, 512) | linear(f"{block}.feed_forward.w_2", 512, hidden)
            for name, shape in (("pointwise_conv1", (1024, 512, 1)), ("depthwise_conv", (512, 1, 15)), ("pointwise_conv2", (512, 512, 1))):
                shapes |= {f"{block}.conv_module.{name}.weight": shape, f"{block}.conv_module.{name}.bias": shape[:1]}
            shapes |= norm(f"{block}.conv_module.norm", 512)
            for name in ("norm_ff", "norm_mha", "norm_conv", "norm_final"):
                shapes |= norm(f"{block}.{name}", 512)
    for prefix, size, heads, count, inner in (("", width, 8, 32, 1706), ("emo_", 1024, 4, 1, 1365)):
        perceiver = f"{prefix}perceiver_encoder"
        shapes |= {f"{perceiver}.latents": (count, size), f"{perceiver}.norm.gamma": (size,)}
        shapes |= linear(f"{perceiver}.proj_context", size, 512)
        for layer in (f"{perceiver}.layers.{number}" for number in range(2)):
            shapes |= {f"{layer}.0.to_q.weight": (64 * heads, size), f"{layer}.0.to_kv.weight": (128 * heads, size)}
            shapes |= {f"{layer}.0.to_out.weight": (size, 64 * heads)}
            shapes |= linear(f"{layer}.1.0", 2 * inner, size) | linear(f"{layer}.1.2", size, inner)
    return shapes


def test_released_keys_shapes_and_size(family):
    with torch.device("meta"):
        network = UnifiedVoice(RELEASED)
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == released_shapes()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(866.0e6, rel=0.01)
    family.adapt(network, SFT)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == pytest.approx(527.1e6, rel=0.01)
    assert sum(p.numel() for p in network.gpt.parameters()) == pytest.approx(472.3e6, rel=0.01)


def test_the_sequence_is_laid_out_as_upstreams(family, folder, rows):
    """Latents with the emotion added, constant 1 before constant 0, then text and speech, each from position 0."""
    network, row = family.network(folder), rows[1]
    batch = family.batch(network, [row])
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    text = np.array([0, *row.text_ids, 1])
    speech = np.array([toy.CODES, *row.codes[:, 0]])
    expected = np.concatenate([
        row.condition + row.emotion, weights["speed_emb.weight"][[1, 0]],
        weights["text_embedding.weight"][text] + weights["text_pos_embedding.emb.weight"][: len(text)],
        weights["mel_embedding.weight"][speech] + weights["mel_pos_embedding.emb.weight"][: len(speech)],
    ])  # fmt: skip
    embedded = network.embed(*(batch[name] for name in ("condition", "emotion", "text", "speech", "lengths")))
    np.testing.assert_allclose(embedded[0].detach().numpy(), expected, atol=1e-6)


# --- the format -------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
sizes = st.lists(st.integers(1, 9), min_size=2, max_size=6)


@settings(max_examples=25, deadline=None)
@given(st.lists(texts, min_size=2, max_size=6, unique=True), sizes, st.integers(1, 4), st.integers(1, 5), st.integers(0, 3))
def test_a_set_reads_back_exactly(tmp_path_factory, ids, lengths, latents, width, style):
    random = np.random.default_rng(len(ids))
    size = style + (latents + 1) * width
    made = [
        Example(name, name[::-1], "ann", random.integers(0, 8192, (lengths[row % len(lengths)], 1), np.int32), random.normal(size=size).astype(np.float32))
        for row, name in enumerate(ids)
    ]
    config = {"condition_num_latent": latents, "model_dim": width}
    family, folder = IndexTTS2(), tmp_path_factory.mktemp("set")
    targets = dataset.paired(made, lambda text: [ord(letter) % 999 for letter in text], config)
    family.write(targets, folder)
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    for wanted, found in zip(targets, family.read(folder), strict=True):
        for name, value in vars(wanted).items():
            np.testing.assert_array_equal(vars(found)[name], value, strict=isinstance(value, np.ndarray))
    family.write(family.read(folder), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written


def test_an_empty_set_reads_back_empty(family, tmp_path):
    family.write([], tmp_path)
    assert family.read(tmp_path) == []


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 99)), unique=True, min_size=4, max_size=20))
def test_prompt_and_target_are_never_the_same_clip(keys):
    """Every clip is the prompt of one other of its speaker, whatever the order of the set."""
    made = [Example(f"{speaker}{number}", "", speaker, np.zeros((1, 1), np.int32)) for speaker, number in keys]
    made = [e for e in made if sum(other.speaker == e.speaker for other in made) > 1]
    found = pairs(made)
    assert all(prompt.id != target and prompt.speaker == target[0] for target, prompt in found.items())
    assert sorted(prompt.id for prompt in found.values()) == sorted(e.id for e in made)
    assert {target: prompt.id for target, prompt in pairs(made[::-1]).items()} == {target: prompt.id for target, prompt in found.items()}


def test_a_lone_utterance_has_no_prompt(folder):
    with pytest.raises(UserError, match="utterance utt-0 is the only one of its set"):
        toy.targets(folder, 1)


@pytest.mark.parametrize("name", ["pairs.jsonl", *(f"{kind}.npy" for kind in dataset.KINDS)])
def test_a_missing_or_cut_file_is_named(family, rows, tmp_path, name):
    family.write(rows, tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) - 9])
    with pytest.raises(UserError, match=f"{name}.*run the tokenise stage"):
        family.read(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"{name}: not there"):
        family.read(tmp_path)


def edited(key, value, line=1):
    def edit(folder: Path) -> None:
        lines = [json.loads(text) for text in (folder / "pairs.jsonl").read_text().splitlines()]
        lines[line][key] = value
        (folder / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))

    return edit


def saved(kind, array):
    return lambda folder: np.save(folder / f"{kind}.npy", array)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(edited("prompt_row", 9), "line 2: prompt .* is not in the set"),
     (edited("prompt_row", "0"), "line 2 is not a pair"),
     (edited("target_code_len", 999), "codes.npy ends before utt-1"),
     (edited("target_text_start", -1), "text_ids.npy ends before utt-1"),
     (saved("codes", np.zeros(9, np.int64)), "codes.npy: int64 of 1 dimensions, not int32"),
     (saved("condition", np.zeros((3, 4), np.float32)), "condition.npy: float32 of 2 dimensions"),
     (saved("style", np.zeros((2, 192), np.float32)), "style.npy: 2 rows for the 3 lines"),
     (saved("emo_vec", np.zeros((3, 31), np.float32)), "condition.npy has"),
     (saved("codes", np.array([{}])), "codes.npy: not a whole .npy file")],
)  # fmt: skip
def test_a_set_of_another_shape_is_refused(family, rows, tmp_path, damage, message):
    family.write(rows, tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        family.read(tmp_path)


# --- the stages ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with params.yaml, weights and eight resampled clips of noise."""
    monkeypatch.chdir(tmp_path)
    toy.folder(tmp_path / "weights")
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"models": ["indextts2"]}
    params["indextts2"]["tiny"]["weights"] = "weights"
    params["indextts2"]["tiny"]["train"] |= {"epochs": 2, "batch_frames": 120, "lr": 3e-3, "warmup": 1}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    clips = [Clip(f"clip-{index}", 24000, noise(0.5 + 0.05 * index, index)) for index in range(8)]
    write_shards(tmp_path / "data/indextts2/resampled", clips)
    write_json(tmp_path / "data/indextts2/weights.json", record(tmp_path / "weights", {}, {}))
    (tmp_path / "data/corpus").mkdir()
    splits = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
    write_jsonl(tmp_path / "data/corpus/manifest.jsonl", [
        {"id": clip.id, "text": f"Press {clip.id[-1]}.", "speaker": "ann", "split": split, "seconds": len(clip.audio) / 24000, "sha256": clip.id}
        for clip, split in zip(clips, splits, strict=True)
    ])  # fmt: skip
    return tmp_path


def test_from_clips_to_a_tuned_voice(family, place):
    """The stages make the set, train on it, and the reader renders what the tuned network says."""
    tokenise.main(["--model", "indextts2"])
    tokens = place / "data/indextts2/tokens"
    assert [(t.id, t.speaker) for t in family.read(tokens / "train")] == [(f"clip-{n}", "ann") for n in range(4)]
    train.main(["--model", "indextts2"])
    checkpoints = place / "data/indextts2/checkpoints"
    history = [json.loads(line) for line in (checkpoints / "history.jsonl").read_text().splitlines()]
    assert history[2]["train"]["total"] < history[1]["train"]["total"]
    tuned = family.merged(place / "weights", load_adapter(checkpoints / "epoch-02"), SFT, 1.0)
    reader = Reader(family, family.codec(place / "weights"), read_voice(tokens), Sampling(), 15.0)
    (take,) = reader.read(tuned, [Script("p", "Press one.", 3)], 20)
    assert take.error is None and len(take.audio) == take.frames * 441


# --- defects of upstream in its files, by name (facts 1.2 to 1.4) -------------------------------------------------------


def test_defect_a_clip_that_is_its_own_prompt_is_refused(family, rows, tmp_path):
    """It teaches the network to copy (issue 501)."""
    family.write(rows, tmp_path)
    edited("prompt_row", 1)(tmp_path)
    edited("prompt_id", "utt-1")(tmp_path)
    with pytest.raises(UserError, match="utt-1 is its own prompt"):
        family.read(tmp_path)


def test_defect_conditions_of_another_base_are_refused(family, folder, codec, tmp_path):
    """Same tokeniser, other network: its latents mean something else, and no range check can see it."""
    toy.folder(tmp_path)
    toy.network(seed=2).save(tmp_path)
    with pytest.raises(UserError, match="tokeniser_sha256"):
        codec.contract.check(family.codec(tmp_path).contract, "data/indextts2/tokens/contract.json")
    assert family.codec(folder).contract == codec.contract


def test_defect_no_sample_is_skipped(family, rows, folder, tmp_path):
    """Upstream counts what fails; here a set reads whole or not at all, and every utterance is learnt from."""
    family.write(rows, tmp_path)
    lines = (tmp_path / "pairs.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "pairs.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match="3 rows for the 2 lines"):
        family.read(tmp_path)
    assert isinstance(rows[0], Target) and len(family.batch(family.network(folder), rows)["labels"]) == len(rows)
