"""Qwen3-TTS: adapters start from the base, released weights load, and what does not fit is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.parts.errors import UserError
from models.parts.family import Contract, Sampling, Voice
from models.qwen3_tts import Qwen3TTS
from models.qwen3_tts.config import check
from models.qwen3_tts.network import Qwen3TTSNetwork
from stages.train import selfcheck
from tests import toy_qwen3_tts as toy
from tests.family_checks import (
    assert_a_batch_without_labels_stops_the_run,
    assert_changed_weights_are_refused,
    loss,
    toy_fixtures,
    trained_a_little,
)
from tests.toy_qwen3_tts import CODEBOOKS, FIRST, LORA, RESIDUAL, SFT, TARGETS, VOICE

CONTRACT = Contract("toy", "", 24000, 12.5, CODEBOOKS, (FIRST, *[RESIDUAL] * (CODEBOOKS - 1)))
family, folder = toy_fixtures(Qwen3TTS, toy.folder)


# --- adapters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapt", [LORA, SFT])
def test_a_fresh_adapter_leaves_the_base_as_it_is(family, folder, adapt):
    network = family.network(folder)
    wrapped = selfcheck.same_after_wrapping(family, network, adapt, family.batch(network, toy.examples()))
    assert any(p.requires_grad for p in wrapped.parameters())


@pytest.mark.parametrize("adapt", [LORA, SFT, replace(LORA, targets=("talker.o_proj", "code_predictor.down_proj"))])
def test_merged_weights_equal_base_and_adapter(family, folder, adapt):
    adapted = trained_a_little(family, family.network(folder), adapt, toy.examples(), 0.02)
    state = family.adapter_state(adapted, adapt)
    base, tuned = loss(family, family.network(folder), toy.examples()), loss(family, adapted, toy.examples())
    assert base - tuned > 1e-3
    assert loss(family, family.merged(folder, state, adapt, 1.0), toy.examples()) == pytest.approx(tuned, abs=1e-4)
    assert loss(family, family.merged(folder, state, adapt, 0.0), toy.examples()) == pytest.approx(base, abs=1e-6)
    third = family.merged(folder, state, adapt, 0.35).state_dict()
    plain, full = family.network(folder).state_dict(), family.merged(folder, state, adapt, 1.0).state_dict()
    assert plain.keys() == full.keys() == third.keys()
    for key in plain:
        torch.testing.assert_close(third[key], plain[key] + 0.35 * (full[key] - plain[key]))


def test_targets_choose_talker_and_code_predictor_separately(family, folder):
    def adapted(*targets: str) -> set[str]:
        network = family.adapt(family.network(folder), replace(LORA, targets=targets))
        assert all("lora_" in name for name, p in network.named_parameters() if p.requires_grad)
        return {key.split(".lora_")[0] for key in family.adapter_state(network, LORA)}

    talker = {f"talker.model.layers.{n}.self_attn.q_proj" for n in (0, 1)}
    predictor = {f"talker.code_predictor.model.layers.{n}.self_attn.q_proj" for n in (0, 1)}
    assert adapted("q_proj") == talker | predictor
    assert adapted("talker.q_proj") == talker
    assert adapted("code_predictor.q_proj") == predictor
    assert len(adapted(*TARGETS)) == 7 * 4


def test_full_fine_tuning_leaves_the_speaker_encoder_alone(family, folder):
    network = trained_a_little(family, family.network(folder), SFT, toy.examples(), 0.02)
    base, tuned = family.network(folder).state_dict(), network.state_dict()
    same = {key for key in base if torch.equal(base[key], tuned[key])}
    assert same == {key for key in base if key.startswith("speaker_encoder.")}


@pytest.mark.parametrize(
    ("targets", "message"),
    [(("codec_head",), "no 'codec_head'; use q_proj"), (("flow.q_proj",), "no 'flow.q_proj'"), ((), "none, so")],
)
def test_a_target_that_does_not_exist_is_named(family, folder, targets, message):
    with pytest.raises(UserError, match=message):
        family.adapt(family.network(folder), replace(LORA, targets=targets))


def test_an_adapter_of_other_targets_is_refused(family, folder):
    state = family.adapter_state(family.adapt(family.network(folder), LORA), LORA)
    with pytest.raises(UserError, match="do not fit train.rank and train.targets"):
        family.merged(folder, state, replace(LORA, targets=("talker.q_proj",)), 1.0)


# --- guards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.zeros((0, 4), np.int32)}, "utterance utt-0: no frames"),
        ({"codes": np.zeros((3, 5), np.int32)}, "5 codebooks, but the network has 4"),
        ({"codes": np.full((3, 4), 16, np.int32)}, "outside its codebook"),
        ({"codes": np.full((3, 4), -1, np.int32)}, "outside its codebook"),
        ({"codes": np.zeros((250, 4), np.int32)}, "room for 256"),
        ({"speaker_embedding": np.zeros(0, np.float32)}, "speaker vector of 0 figures, but the network takes 160"),
        ({"text": "  "}, "nothing to say"),
        ({"text": "a <|im_end|> b"}, "control token"),
        ({"text": "a <tts_pad> b"}, "control token"),
    ],
)
def test_an_utterance_that_does_not_fit_the_network_is_refused(family, folder, change, message):
    with pytest.raises(UserError, match=message):
        family.batch(family.network(folder), [replace(toy.examples()[0], **change)])


def test_a_voice_without_its_vector_and_a_text_without_room_are_refused(family, folder):
    network = family.network(folder)
    with pytest.raises(UserError, match="voice x: a speaker vector of 0 figures"):
        family.generate(network, ["a"], Voice("x", np.zeros(0, np.float32)), Sampling(), [1], [5])
    with pytest.raises(UserError, match="leaves no room of 256"):
        family.generate(network, ["a" * 250], VOICE, Sampling(), [1], [5])


def test_a_batch_without_labels_stops_the_run(family, folder):
    network = family.network(folder)
    assert_a_batch_without_labels_stops_the_run(family, network, toy.examples())


def test_a_loss_that_is_no_number_stops_the_run(family, folder):
    network = family.network(folder)
    with torch.no_grad():
        network.talker.text_projection.linear_fc1.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="the loss is nan"):
        selfcheck.usable(family.loss(network, family.batch(network, toy.examples())), "batch 1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"codebooks": 5}, "4 codebooks, not 5"), ({"vocabulary": (25, 16, 16, 16)}, "the codec has 25"),
     ({"vocabulary": (24, 16, 16, 40)}, "one codebook has 40 entries")],
)
def test_head_and_codec_must_fit(family, folder, changes, message):
    network = family.network(folder)
    family.check_shapes(network, CONTRACT)
    with pytest.raises(UserError, match=message):
        family.check_shapes(network, replace(CONTRACT, **changes))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("codec_eos_token_id", 99, "special id 99"), ("codec_bos_id", 3, "special id 3 is one"),
     ("text_vocab_size", 30, "30 text rows, but the last token is")],
)
def test_special_ids_must_fit_the_embeddings(family, field, value, message):
    made = toy.network()
    config = made.config | {"talker_config": made.config["talker_config"] | {field: value}}
    with pytest.raises(UserError, match=message):
        family.check_shapes(Qwen3TTSNetwork(config, made.prompt.tokenizer), CONTRACT)


# --- weights ------------------------------------------------------------------------------------------------------


KEYS = Path(__file__).parents[1] / "golden/qwen3_tts/keys"  # of the released files, and their configurations
SIZES = {"1.7B": (2048, 1_928_677_440), "0.6B": (1024, 914_643_008)}  # figures of a speaker vector, parameters


@pytest.mark.parametrize("size, kind", [(size, kind) for size in SIZES for kind in ("Base", "CustomVoice")] + [("1.7B", "VoiceDesign")])
def test_released_configurations_make_the_released_names_and_shapes(size, kind):
    release = f"Qwen3-TTS-12Hz-{size}-"
    config = check(json.loads((KEYS / f"{release}{kind}+config.json").read_text()), "config.json")
    with torch.device("meta"):
        network = Qwen3TTSNetwork(config)
    wanted = json.loads((KEYS / f"{release}{kind}+model.safetensors.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == {name: shape for name, (shape, _) in wanted.items()}
    ids = network.ids
    assert (ids.codes, ids.eos, ids.speaker) == (2048, 2150, 3000)
    if kind == "Base":
        assert (network.speaker_size, sum(p.numel() for p in network.parameters())) == SIZES[size]
    if kind == "CustomVoice":
        assert (ids.row_of("Vivian"), ids.language("Auto", "Dylan")) == (3065, ids.languages["beijing_dialect"])


def test_a_released_folder_loads_by_its_own_files(family, folder, tmp_path):
    """vocab.json and merges.txt instead of tokenizer.json; fields that this repository does not know are no matter."""
    letters = [*sorted(set("assistanthelHoĊ.")), "as", "ass"]
    control = ["<|im_start|>", "<|im_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"]
    (tmp_path / "vocab.json").write_text(json.dumps({letter: n for n, letter in enumerate(letters)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na s\nas s\n")
    added = {str(len(letters) + n): {"content": token, "special": True} for n, token in enumerate(control)}
    tokenizer = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    ids = {f"tts_{name}_token_id": len(letters) + 2 + n for n, name in enumerate(("pad", "bos", "eos"))}
    config = toy.network().config | ids | {"assistant_token_id": 77091, "tts_model_size": "1b7"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    network = family.network(tmp_path)
    words = network.prompt("Hello.").text.tolist()
    role = network.prompt.tokenizer.decode(words[: len(network.prompt.role)], skip_special_tokens=False)
    assert role == "<|im_start|>assistant\n"
    assert [letters[n] for n in words[-8:-2]] == list("Hello.")
    (take,) = family.generate(network, ["Hello."], VOICE, Sampling(), [1], [5])
    assert len(take.codes) and np.isfinite(take.logprobs).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda state: state.pop("talker.model.norm.weight"), "missing.*talker.model.norm.weight"),
     (lambda state: state.update({"epoch": torch.ones(1)}), "unexpected.*epoch"),
     (lambda state: state.update({"talker.model.norm.weight": torch.ones(3)}), r"talker.model.norm.weight is \(3,\)")],
)
def test_weights_load_strictly(family, folder, tmp_path, change, message):
    assert_changed_weights_are_refused(family, folder, tmp_path, change, message)


def test_a_configuration_without_a_field_and_a_folder_without_a_tokenizer_are_named(family, folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text().replace("text_hidden_size", "other"))
    with pytest.raises(UserError, match="not Qwen3-TTS's configuration.*text_hidden_size"):
        family.network(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(UserError, match="tokenizer.json: the tokenizer is missing"):
        family.network(tmp_path)


def test_the_released_speaker_encoder_hears_and_its_vector_goes_in_as_it_is(family):
    small = {"enc_dim": 32, "mel_dim": 12, "enc_channels": [16, 16, 16, 32], "enc_kernel_sizes": [5, 3, 3, 1],
             "enc_dilations": [1, 2, 3, 1], "enc_attention_channels": 8, "enc_res2net_scale": 4, "enc_se_channels": 8}
    network = toy.network(speaker=small)
    mel = torch.randn(2, 40, 12, generator=torch.Generator().manual_seed(1))
    vectors = network.speaker_encoder(mel).detach()
    assert vectors.shape == (2, 32) and not torch.allclose(vectors[0], vectors[1])
    torch.testing.assert_close(network.speaker_encoder(mel[1:]).detach(), vectors[1:])
    row = replace(toy.examples()[0], speaker_embedding=vectors[0].numpy())
    batch = family.batch(network, [row])
    at = batch["codec"][0, :, 0].tolist().index(network.ids.speaker)
    pad = network.talker.text_projection(network.talker.model.text_embedding(torch.tensor(network.ids.tts_pad)))
    torch.testing.assert_close(network.embed(batch["text"], batch["codec"], batch["speaker"])[0, at], vectors[0] + pad)
