"""Released IndexTTS2 as a whole against upstream's own code on weights by formula: two recordings and the ids of a text to a wave.

What would go wrong without an error ("trap") has a test by its name, and the mistake is made there to see that it is noticed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchaudio.compliance.kaldi as kaldi
from torch import nn
from torch.nn import functional as F

from models.indextts2.conditioner import Conditioner
from models.indextts2.generation import generate
from models.indextts2.network import RELEASED
from models.indextts2.released import s2mel
from models.indextts2.released.bigvgan import BigVGAN
from models.indextts2.released.codec import MEL, ReleasedCodec
from models.indextts2.released.hearing import Hearing
from models.indextts2.released.s2mel import S2Mel
from models.parts.family import Generation, Sampling, Voice
from models.released import campplus, formula
from models.released.campplus import CAMPPlus
from tests.golden_fixtures import wave
from tests.released_indextts2 import CLOSE, by_formula, estimator_of, fixture, network_of, repcodec_of, tensor

AS_UPSTREAM = Sampling(temperature=0, positions="cached", repetition_penalty=10.0)


@pytest.fixture(scope="module")
def codec() -> ReleasedCodec:
    """Of w2v-bert's released width: 130 million weights."""
    what, _ = fixture("chain")
    config = what["config"]
    made = ReleasedCodec.__new__(ReleasedCodec)  # of a folder it would read its files
    made.device, made._known = torch.device("cpu"), None
    made.hearing = Hearing(config["w2v_bert"])
    formula.fill(made.hearing.model)
    made.hearing.mean, made.hearing.var = formula.value("w2v_stats.mean", (1024,)) - 1, formula.value("w2v_stats.running_var", (1024,))
    made.repcodec = repcodec_of(config["semantic_codec"])
    made.s2mel = S2Mel(estimator_of(config["s2mel"]), 1024, config["s2mel"]["DiT"]["content_dim"], (1280, 256, 128, 1024))
    by_formula(made.s2mel, "models.")
    made.vocoder = BigVGAN(config["bigvgan"])
    by_formula(made.vocoder)
    made.speaker, made.conditioner = CAMPPlus(), Conditioner(RELEASED | config["gpt"])
    formula.fill(made.speaker)
    formula.fill(made.conditioner, kept=["pos_enc.pe"])
    for part in (made.hearing, made.speaker, made.conditioner):
        part.eval().requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def chain() -> Any:
    return fixture("chain")[1]


@pytest.fixture(scope="module")
def said(chain: Any) -> Generation:
    """As upstream generates: its cache's positions, its penalty."""
    what, _ = fixture("chain")
    network, ids = network_of(what["config"]["gpt"]), [0, *what["segments"][0], 1]
    (take,) = generate(network, [ids], tensor(chain["condition"]), tensor(chain["emotion"]), AS_UPSTREAM, [0], [24])
    return take


def test_a_recording_becomes_what_upstream_tells_its_decoder(codec: ReleasedCodec, chain: Any) -> None:
    known = codec.conditions(wave(chain["speaker_wave"]))
    np.testing.assert_allclose(known.mel, chain["reference_mel"], atol=CLOSE)
    np.testing.assert_allclose(known.style, chain["style"], atol=CLOSE)
    np.testing.assert_allclose(known.told, chain["prompt_condition"], atol=CLOSE)


def test_trap_the_mel_reaches_half_of_the_rate(codec: ReleasedCodec, chain: Any) -> None:
    """Upstream's configuration says "None", which it understands; whatever else would be 8000."""
    slow, _ = codec._as_prompt(wave(chain["speaker_wave"]))
    lower = type(MEL)(MEL.rate, MEL.bands, MEL.window, MEL.hop, 8000)
    np.testing.assert_allclose(MEL(slow[None])[0].T, chain["reference_mel"], atol=CLOSE)
    assert np.abs(lower(slow[None])[0].T - chain["reference_mel"]).max() > 0.1


def test_trap_the_filter_bank_has_no_dither_and_hears_waves_within_one(codec: ReleasedCodec, chain: Any) -> None:
    """Dither is Kaldi's default. The scale matters where the floor acts."""
    _, heard = codec._as_prompt(wave(chain["speaker_wave"]))
    np.testing.assert_array_equal(campplus.filter_bank(heard), campplus.filter_bank(heard))
    quiet = 1e-4 * heard
    loud = kaldi.fbank(2**15 * quiet[None], num_mel_bins=80)
    assert (campplus.filter_bank(quiet) - (loud - loud.mean(0))).abs().max() > 0.1


