"""VoxCPM's network and codec give what upstream's own code gave on the same weights (tests/golden/voxcpm)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import models.voxcpm.generation
from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Example, Sampling, Voice
from models.released import formula
from models.voxcpm import VoxCPM, _pad, decisions, velocity_error
from models.voxcpm.adapter import WEIGHTS, target_layers
from models.voxcpm.blocks import both_ways, causal, transformer
from models.voxcpm.config import VoxCPMConfig
from models.voxcpm.flow import solver_times
from models.voxcpm.generation import Request, attempt
from models.voxcpm.network import VoxCPMNetwork
from models.voxcpm.prompt import Prompt
from models.voxcpm.released import rehearsal
from models.voxcpm.released.codec import ReleasedCodec
from models.voxcpm.released.vae import AudioVAE, Sizes
from models.voxcpm.tokenizer import FILES, load
from tests.golden_fixtures import GOLDEN, golden

KEYS = GOLDEN / "voxcpm/keys"
NAMES = ("minicpm4", "locenc", "fsq", "locdit", "training", "generate", "lora", "tokens", "vae_encode", "vae_decode")
ATOL = 2e-5
FAMILY = VoxCPM()


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def close(found: torch.Tensor | np.ndarray, wanted: np.ndarray, atol: float = ATOL) -> None:
    np.testing.assert_allclose(np.asarray(found.detach() if isinstance(found, torch.Tensor) else found), wanted, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    said: dict[str, Any] = golden("voxcpm/training")[0]["config"]
    return said


@pytest.fixture(scope="module")
def network(config: dict[str, Any]) -> VoxCPMNetwork:
    made = VoxCPMNetwork(VoxCPMConfig(config))
    formula.fill(made)
    return made.eval()


# --- blocks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["plain", "long", "mup"])
@torch.no_grad()
def test_the_transformer_with_its_long_rotary_positions(config: dict[str, Any], variant: str) -> None:
    what, arrays = golden("voxcpm/minicpm4")
    built = VoxCPMConfig(config | {"lm_config": what["variants"][variant]["config"], "max_length": 512})
    model = transformer(built, built.base_lm, built.words).eval()
    assert model.state_dict().keys() == what["keys"].keys()
    formula.fill(model)
    x = tensor(arrays[f"{variant}_x"])
    close(causal(model, x), arrays[f"{variant}_causal"])
    close(both_ways(model, x), arrays[f"{variant}_free"])


@torch.no_grad()
def test_a_patch_as_the_language_model_reads_it(network: VoxCPMNetwork) -> None:
    _, arrays = golden("voxcpm/locenc")
    feats = tensor(arrays["feats"])
    close(network.feat_encoder(feats.flatten(0, 1)), arrays["out"].reshape(-1, arrays["out"].shape[-1]))
    close(network.heard(feats.flatten(0, 1).flatten(1)), arrays["projected"].reshape(-1, arrays["projected"].shape[-1]))


@torch.no_grad()
def test_the_bottleneck_rounds(network: VoxCPMNetwork) -> None:
    _, arrays = golden("voxcpm/fsq")
    close(network.fsq_layer(tensor(arrays["x"])), arrays["out"])


@torch.no_grad()
def test_the_velocity_of_a_patch(network: VoxCPMNetwork) -> None:
    _, arrays = golden("voxcpm/locdit")
    estimator = network.feat_decoder.estimator
    close(estimator.sinusoid(tensor(arrays["t"])), arrays["sinusoid"])
    x, previous = (tensor(arrays[name]).transpose(1, 2) for name in ("x", "cond"))
    close(estimator(x, tensor(arrays["t"]), tensor(arrays["mu"]), previous).transpose(1, 2), arrays["velocity"])


@pytest.mark.parametrize(("steps", "factor"), [(10, 2.0), (10, 1.5), (4, 2.0), (30, 2.0)])
@torch.no_grad()
def test_the_solver_with_sway_and_guidance(network: VoxCPMNetwork, steps: int, factor: float) -> None:
    _, arrays = golden("voxcpm/locdit")
    run = f"{steps}_{factor}_1.0_1"
    seen: list[float] = []
    hook = network.feat_decoder.estimator.register_forward_hook(lambda _, given, __: seen.append(float(given[1][0])))
    noise, previous = (tensor(arrays[name]).transpose(1, 2) for name in (f"noise_{run}", "cond"))
    found = network.feat_decoder.patches(tensor(arrays["mu"]), previous, noise, factor - 1, steps)
    hook.remove()
    close(np.array(seen), arrays[f"times_{run}"], 1e-6)
    close(found.transpose(1, 2), arrays[f"out_{run}"], 2e-4)


def test_the_solver_begins_slowly() -> None:
    published = [1, 0.956, 0.909, 0.854, 0.788, 0.707, 0.609, 0.491, 0.351, 0.188, 0]
    assert solver_times(10) == pytest.approx(published, abs=1e-3)


# --- training -----------------------------------------------------------------------------------------------------


def packed(arrays: Any, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Our batch of upstream's packed one: the same texts and patches."""
    frame = config["patch_size"] * config["feat_dim"]
    takes = []
    for text, feats, is_text, is_audio in zip(*(arrays[f"packed_{name}"] for name in ("text_tokens", "audio_feats", "text_mask", "audio_mask")), strict=True):
        prompt = text[: is_audio.argmax()].tolist()
        assert prompt[-1] == 101 and is_text[: len(prompt)].all()
        takes.append((prompt, np.zeros((0, frame), np.float32), feats[is_audio > 0].reshape(-1, frame), True))
    return _pad(VoxCPMNetwork(VoxCPMConfig(config)), takes)


