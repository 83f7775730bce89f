"""Chatterbox: training scores what generation decides, and the defects of upstream and of other trainers are absent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import models
import models.chatterbox
import models.chatterbox.config
from models.chatterbox import Chatterbox
from models.chatterbox.config import PROMPT
from models.chatterbox.network import T3
from models.parts.errors import UserError
from models.parts.family import Contract, Example, Sampling, Voice
from stages.train import selfcheck
from tests import toy_chatterbox as toy
from tests import toy_cosyvoice
from tests.family_checks import (
    assert_a_batch_without_labels_stops_the_run,
    assert_second_shift_is_caught,
    assert_takes_are_the_same_alone,
    loss,
    toy_fixtures,
)

LIMITS = [60, 25, 90]
SEEDS = [1, 2, 3]
FREE = Sampling(temperature=1.0, top_k=0, top_p=1.0)
GUIDED = replace(FREE, guidance=0.7)
CONTRACT = Contract("toy", "", 16000, 25.0, 1, (toy.CODES,))
family, folder = toy_fixtures(Chatterbox, toy.folder)


@pytest.fixture
def network(family, folder) -> T3:
    return family.network(folder)


def everyone(rows: int) -> torch.Tensor:
    """`without_text` for rows that all keep their text."""
    return torch.zeros(rows, dtype=torch.bool)


# --- one alignment rule -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [FREE, GUIDED, Sampling()])
def test_training_scores_the_decisions_that_generation_makes(family, network, sampling):
    """Guided or not: the scores are those of the row that has the text. A batch of unequal texts and lengths."""
    takes = family.generate(network, toy.TEXTS, toy.voice(), sampling, SEEDS, LIMITS)
    if sampling is FREE:
        assert {take.finish for take in takes} == {"stop", "length"}  # both ends are covered
    for text, take in zip(toy.TEXTS, takes, strict=True):
        assert len(take.logprobs) == len(take.codes) + (take.finish == "stop")
        np.testing.assert_allclose(family.decision_logprobs(network, text, toy.voice(), take), take.logprobs, atol=2e-4)


def test_without_a_prompt_as_well(family, network):
    nobody = replace(toy.voice(), prompts=())
    (take,) = family.generate(network, toy.TEXTS[:1], nobody, FREE, [1], [20])
    np.testing.assert_allclose(family.decision_logprobs(network, toy.TEXTS[0], nobody, take), take.logprobs, atol=2e-4)


def test_the_loss_is_the_mean_of_those_decisions_plus_that_of_the_text(family, network):
    voice, text = toy.voice(), toy.TEXTS[2]
    (take,) = family.generate(network, [text], voice, FREE, [3], [200])
    assert take.finish == "stop" and len(take.codes) > 3
    row = Example("x", text, "ann", take.codes, voice.speaker_embedding, voice.prompts[0].codes)
    batch = family.batch(network, [row])
    result = family.loss(network, batch)
    assert result.parts["speech"] == pytest.approx(-take.logprobs.mean(), abs=1e-4)
    assert result.labels == len(take.logprobs)
    # Text: what stands at each place, from the hidden state one place before; the stop is the last.
    embeds, _ = network.embed(batch, everyone(1))
    hidden = network.tfmr(inputs_embeds=embeds).last_hidden_state[0]
    ids, first = torch.tensor(network.script(text)), 2 + toy.CONFIG.perceiver_queries
    scores = network.text_head(hidden[first : first + len(ids) - 1]).log_softmax(-1)
    assert result.parts["text"] == pytest.approx(-scores.gather(1, ids[1:, None]).mean().item(), abs=1e-4)
    assert result.total.item() == pytest.approx(result.parts["speech"] + result.parts["text"], abs=1e-5)


def test_a_label_shifted_twice_is_caught(family, network, monkeypatch):
    assert_second_shift_is_caught(family, network, monkeypatch, models.chatterbox, "_pad", "speech_labels", toy.TEXTS[1], toy.voice())


def test_a_take_that_stops_at_once_is_scored_too(family, network):
    batch = family.batch(network, [replace(toy.examples()[0], text=toy.TEXTS[0])])
    embeds, _ = network.embed(batch, everyone(1))
    with torch.no_grad():  # a head that wants nothing but the stop
        start = network.tfmr(inputs_embeds=embeds).last_hidden_state[0, -1 - len(toy.examples()[0].codes)]
        network.speech_head.weight[toy.CONFIG.stop_speech_token] = 100 * start
    (take,) = family.generate(network, toy.TEXTS[:1], replace(toy.voice(5), prompts=()), Sampling(), [1], [9])
    assert take.codes.shape == (0, 1) and take.finish == "stop"
    forced = family.decision_logprobs(network, toy.TEXTS[0], replace(toy.voice(5), prompts=()), take)
    np.testing.assert_allclose(forced, take.logprobs, atol=1e-4)


# --- a batch is only a batch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [FREE, GUIDED])
def test_a_seed_alone_decides_a_take_whatever_its_batch(family, network, sampling):
    pairs = assert_takes_are_the_same_alone(family, network, toy.TEXTS, toy.voice(), sampling, SEEDS, LIMITS)
    (other,) = family.generate(network, toy.TEXTS[:1], toy.voice(), sampling, [9], LIMITS[:1])
    assert not np.array_equal(other.codes, pairs[0][0].codes)


def test_padding_changes_no_decision(family, network):
    """Unequal prompts (one has none), texts and lengths."""
    rows = toy.examples()
    together = network.logits(family.batch(network, rows), everyone(3))
    alone = [network.logits(family.batch(network, [row]), everyone(1)) for row in rows]
    for batched, single in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(batched, torch.cat(single), atol=2e-4, rtol=0)


def test_a_row_ends_at_its_own_limit_though_the_batch_goes_on(family, network):
    (whole,) = family.generate(network, toy.TEXTS[2:], toy.voice(), FREE, [3], [200])
    assert whole.finish == "stop" and len(whole.codes) > 2
    limits = [len(whole.codes) - 1, len(whole.codes) + 9]
    short, _ = family.generate(network, toy.TEXTS[:0:-1], toy.voice(), FREE, [3, 2], limits)
    assert short.finish == "length" and len(short.codes) == len(short.logprobs) == limits[0]
    (fits,) = family.generate(network, toy.TEXTS[2:], toy.voice(), FREE, [3], [len(whole.codes)])
    assert fits.finish == "stop"


def test_generation_writes_codes_alone(family, network):
    with torch.no_grad():  # the likeliest of all would be the start and the rows that no token has
        network.speech_head.weight[toy.CODES] = network.speech_head.weight[toy.CODES + 2 :] = 0
        network.speech_head.weight[: toy.CODES] *= 0.01
    (take,) = family.generate(network, toy.TEXTS[:1], toy.voice(), Sampling(3.0, 0, 1.0), [1], [60])
    assert take.codes.dtype == np.int32 and take.codes.min() >= 0 and take.codes.max() < toy.CODES


# --- voice, prompt, emotion, guidance -----------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["speaker", "prompt", "emotion"])
def test_all_of_the_conditioning_is_heard(family, network, monkeypatch, change):
    row = toy.examples(3)[2]
    before = network.logits(family.batch(network, [row]), everyone(1))[2]
    if change == "emotion":
        monkeypatch.setattr("models.chatterbox.network.EMOTION", 0.9)
    else:
        other = {"speaker": {"speaker_embedding": -row.speaker_embedding}, "prompt": {"prompt": row.prompt[::-1].copy()}}
        row = replace(row, **other[change])
    assert (network.logits(family.batch(network, [row]), everyone(1))[2] - before).abs().max() > 1e-3


def test_the_sequence_is_upstreams(family, network):
    """Speaker, resampled prompt, emotion, text, speech; both kinds of token with positions of their own."""
    row = toy.examples()[1]
    embeds = network.embed(family.batch(network, [row]), everyone(1))[0][0]
    voice = network.cond_enc.spkr_enc(torch.from_numpy(row.speaker_embedding / np.linalg.norm(row.speaker_embedding)))
    torch.testing.assert_close(embeds[0], voice)
    start = 2 + toy.CONFIG.perceiver_queries
    torch.testing.assert_close(embeds[start - 1], network.cond_enc.emotion_adv_fc.weight[:, 0] * 0.5)
    text = torch.tensor(network.script(row.text))
    torch.testing.assert_close(embeds[start:][: len(text)], network.text_emb(text) + network.text_pos_emb.emb.weight[: len(text)])
    assert len(embeds) == start + len(text) + 2 + len(row.codes)


def test_the_length_of_a_speaker_vector_says_nothing(family, network):
    """Upstream's have length 1; the mean of several, which a voice is, is shorter."""
    rows = toy.examples()
    shorter = [replace(row, speaker_embedding=0.5 * row.speaker_embedding) for row in rows]
    assert loss(family, network, shorter) == pytest.approx(loss(family, network, rows), abs=1e-5)


