"""Qwen3-TTS's language model gives what upstream's own code gave on the same weights (tests/golden/qwen3_tts)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.parts.errors import UserError
from models.parts.family import Codec, Example, Sampling, Voice
from models.qwen3_tts import Qwen3TTS, _pad, decisions, generation, scored
from models.qwen3_tts.network import Qwen3TTSNetwork
from models.qwen3_tts.prompt import Layout
from tests import small_qwen3_tts as small
from tests.golden_fixtures import GOLDEN, golden, wave

TEXT: dict[str, Any] = json.loads((GOLDEN / "qwen3_tts/text.json").read_text("utf-8"))
MODES: dict[str, Any] = {name: mode for name, mode in small.TALKER["modes"].items() if name != "teacher"}
GREEDY = Sampling(temperature=0, top_k=0, top_p=1.0)
ATOL = 1e-5  # upstream's own runs are bit-equal; between two versions of torch and transformers 4e-6 was measured
KINDS = ("base", "custom_voice", "voice_design")
INSTRUCTIONS = {"custom_instruct": "Speak softly.", "design": "A deep old voice."}


@pytest.fixture(scope="module")
def talker() -> dict[str, np.ndarray]:
    return dict(golden("qwen3_tts/talker")[1])


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("release")
    return {kind: small.folder(root / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def networks(releases: dict[str, Path]) -> dict[str, Qwen3TTSNetwork]:
    return {kind: Qwen3TTS().network(folder) for kind, folder in releases.items()}


def layout(networks: dict[str, Qwen3TTSNetwork], talker: dict[str, np.ndarray], mode: str) -> Layout:
    """The prompt of a mode, from its text and settings."""
    settings, reference = MODES[mode], None
    if mode.startswith("icl"):
        codes = talker[f"reference_codes_{'many' if 'long' in mode else 'few'}"]
        reference = Example("reference", "A short reference.", "someone", codes.astype(np.int32))
    text = "No." if len(talker[f"{mode}.input_ids"]) == 10 else "Hello there, how are you today?"
    return networks[settings["model_type"]].prompt(
        text, settings["speaker"], settings["language"], INSTRUCTIONS.get(mode, ""), reference,
        streaming=not settings["non_streaming"],
    )


def embedded(network: Qwen3TTSNetwork, prompt: Layout, speaker: np.ndarray) -> torch.Tensor:
    return network.embed(prompt.text[None], prompt.codec[None], torch.from_numpy(speaker)[None])


# --- text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", TEXT["rows"], ids=lambda row: row["text"][:12])
def test_a_text_becomes_the_ids_that_upstream_reads(networks, row):
    prompt = networks["voice_design"].prompt
    made = prompt(row["text"], instruction=row["text"]).text.tolist()
    role, ids = row["prompt"][:3], row["text_ids"]
    pads = [prompt.ids.tts_pad] * 3
    assert made == [*row["instruct"], *role, *pads, prompt.ids.tts_bos, *ids, prompt.ids.tts_eos, prompt.ids.tts_pad]
    reference = Example("r", row["text"], "r", np.zeros((1, 16), np.int32))
    made = prompt("A", reference=reference).text.tolist()
    assert made == [*role, *pads, prompt.ids.tts_bos, *row["reference_text_ids"], 32, prompt.ids.tts_eos, *pads[:2]]


def test_line_breaks_at_the_beginning_join_the_roles_own(networks):
    """Upstream tokenises the whole template and cuts it by position."""
    made = networks["voice_design"].prompt("\n\nTwo lines first.").text.tolist()
    assert made[:4] == [151644, 77091, 271, 151671] and made[7:-2] == [198, 11613, 5128, 1156, 13]


@pytest.mark.parametrize("name", ["merges.txt", "tokenizer_config.json"])
def test_half_a_tokenizer_is_refused(tmp_path, name):
    """Without tokenizer_config.json it would load, and read <|im_start|> as letters."""
    folder = small.folder(tmp_path / "release")
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: part of the tokenizer is missing"):
        Qwen3TTS().network(folder)


# --- prompts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_prompts_are_upstreams(networks, talker, mode):
    network, prompt = networks[MODES[mode]["model_type"]], layout(networks, talker, mode)
    embeds = embedded(network, prompt, talker["speaker"])
    np.testing.assert_allclose(embeds[0].detach(), talker[f"{mode}.prompt_embeds"], atol=ATOL)
    if f"{mode}.trailing_text" in talker:
        following = torch.tensor(prompt.following or [network.ids.tts_pad])
        words = network.talker.text_projection(network.talker.model.text_embedding(following))
        np.testing.assert_allclose(words.detach(), talker[f"{mode}.trailing_text"], atol=ATOL)
    else:
        assert prompt.following == []
    logits = network.talker.codec_head(network.talker.model.run(embeds)[0, -1])
    np.testing.assert_allclose(logits.detach(), talker[f"{mode}.prompt_last_logits"], atol=2 * ATOL)


def test_a_dialect_is_spoken_for_auto_and_chinese_alone(networks):
    ids = networks["custom_voice"].ids
    assert [ids.language(name, "Eric") for name in ("Auto", "Chinese", "English")] == [2062, 2062, 2050]
    assert [ids.language(name, "anna") for name in ("auto", "chinese")] == [None, 2055]


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"speaker": "nobody"}, "speaker 'nobody': the weights know anna, eric"),
     ({"speaker": "anna", "language": "Klingon"}, "language 'Klingon': the network knows auto, chinese")],
)
def test_a_speaker_or_a_language_that_is_unknown_is_named(networks, asked, message):
    with pytest.raises(UserError, match=message):
        networks["custom_voice"].prompt("A", **asked)


# --- generation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_greedy_takes_are_upstreams(networks, talker, mode):
    """Code for code, every decision as likely; and the training path gives the same likelihoods."""
    network, prompt = networks[MODES[mode]["model_type"]], layout(networks, talker, mode)
    speaker = torch.from_numpy(talker["speaker"])
    (take,) = generation.generate(network, [prompt], speaker, GREEDY, [1], [15])
    np.testing.assert_array_equal(take.codes, talker[f"{mode}.codes"])
    assert take.finish == MODES[mode]["finish"]
    first, rest = talker[f"{mode}.first_logprobs"], talker[f"{mode}.rest_logprobs"]
    frames = np.concatenate([first[: len(rest), None], rest], 1).ravel()
    decided = np.append(frames, first[len(rest) :]) if take.finish == "stop" else frames
    np.testing.assert_allclose(take.logprobs, decided, atol=2 * ATOL)
    with torch.no_grad():
        np.testing.assert_allclose(scored(network, prompt, talker["speaker"], take), decided, atol=2 * ATOL)


def test_takes_of_unlike_layouts_are_the_same_in_one_batch(networks, talker):
    modes = [mode for mode in MODES if MODES[mode]["model_type"] == "base"]
    prompts, speaker = [layout(networks, talker, mode) for mode in modes], torch.from_numpy(talker["speaker"])
    takes = generation.generate(networks["base"], prompts, speaker, GREEDY, [1] * len(modes), [15] * len(modes))
    for mode, take in zip(modes, takes, strict=True):
        np.testing.assert_array_equal(take.codes, talker[f"{mode}.codes"])


# --- teacher-forced -----------------------------------------------------------------------------------------------


def test_teacher_forced_states_and_logits_are_upstreams(networks, talker):
    network, prompt, frames = networks["base"], layout(networks, talker, "xvec_whole"), talker["teacher.frames"]
    batch = _pad(network, [(prompt, frames)], talker["speaker"][None])
    embeds = network.embed(batch["text"], batch["codec"], batch["speaker"])
    np.testing.assert_allclose(embeds[0].detach(), talker["teacher.embeds"], atol=ATOL)
    with torch.no_grad():
        states = network.talker.model(inputs_embeds=embeds, output_hidden_states=True).hidden_states
        for layer, state in enumerate(states):
            np.testing.assert_allclose(state[0], talker[f"teacher.hidden_{layer}"], atol=2 * ATOL)
        logits = network.talker.codec_head(states[-1][0, len(prompt) - 1 :])
        np.testing.assert_allclose(logits, talker["teacher.first_logits"], atol=2 * ATOL)
        first, _, rest, residual = decisions(network, batch)
        allowed = [*range(network.ids.codes), network.ids.eos]
        np.testing.assert_allclose(first, talker["teacher.first_logits"][:, allowed], atol=2 * ATOL)
        np.testing.assert_array_equal(residual, frames[:, 1:])
        for name, frame in (("frame_0", 0), ("frame_last", -1)):
            np.testing.assert_allclose(rest[frame], talker[f"teacher.rest_logits_{name}"], atol=2 * ATOL)


def test_the_code_predictor_starts_where_upstreams_does(networks, talker, monkeypatch):
    """From the state before the frame and its first code; then a code more, each from the table of its codebook."""
    network, frames, predictor = networks["base"], talker["teacher.frames"], networks["base"].talker.code_predictor
    inputs: list[torch.Tensor] = []
    honest = predictor.run
    monkeypatch.setattr(predictor, "run", lambda embeds, cache=None: inputs.append(embeds) or honest(embeds, cache))
    batch = _pad(network, [(layout(networks, talker, "xvec_whole"), frames)], talker["speaker"][None])
    decisions(network, batch)
    np.testing.assert_allclose(inputs[0][:, 0].detach(), talker["teacher.first_state"], atol=2 * ATOL)
    np.testing.assert_allclose(inputs[0][0].detach(), talker["teacher.predictor_inputs"], atol=2 * ATOL)


def test_the_loss_is_the_cross_entropy_of_upstreams_decisions(networks, talker):
    """Over the codes and the stop, which are all that generation may draw; upstream's own training takes all rows."""
    network, wanted = networks["base"], small.TALKER["modes"]["teacher"]
    row = Example("u", "Hello there, how are you today?", "", talker["teacher.frames"].astype(np.int32), talker["speaker"])
    with torch.no_grad():
        batch = Qwen3TTS().batch(network, [row])
        result = Qwen3TTS().loss(network, batch)
        *_, rest, residual = decisions(network, batch)
    assert result.parts["talker"] == pytest.approx(wanted["talker_ce_2049"], abs=ATOL)
    assert result.parts["code_predictor"] == pytest.approx(wanted["predictor_ce"], abs=ATOL)
    each = F.cross_entropy(rest.transpose(1, 2), residual, reduction="none").mean(0)
    np.testing.assert_allclose(each, wanted["predictor_ce_codebook"], atol=ATOL)