def draws(arrays: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Upstream's, of the positions that the loss sees: noise (N, patch, latent), times and what is kept of the state (N,)."""
    sees = tensor(arrays["packed_loss_mask"].reshape(-1)) > 0
    return tensor(arrays["noise"]).transpose(1, 2)[sees], tensor(arrays["time"])[sees], tensor(arrays["keep"])[sees]


def losses(network: VoxCPMNetwork, batch: dict[str, torch.Tensor], arrays: Any) -> tuple[torch.Tensor, torch.Tensor]:
    noise, time, keep = draws(arrays)
    logits, ends, condition, previous, wanted = decisions(network, batch)
    diffusion = velocity_error(network, condition * keep[:, None], previous, wanted, noise, time)
    return diffusion, torch.nn.functional.cross_entropy(logits, ends)


def test_both_losses_and_their_gradients(network: VoxCPMNetwork, config: dict[str, Any]) -> None:
    what, arrays = golden("voxcpm/training")
    assert {name: list(t.shape) for name, t in network.state_dict().items()} == {n: s for n, s in what["keys"].items() if not n.startswith("audio_vae.")}
    batch = packed(arrays, config)
    logits, ends, *_ = decisions(network, batch)
    sees = arrays["packed_loss_mask"] > 0
    np.testing.assert_array_equal(ends, arrays["packed_labels"][sees])
    close(logits, arrays["stop_head"][sees])
    network.zero_grad()
    diffusion, stop = losses(network.train(), batch, arrays)
    (diffusion + stop).backward()
    network.eval()
    assert diffusion.item() == pytest.approx(float(arrays["loss_diff"]), rel=1e-5)
    assert stop.item() == pytest.approx(float(arrays["loss_stop"]), rel=1e-5)
    gradients = {name.replace(".", "_"): parameter.grad for name, parameter in network.named_parameters()}
    for name in (name for name in arrays.files if name.startswith("grad_")):
        wanted = arrays[name]
        found = gradients[name.removeprefix("grad_")]
        assert found is not None
        close(found, wanted, 1e-4 * float(np.abs(wanted).max()))


def test_upstreams_patches_are_the_codecs(config: dict[str, Any], tmp_path: Path) -> None:
    """What training gets of a wave that is no whole number of patches: silence behind it."""
    _, arrays = golden("voxcpm/training")
    codec = released_codec(config, tmp_path)
    for wave, feats, is_audio in zip(arrays["audio"], arrays["packed_audio_feats"], arrays["packed_audio_mask"], strict=True):
        wanted = feats[is_audio > 0].reshape(-1, codec.contract.codebooks)
        close(codec.encode([wave[wave > -100]])[0], wanted, 2e-4)


def released_codec(config: dict[str, Any], folder: Path) -> ReleasedCodec:
    vae = AudioVAE(Sizes.of(config, "config.json"))
    formula.fill(vae)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(vae.state_dict(), folder / "audiovae.safetensors")
    return ReleasedCodec(folder)


# --- adapter ------------------------------------------------------------------------------------------------------


def test_upstreams_adapter_is_ours_by_name_loss_and_file(config: dict[str, Any], tmp_path: Path) -> None:
    what, arrays = golden("voxcpm/lora")
    said = what["lora_config"]
    settings = AdaptSettings("lora", said["r"], said["alpha"], 0.0, (*said["target_modules_lm"], *said["target_proj_modules"]))
    made = VoxCPMNetwork(VoxCPMConfig(config))
    formula.fill(made)
    FAMILY.adapt(made, settings)
    state = FAMILY.adapter_state(made, settings)
    ours = {name.removesuffix(".weight"): name for name in state}
    assert ours.keys() == what["keys"].keys()
    own = dict(made.named_parameters())
    for name, shape in what["keys"].items():
        own[f"{name}.default.weight"].data.copy_(formula.value(name, tuple(shape)))
    _, training = golden("voxcpm/training")
    diffusion, stop = losses(made.eval(), packed(training, config), {**training, **arrays})
    assert diffusion.item() == pytest.approx(float(arrays["loss_diff"]), rel=1e-5)
    assert stop.item() == pytest.approx(float(arrays["loss_stop"]), rel=1e-5)


def test_by_default_upstreams_three_transformers_are_adapted_and_never_the_encoder(network: VoxCPMNetwork) -> None:
    what, _ = golden("voxcpm/lora")
    layers = target_layers(network, ["q_proj", "v_proj", "k_proj", "o_proj"])
    assert {f"{layer}.{kind}" for layer in layers for kind in ("lora_A", "lora_B")} == set(what["default_keys"])
    assert not [layer for layer in layers if layer.startswith("feat_encoder")]


def test_released_names_and_shapes_are_ours_and_so_are_the_adapters() -> None:
    values = rehearsal.config(rehearsal.RELEASED)
    with torch.device("meta"):
        parts = {"model.safetensors": VoxCPMNetwork(VoxCPMConfig(values)), "audiovae.pth": AudioVAE(Sizes.of(values, "config.json"))}
    for file, module in parts.items():
        keys = json.loads((KEYS / f"{file}.json").read_text())
        keys.pop("_note")
        module.load_state_dict({name: torch.empty(shape, device="meta") for name, (shape, _) in keys.items()}, strict=True, assign=True)
    adapter = json.loads((KEYS / f"{WEIGHTS}.json").read_text())
    layers = target_layers(parts["model.safetensors"], ["q_proj", "k_proj", "v_proj", "o_proj"])
    assert {f"{layer}.{kind}" for layer in layers for kind in ("lora_A", "lora_B")} == adapter.keys() - {"_note"}


# --- generation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["plain", "prompted", "stopped"])
def test_generation_patch_for_patch(network: VoxCPMNetwork, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str) -> None:
    what, arrays = golden("voxcpm/generate")
    codec, said = released_codec(config, tmp_path), what["runs"][run]
    frame = codec.contract.codebooks
    reference = np.zeros((0, frame), np.float32)
    if said.get("prompt_text"):
        reference = codec.prompt(arrays["prompt_wave"][0])
        close(reference, arrays["prompt_feats"].reshape(-1, frame), 2e-4)
    noise = iter(tensor(arrays[f"{run}_noise"]).flatten(1))
    monkeypatch.setattr(models.voxcpm.generation, "normals", lambda sources, count: next(noise)[None])
    before = [3 + ord(letter) % 90 for letter in said.get("prompt_text") or ""]  # the stand-in tokenizer's
    request = Request([*before, *arrays[f"{run}_ids"].tolist(), 101], reference, len(said["text"]))
    sampling = Sampling(temperature=1.0, guidance=1.0, euler_steps=10)
    (take,) = attempt(network, [request], sampling, [0], [said["cap"]])
    assert len(take.codes) == said["patches"] and (take.finish == "stop") == said["stopped"]
    latents, wave = arrays[f"{run}_latents"].reshape(-1, frame), arrays[f"{run}_wave"][0]
    close(take.codes, latents[len(latents) - len(take.codes) :], 5e-4)
    logits = arrays[f"{run}_stop_logits"]
    scores = take.logprobs.reshape(-1, 2)[:, 0]
    chosen = [0] * (len(scores) - 1) + [int(said["stopped"])]
    close(scores, torch.from_numpy(logits).log_softmax(-1).gather(1, torch.tensor(chosen)[:, None])[:, 0].numpy(), 1e-4)
    heard = latents[: len(latents) - len(take.codes)]  # the end of the reference, as upstream's decoder had it
    prompts = (Example("r", said["prompt_text"], "x", heard),) if len(heard) else ()
    (made,) = codec.decode([latents[len(latents) - len(take.codes) :]], Voice("x", np.zeros(0, np.float32), prompts))
    close(made, wave, 5e-4)  # its own double precision is 3e-4 away: weights by formula make the tanh steep


# --- text ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    (tmp_path / FILES[0]).write_bytes((GOLDEN / "voxcpm/tokens.tokenizer.json").read_bytes())
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / FILES[1]).write_text(json.dumps(named | {"tokenizer_class": "LlamaTokenizer"}))
    (tmp_path / FILES[2]).write_text(json.dumps(named))
    return load(tmp_path)