def test_guidance_is_upstreams_formula(family, network):
    """The likeliest code under told + w (told - untold), where untold has no text but its positions."""
    row = toy.examples()[2]
    voice = Voice("ann", row.speaker_embedding, (replace(row, codes=row.prompt),))
    chosen = []
    for text in toy.TEXTS:
        batch = family.batch(network, [replace(row, text=text)])
        told, untold = (network.logits(batch, torch.tensor([without]))[2][0] for without in (False, True))
        for weight in (0.0, 1.0, 4.0):
            combined = (told + weight * (told - untold))[: toy.CODES]
            (take,) = family.generate(network, [text], voice, Sampling(temperature=0.0, guidance=weight), [1], [1])
            chosen.append(int(take.codes[0, 0]))
            assert chosen[-1] == int(combined.argmax())
    assert len(set(chosen)) > len(toy.TEXTS)  # the weight makes a difference


def test_training_hears_some_utterances_without_their_text_and_validation_none(family):
    rows = toy.examples()
    network = toy.network(text_dropout=1.0)
    batch = family.batch(network, rows)
    network.train()
    network.cond_enc.eval()  # no dropout but that of the text
    untold = network.logits(batch, ~everyone(3))
    dropped = family.loss(network, batch)
    assert dropped.parts["speech"] == pytest.approx(torch.nn.functional.cross_entropy(untold[2], untold[3]).item(), abs=1e-4)
    told = toy.network(text_dropout=0.0).train()
    told.cond_enc.eval()
    assert loss(family, network.eval(), toy.examples()) == pytest.approx(loss(family, told, toy.examples()), abs=1e-4) != dropped.total.item()