# --- the whole chain ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec(releases: dict[str, Path]) -> Codec:
    return Qwen3TTS().codec(releases["base"])


@pytest.mark.parametrize("mode", ["icl", "icl_english", "xvec", "xvec_whole", "xvec_short"])
def test_a_recording_and_a_text_become_upstreams_speech(networks, codec, mode):
    """Waveform in, waveform out: codes, vector, prompt, take, and the reference that the decoder heard cut off again."""
    network, (what, arrays) = networks["base"], golden("qwen3_tts/e2e")
    settings, recording = what["modes"][mode], wave(arrays["reference"])
    (codes,), vector = codec.encode([recording]), codec.speaker_embedding(recording)
    np.testing.assert_array_equal(codes, arrays["reference_codes"])
    np.testing.assert_allclose(vector, arrays["reference_vector"], atol=ATOL)
    cloned = [Example("reference", settings["ref_text"], "", codes)] if "ref_text" in settings else []
    voice = Voice("", vector, tuple(cloned))
    if mode in ("icl", "xvec_whole"):  # what the family does by itself, with and without a reference
        (take,) = Qwen3TTS().generate(network, [settings["text"]], voice, GREEDY, [1], [13])
    else:
        prompt = network.prompt(
            settings["text"], "", settings.get("language", "auto"), reference=cloned[0] if cloned else None, streaming=True
        )
        (take,) = generation.generate(network, [prompt], torch.from_numpy(vector), GREEDY, [1], [13])
    np.testing.assert_array_equal(np.concatenate([*(one.codes for one in cloned), take.codes]), arrays[f"{mode}.decoded_codes"])
    (speech,) = codec.decode([take.codes], voice)
    np.testing.assert_allclose(speech, arrays[f"{mode}.wave"], atol=1e-4)