def test_texts_are_upstreams_tokens_and_chinese_is_read_by_characters(tokenizer: Tokenizer) -> None:
    what, arrays = golden("voxcpm/tokens")
    prompt = Prompt(tokenizer, 101)
    for index, (sentence, cleaned) in enumerate(zip(what["sentences"], what["cleaned_as_core_does"], strict=True)):
        if not sentence:
            with pytest.raises(UserError, match="nothing to say"):
                prompt(sentence)
        elif sentence == cleaned:  # upstream's trainer does not squeeze blanks, its front end does
            assert prompt(sentence) == [*arrays[f"ids_{index}"].tolist(), 101], sentence
        else:
            assert prompt(sentence) == prompt(cleaned)


# --- codec --------------------------------------------------------------------------------------------------------


def vae_of(name: str) -> tuple[AudioVAE, Any]:
    what, arrays = golden(f"voxcpm/{name}")
    vae = AudioVAE(Sizes.of({"audio_vae_config": what["config"]}, "config.json"))
    assert {key: list(t.shape) for key, t in vae.state_dict().items() if key in what["keys"]} == what["keys"]
    formula.fill(vae)
    return vae.eval(), arrays


@torch.no_grad()
def test_the_codecs_encoder_gives_the_mean() -> None:
    vae, arrays = vae_of("vae_encode")
    wave = tensor(arrays["wave"])
    latents = vae.encoder(torch.nn.functional.pad(wave, (0, -wave.shape[-1] % 42)))
    close(latents, arrays["latents"], 2e-5 * float(np.abs(arrays["latents"]).max()))  # of values up to 18: processors round otherwise


@torch.no_grad()
def test_the_codecs_decoder_gives_the_wave() -> None:
    vae, arrays = vae_of("vae_decode")
    close(vae.decoder(tensor(arrays["latents"])), arrays["wave"], 2e-5)