def test_the_perceiver_computes_upstreams_formulas(network):
    """By hand: queries look at the prompt, then at each other, through one layer with one norm."""
    perceiver = network.cond_enc.perceiver
    weights = {name: value.double().numpy() for name, value in perceiver.state_dict().items()}
    prompt = np.random.default_rng(1).normal(size=(7, network.config.width))

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"attn.{name}.weight"].T + weights[f"attn.{name}.bias"]

    def norm(x: np.ndarray) -> np.ndarray:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return scaled * weights["attn.norm.weight"] + weights["attn.norm.bias"]

    def attend(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        queries, keys, values = (np.split(linear(norm(z), n), 4, 1) for z, n in ((x, "to_q"), (y, "to_k"), (y, "to_v")))
        heads = []
        for query, key, value in zip(queries, keys, values, strict=True):
            scores = np.exp(query @ key.T / np.sqrt(query.shape[1]))
            heads.append(scores / scores.sum(1, keepdims=True) @ value)
        return x + linear(np.concatenate(heads, 1), "proj_out")

    looked = attend(weights["pre_attention_query"][0], prompt)
    resampled = perceiver(torch.from_numpy(prompt).float()[None], torch.ones(1, 7, dtype=torch.bool))[0]
    np.testing.assert_allclose(resampled.detach().numpy(), attend(looked, looked), atol=1e-4)


# --- guards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.zeros((0, 1), np.int32)}, "utt-0: no frames"),
        ({"codes": np.full((3, 1), toy.CODES, np.int32)}, "outside its codebook"),
        ({"prompt": np.full((3, 1), -1, np.int32)}, "outside its codebook"),
        ({"codes": np.zeros((1011, 1), np.int32)}, "room for 1010"),
        ({"speaker_embedding": np.zeros(192, np.float32)}, "vector of 192 values, the network takes 6"),
    ],
)
def test_an_utterance_that_does_not_fit_the_network_is_named(family, network, change, message):
    with pytest.raises(UserError, match=message):
        family.batch(network, [replace(toy.examples()[0], **change)])


