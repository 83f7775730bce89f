"""Qwen3-TTS: what is exported is a released custom voice, and speaks as the merged network does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Example, Sampling, Voice
from models.qwen3_tts import Qwen3TTS
from models.qwen3_tts.network import Qwen3TTSNetwork
from models.qwen3_tts.released import export
from models.qwen3_tts.released.files import FILES
from tests import small_qwen3_tts as small
from tests.family_checks import trained_a_little

LORA = AdaptSettings("lora", 4, 8.0, 0.0, ("q_proj", "v_proj", "down_proj"))
GREEDY = Sampling(temperature=0, top_k=0, top_p=1.0)
TEXTS = ["Hello there, how are you today?", "No."]
VECTOR = np.random.default_rng(2).normal(size=64).astype(np.float32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.folder(tmp_path_factory.mktemp("release") / "base", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def merged(base: Path) -> Qwen3TTSNetwork:
    family, codes = Qwen3TTS(), np.random.default_rng(1).integers(0, 2048, (2, 6, 16), np.int32)
    rows = [Example(f"u{n}", text, "ann", codes[n], VECTOR) for n, text in enumerate(TEXTS)]
    state = family.adapter_state(trained_a_little(family, family.network(base), LORA, rows, 0.05), LORA)
    network = family.merged(base, state, LORA, 0.35)
    assert isinstance(network, Qwen3TTSNetwork)
    return network


@pytest.fixture(scope="module")
def exported(base: Path, merged: Qwen3TTSNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    export.write(base, merged, "Ann", VECTOR, folder)
    return folder


def test_an_export_speaks_as_the_merged_network_by_the_speakers_name_alone(merged, exported):
    family = Qwen3TTS()
    rounded = Qwen3TTSNetwork(merged.config, merged.prompt.tokenizer).eval()
    rounded.load_state_dict({name: tensor.bfloat16().float() for name, tensor in merged.state_dict().items()})
    voice = Voice("Ann", torch.from_numpy(VECTOR).bfloat16().float().numpy())
    wanted = family.generate(rounded, TEXTS, voice, GREEDY, [1, 1], [12, 12])
    takes = family.generate(family.network(exported), TEXTS, Voice("ANN", np.zeros(0, np.float32)), GREEDY, [1, 1], [12, 12])
    for take, other in zip(takes, wanted, strict=True):
        np.testing.assert_array_equal(take.codes, other.codes)
        np.testing.assert_allclose(take.logprobs, other.logprobs, atol=1e-5)
        assert len(take.codes) and take.finish == other.finish
    with pytest.raises(UserError, match="speaker 'bob': the weights know ann"):
        family.generate(family.network(exported), TEXTS[:1], Voice("bob", VECTOR), GREEDY, [1], [5])


def test_an_export_has_the_released_files_and_the_two_that_change(base, exported):
    def files(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before, after = files(base), files(exported)
    assert after.keys() == {*FILES} <= before.keys()
    assert {name for name in after if before[name] != after[name]} == {"config.json", "model.safetensors"}
    config, original = json.loads(after["config.json"]), json.loads(before["config.json"])
    talker = original["talker_config"] | {"spk_id": {"ann": 3000}, "spk_is_dialect": {"ann": False}}
    changed = {"tts_model_type": "custom_voice", "talker_config": talker, "transformers_version": "5.23.0"}
    assert config == original | changed


def test_exported_tensors_are_upstreams_names_in_bfloat16_without_the_encoder(base, merged, exported):
    with safe_open(exported / "model.safetensors", "pt") as file, safe_open(base / "model.safetensors", "pt") as old:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == {name for name in old.keys() if not name.startswith("speaker_encoder.")}  # noqa: SIM118
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
        table = file.get_tensor("talker.model.codec_embedding.weight")
    torch.testing.assert_close(table[3000], torch.from_numpy(VECTOR).bfloat16(), rtol=0, atol=0)
    other = torch.ones(len(table), dtype=torch.bool)
    other[3000] = False
    kept = merged.talker.model.codec_embedding.weight.detach().bfloat16()
    torch.testing.assert_close(table[other], kept[other], rtol=0, atol=0)


@pytest.mark.parametrize("name", FILES)
def test_a_base_without_a_file_that_upstream_needs_is_no_export(base, merged, tmp_path, name):
    kept = (base / name).read_bytes()
    (base / name).unlink()
    try:
        with pytest.raises(UserError, match=f"{name}: not there"):
            export.write(base, merged, "ann", VECTOR, tmp_path / "out")
    finally:
        (base / name).write_bytes(kept)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"vector": VECTOR[:9]}, "a vector of 9 figures, but the network takes 64"), ({"speaker": " "}, "no name")],
)
def test_a_speaker_that_cannot_be_exported_is_named(base, merged, tmp_path, change, message):
    asked: dict[str, Any] = {"speaker": "ann", "vector": VECTOR} | change
    with pytest.raises(UserError, match=message):
        export.write(base, merged, **asked, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()
