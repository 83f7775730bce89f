"""A folder of released VoxCPM weights: what is wrong with one is said in a line, and an export is one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Sampling, Voice
from models.voxcpm import VoxCPM
from models.voxcpm.adapter import CONFIG, WEIGHTS
from models.voxcpm.network import VoxCPMNetwork
from models.voxcpm.released import rehearsal
from models.voxcpm.released.files import PICKLE, VAE
from stages.weights.convert import convert
from tests.spoil import tensors

FAMILY = VoxCPM()
MAIN, NORM = "model.safetensors", "base_lm.norm.weight"
NOBODY = Voice("nobody", np.zeros(0, np.float32))
LORA = AdaptSettings("lora", 4, 8.0, 0.0, ("q_proj", "v_proj"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make weights` leaves it: without the pickle."""
    folder = tmp_path_factory.mktemp("release")
    rehearsal.write(folder, "small")
    convert(folder / PICKLE, PICKLE, folder / VAE)
    (folder / PICKLE).unlink()
    return folder


@pytest.fixture
def release(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_a_whole_release_passes_however_its_pickle_was_nested(whole: Path, release: Path) -> None:
    FAMILY.check_release(whole)
    state = load_file(release / VAE)
    torch.save({"state_dict": state}, release / PICKLE)
    convert(release / PICKLE, PICKLE, release / VAE)
    FAMILY.check_release(release)
    wave = np.random.default_rng(1).normal(0, 0.1, 20000).astype(np.float32)
    ours, again = (FAMILY.codec(folder).encode([wave])[0] for folder in (whole, release))
    np.testing.assert_array_equal(ours, again)


@pytest.mark.parametrize("name", ["config.json", MAIN, VAE, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_a_missing_file_is_named(release: Path, name: str) -> None:
    (release / name).unlink()
    with pytest.raises(UserError, match=f"{name}: not there"):
        FAMILY.check_release(release)


def edited(*path: str, to: object) -> Callable[[Path], object]:
    """Set one field of config.json."""

    def change(folder: Path) -> None:
        config = section = json.loads((folder / "config.json").read_text())
        for step in path[:-1]:
            section = section[step]
        section[path[-1]] = to
        (folder / "config.json").write_text(json.dumps(config))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edited("architecture", to="voxcpm2"), "config.json: architecture is voxcpm2"),
        (edited("audio_vae_config", to=None), "config.json: not VoxCPM 1.5's configuration"),
        (edited("audio_vae_config", "sample_rate", to=48000), "config.json: audio_vae_config: 48000 Hz, but VoxCPM 1.5 has 44100"),
        (edited("audio_vae_config", "depthwise", to=False), "config.json: .*of another codec"),
        (edited("audio_vae_config", "latent_dim", to=32), "config.json: feat_dim is 64, but the codec has 32"),
        (edited("lm_config", "rope_scaling", to=None), "config.json: not VoxCPM's configuration"),
        (edited("lm_config", "hidden_size", to=48), "config.json: .*heads of 12"),
        (edited("lm_config", "vocab_size", to=100), "is .*config.json makes it"),
        (tensors(MAIN, lambda state: state.pop(NORM)), rf"{MAIN}: 1 tensors are missing \['{NORM}'\]"),
        (tensors(MAIN, lambda state: state.update(more=torch.ones(1))), rf"{MAIN}: .*1 unexpected \['more'\]"),
        (tensors(VAE, lambda state: state.update({k: v.bfloat16() for k, v in state.items()})), f"{VAE}: .* is BF16, not F32"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json: no tokenizer"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(release: Path, change: Callable[[Path], object], message: str) -> None:
    change(release)
    with pytest.raises(UserError, match=f"^{re.escape(str(release))}.*{message}") as raised:
        FAMILY.check_release(release)
    assert "\n" not in str(raised.value)


def test_a_prompt_ends_with_its_clip_and_a_clip_begins_with_itself(whole: Path) -> None:
    """A reference is padded before, for speech goes on from its end; what is learnt is padded behind."""
    codec: Any = FAMILY.codec(whole)
    wave = np.random.default_rng(1).normal(0, 0.1, 3 * codec.samples - 1000).astype(np.float32)
    padded = (np.pad(wave, (0, 1000)), np.pad(wave, (1000, 0)))
    (behind,), before = codec.encode([wave]), codec.prompt(wave)
    assert behind.shape == before.shape == (3, 256) and np.abs(behind - before).max() > 1e-3
    for found, whole_patches in zip((behind, before), padded, strict=True):
        np.testing.assert_array_equal(found, codec.encode([whole_patches])[0])


def test_an_export_is_a_release_that_says_the_same_and_has_its_adapter_beside_it(whole: Path, tmp_path: Path) -> None:
    network = FAMILY.network(whole)
    assert isinstance(network, VoxCPMNetwork)
    FAMILY.adapt(network, LORA)
    state = {name: tensor + 0.1 for name, tensor in FAMILY.adapter_state(network, LORA).items()}
    tuned = FAMILY.merged(whole, state, LORA, 1.0)
    FAMILY.export(tuned, NOBODY, whole, tmp_path)
    FAMILY.export_adapter(state, LORA, 1.0, whole, tmp_path)
    FAMILY.check_release(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in whole.iterdir()} | {PICKLE, WEIGHTS, CONFIG}
    before, after = load_file(whole / VAE), torch.load(tmp_path / PICKLE, weights_only=True)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    exported = load_file(tmp_path / MAIN)
    assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}
    for name, tensor in tuned.state_dict().items():
        torch.testing.assert_close(exported[name].float(), tensor, atol=0, rtol=2**-8)
    take, again = (FAMILY.generate(one, ["Hello."], NOBODY, Sampling(euler_steps=2), [1], [3])[0] for one in (tuned, FAMILY.network(tmp_path)))
    assert np.abs(take.codes - again.codes).max() < 0.5  # bfloat16 on disk
    assert len(load_file(tmp_path / WEIGHTS)) == len(state)