def test_a_batch_without_labels_stops_the_run(family, network):
    assert_a_batch_without_labels_stops_the_run(family, network, toy.examples(), "speech_labels")


def test_head_and_codec_must_fit(family, network):
    family.check_shapes(network, CONTRACT)
    with pytest.raises(UserError, match="40 speech codes, but the codec has .41"):
        family.check_shapes(network, replace(CONTRACT, vocabulary=(41,)))
    with pytest.raises(UserError, match="42 rows for speech, but the last id is 45"):
        family.check_shapes(toy.network(stop_speech_token=45, speech_tokens_dict_size=42), CONTRACT)
    with pytest.raises(UserError, match="30 speech codes|stop is 20"):
        family.check_shapes(toy.network(stop_speech_token=20), CONTRACT)
    with pytest.raises(UserError, match="20 rows for text, but the last token is 44"):
        family.check_shapes(toy.network(text_tokens_dict_size=20), CONTRACT)


# --- defects of upstream and of community trainers, by name (facts 3.3 and 3.4) -------------------------------------


def test_defect_the_loss_runs_and_does_not_score_copying_the_input(family, network):
    """Upstream's scores every token against the position that reads it: a network that copies would be perfect."""
    row = toy.examples()[2]
    with torch.no_grad():
        network.tfmr.layers = network.tfmr.layers[:0]  # the trunk hands on what it reads
        network.speech_pos_emb.emb.weight.zero_()
        network.speech_head.weight.copy_(network.speech_emb.weight * 10)
    batch = family.batch(network, [row])
    *_, logits, labels = network.logits(batch, everyone(1))
    copied = torch.cat([torch.tensor([toy.CONFIG.start_speech_token]), torch.from_numpy(row.codes[:, 0]).long()])
    assert logits.argmax(-1).tolist() == copied.tolist()  # it does copy
    assert labels.tolist() == [*row.codes[:, 0], toy.CONFIG.stop_speech_token]
    assert family.loss(network, batch).parts["speech"] > 5


@pytest.mark.parametrize("length", [1, 74, 75, 149, 150, 151])
def test_defect_no_label_is_masked_but_padding_so_that_short_clips_teach(family, network, length):
    """ST masks the first 150 labels (6 s), GK the first 75: of a short clip nothing is left and the loss is NaN."""
    short = replace(toy.examples()[0], codes=np.ones((length, 1), np.int32))
    network.requires_grad_(True)
    result = family.loss(network, family.batch(network, [short, toy.examples()[1]]))
    assert result.labels == length + 1 + len(toy.examples()[1].codes) + 1
    selfcheck.usable(result, "here")
    alone = family.loss(network, family.batch(network, [short]))
    selfcheck.usable(alone, "here")
    alone.total.backward()
    assert network.speech_head.weight.grad[1].abs().max() > 0


def test_defect_the_first_decision_is_trained(family, network):
    """GK's data have no start token: after its shift nothing ever predicts the first code."""
    rows = toy.examples()
    batch = family.batch(network, rows)
    for row, speech, labels in zip(rows, batch["speech"], batch["speech_labels"], strict=True):
        assert speech[1] == toy.CONFIG.start_speech_token and labels[1] == row.codes[0, 0]