def test_trap_the_speakers_deviation_is_unbiased(codec: ReleasedCodec, chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, heard = codec._as_prompt(wave(chain["speaker_wave"]))
    bands = campplus.filter_bank(heard)[None]
    np.testing.assert_allclose(codec.speaker(bands)[0], chain["style"], atol=CLOSE)
    monkeypatch.setattr(codec.speaker.xvector.stats, "forward", lambda x: torch.cat([x.mean(-1), x.std(-1, correction=0)], -1))
    assert np.abs(codec.speaker(bands)[0] - chain["style"]).max() > CLOSE


def test_trap_the_emotion_is_read_at_another_resampling_than_the_voice(codec: ReleasedCodec, chain: Any) -> None:
    speaker, emotion = wave(chain["speaker_wave"]), wave(chain["emotion_wave"])
    voice, feeling = codec._points(codec._as_prompt(speaker)[1])[0], codec._points(codec._as_emotion(emotion))[0]
    np.testing.assert_allclose(voice[:, ::8], chain["speaker_feat"], atol=CLOSE)
    np.testing.assert_allclose(feeling[:, ::8], chain["emotion_feat"], atol=CLOSE)
    same = codec._points(codec._as_prompt(emotion)[1])[0]
    assert np.abs(same[: len(feeling), ::8] - chain["emotion_feat"]).max() > 1e-3

    heard = codec._voice_embedding(speaker)
    np.testing.assert_allclose(heard[:-1280], chain["condition"].ravel(), atol=CLOSE)
    base, other = (codec.conditioner.emotion(one[None], torch.tensor([len(one)])) for one in (voice, feeling))
    np.testing.assert_allclose((base + 0.6 * (other - base))[0], chain["emotion"], atol=CLOSE)  # as the fixture was run; alone it is 1
    alone = codec._points(codec._as_emotion(speaker))[0]
    np.testing.assert_array_equal(heard[-1280:], codec.conditioner.emotion(alone[None], torch.tensor([len(alone)]))[0])


def test_trap_hidden_states_are_the_takes_alone_and_pass_no_activation(codec: ReleasedCodec, chain: Any, said: Generation) -> None:
    """The reference's conditions are of codes alone; a state decides the code that it is added to."""
    heard = chain["reference_mel"].shape[1]
    assert said.latents is not None
    latents = torch.from_numpy(said.latents)
    vectors, frames = codec.repcodec.vectors(tensor(chain["codes_0"])), int(s2mel.FRAMES * len(chain["codes_0"]))
    wanted = chain["flow_condition_0"][heard:]

    def told(states: torch.Tensor | None) -> np.ndarray:
        made: np.ndarray = codec.s2mel.told(vectors, states, frames).numpy()
        return made

    np.testing.assert_allclose(chain["flow_condition_0"][:heard], chain["prompt_condition"], atol=CLOSE)
    assert frames == len(wanted)
    np.testing.assert_allclose(told(latents), wanted, atol=1e-4)
    assert np.abs(told(None) - wanted).max() > 1e-2 and np.abs(told(latents.roll(1, 0)) - wanted).max() > 1e-2
    layers = list(codec.s2mel.gpt_layer)
    bent = codec.repcodec.vectors(tensor(chain["codes_0"])) + layers[2](F.relu(layers[1](F.relu(layers[0](latents)))))
    assert np.abs(codec.s2mel.told(bent, None, frames).numpy() - wanted).max() > 1e-2


def test_trap_the_regulators_norm_has_one_group(codec: ReleasedCodec, chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in codec.s2mel.length_regulator.model:
        if isinstance(layer, nn.GroupNorm):
            monkeypatch.setattr(layer, "num_groups", 8)
    known = codec.conditions(wave(chain["speaker_wave"]))
    assert np.abs(known.told - chain["prompt_condition"]).max() > 1e-2


def test_a_text_and_a_recording_become_upstreams_wave(codec: ReleasedCodec, chain: Any, said: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the states of the second pass, and upstream's noise."""
    assert said.latents is not None
    np.testing.assert_array_equal(said.codes[:, 0], chain["codes_0"])
    np.testing.assert_allclose(said.latents[:, ::4], chain["latents_0"], atol=CLOSE)  # the fixture has every fourth value
    monkeypatch.setattr(torch, "randn", lambda *shape, generator: tensor(chain["noise_0"]))
    voice = Voice("ann", np.zeros(0, np.float32), reference=wave(chain["speaker_wave"]), reference_rate=24000)
    (made,) = codec.render([said], voice)
    assert np.abs((32767 * made).astype(np.int16).astype(int) - chain["wave"].astype(int)).max() <= 3