def test_defect_training_reads_the_start_twice_as_generation_does(family, network):
    """Upstream's generation appends a second start, also at position 0, and its trainers don't."""
    row = toy.examples()[1]
    embeds, _ = network.embed(family.batch(network, [row]), everyone(1))
    speech = embeds[0, -2 - len(row.codes) :]
    start = network.speech_emb.weight[toy.CONFIG.start_speech_token] + network.speech_pos_emb.emb.weight[0]
    first = network.speech_emb.weight[row.codes[0, 0]] + network.speech_pos_emb.emb.weight[1]
    torch.testing.assert_close(speech[:3], torch.stack([start, start, first]))


def test_defect_a_prompt_is_not_filled_up_with_a_real_code(family, network):
    """ST fills it up to 150 with code 0, which is a sound like any other."""
    batch = family.batch(network, [toy.examples()[1], replace(toy.examples()[2], prompt=np.ones((PROMPT, 1), np.int32))])
    assert batch["prompt"].shape[1] == PROMPT and batch["prompt_length"].tolist() == [3, PROMPT]
    alone = family.batch(network, [toy.examples()[1]])
    voices = [network.embed(one, everyone(len(one["text"])))[0][0, : 2 + toy.CONFIG.perceiver_queries] for one in (batch, alone)]
    torch.testing.assert_close(*voices, atol=1e-5, rtol=0)
    filled = replace(toy.examples()[1], prompt=np.pad(toy.examples()[1].prompt, ((0, PROMPT - 3), (0, 0))))
    other = network.embed(family.batch(network, [filled]), everyone(1))[0][0, : 2 + toy.CONFIG.perceiver_queries]
    assert (other - voices[1]).abs().max() > 1e-2


def test_defect_guidance_of_zero_works_and_costs_no_second_row(family, network):
    """Upstream's start embedding always has two rows: `cfg_weight=0` raises."""
    rows = []
    network.speech_head.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    family.generate(network, toy.TEXTS, toy.voice(), FREE, SEEDS, [3, 3, 3])
    assert set(rows) == {3}
    rows.clear()
    family.generate(network, toy.TEXTS, toy.voice(), GUIDED, SEEDS, [3, 3, 3])
    assert set(rows) == {6}


def test_defect_generation_leaves_no_alias_in_the_state(family, network, folder, tmp_path):
    """Upstream's `patched_model` doubles every tensor, and safetensors refuses shared storage."""
    family.generate(network, toy.TEXTS, toy.voice(), GUIDED, SEEDS, [3, 3, 3])
    family.save(network, tmp_path)
    assert toy_cosyvoice.contents(tmp_path) == toy_cosyvoice.contents(folder)


def test_defect_no_cap_of_a_thousand_tokens(family):
    """Upstream stops at 1,000 tokens, 40 s, in the middle of a word. The network's own room is the only bound."""
    network = toy.network(llama=toy.CONFIG.llama | {"num_hidden_layers": 1})
    with torch.no_grad():
        network.speech_head.weight[toy.CONFIG.stop_speech_token] = 0
    greedy = Sampling(temperature=0.0)
    (take,) = family.generate(network, toy.TEXTS[:1], toy.voice(), greedy, [1], [5000])
    assert len(take.codes) == toy.CONFIG.max_speech_tokens and take.finish == "length"


def test_defect_training_reads_text_as_generation_does(family, network):
    """The punctuation rules are part of upstream's generation alone."""
    rough, clean = (replace(toy.examples()[1], text=text) for text in ("press  one:two", "Press one,two."))
    assert family.batch(network, [rough])["text"].tolist() == family.batch(network, [clean])["text"].tolist()


def test_defect_validation_draws_no_coin(family, network):
    """A fork drops a fifth of the conditioning at random, whenever it loads an utterance."""
    losses = set()
    for seed in range(4):
        torch.manual_seed(seed)
        losses.add(loss(family, network, toy.examples()))
    assert len(losses) == 1
