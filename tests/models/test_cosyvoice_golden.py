"""Released CosyVoice 2 and 3 against upstream's own code on weights by formula: language model, sampler, tokenizer, text front end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.cosyvoice2.network import RELEASED as RELEASED_2
from models.cosyvoice3.network import RELEASED as RELEASED_3
from models.parts.family import Sampling
from models.parts.sampling import draw_unrepeated
from models.parts.speech_lm import WHOLE, Prompt, SpeechLM, _padded, speak
from models.released import formula
from models.released.cosyvoice import front_end, tokenizer
from tests.golden_fixtures import GOLDEN, golden

KEYS = {2: GOLDEN / "cosyvoice/keys/CosyVoice2-0.5B", 3: GOLDEN / "cosyvoice/keys/Fun-CosyVoice3-0.5B-2512"}
RELEASED: dict[int, dict[str, Any]] = {2: RELEASED_2, 3: RELEASED_3}
UPSTREAMS = Sampling(temperature=1.0, top_k=25, top_p=0.8)


# --- the language model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_released_names_and_shapes_are_ours(version: int) -> None:
    keys = json.loads((KEYS[version] / "llm.pt.json").read_text())["keys"]
    with torch.device("meta"):
        network = SpeechLM(RELEASED[version])
        network.load_state_dict({name: torch.empty(shape) for name, (shape, _) in keys.items()}, strict=True)


def by_formula(version: int) -> tuple[SpeechLM, Any]:
    what, arrays = golden(f"cosyvoice/lm_v{version}")
    network = SpeechLM({"version": version, "speech_token_size": 6561, "llm": what["config"]["llm"]})
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == what["keys"]
    formula.fill(network)
    return network.eval().requires_grad_(False), arrays


@pytest.mark.parametrize("version", [2, 3])
def test_what_each_position_is_to_decide_is_upstreams(version: int) -> None:
    network, arrays = by_formula(version)
    rows = []
    for row in range(2):
        instruct = arrays["instruct"][row].tolist() if version == 3 else []
        text, codes = arrays["text"][row, : arrays["text_len"][row]], arrays["speech"][row, : arrays["speech_len"][row]]
        rows.append((Prompt(instruct + text.tolist()), codes[:, None]))
    batch = _padded(network, rows)
    labels = batch["labels"]
    np.testing.assert_array_equal(labels.clamp(min=-1), arrays["unistream/target"])
    hidden = network.trunk(inputs_embeds=network.embed(batch["text"], batch["lengths"], batch["speech"])).last_hidden_state
    logits = network.llm_decoder(hidden)
    np.testing.assert_allclose(logits[0, arrays["unistream/logits_of_row_0_at"]], arrays["unistream/logits_of_row_0"], atol=1e-4)
    scores = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    scored = labels >= 0
    np.testing.assert_allclose(scores[scored], arrays["unistream/label_logprobs"][scored.numpy()], atol=1e-4)
    assert -scores[scored].mean().item() == pytest.approx(arrays["unistream/loss"].item(), abs=1e-4)


@pytest.mark.parametrize("version", [2, 3])
def test_greedy_codes_are_upstreams_alone_and_in_a_batch(version: int) -> None:
    """Version 2 cloning a reference, too. Version 3's reference ends where a special id comes that is no code and not the end."""
    network, arrays = by_formula(version)
    text, before = arrays["gen/text"].tolist(), arrays["gen/prompt_text"].tolist()
    if version == 2:
        heard = arrays["gen/prompt_speech"].astype(np.int64)
        prompts = {"zero_shot": Prompt(before + text, heard, 10), "cross_lingual": Prompt(text, least=10), "instruct2": Prompt(before + text, least=10)}
    else:
        prompts = {"cross_lingual": Prompt(before[:4] + text, least=18), "instruct2": Prompt(before[:4] + text, least=10)}
    together = speak(network, [*prompts.values()], Sampling(temperature=0), [1] * len(prompts), [30] * len(prompts))
    for take, (mode, prompt) in zip(together, prompts.items(), strict=True):
        wanted = arrays[f"gen/{mode}/codes"]
        (alone,) = speak(network, [prompt], Sampling(temperature=0), [1], [30])
        for found in (take, alone):
            np.testing.assert_array_equal(found.codes[: len(wanted), 0], wanted, err_msg=mode)


@pytest.mark.parametrize("version", [2, 3])
def test_no_take_ends_before_its_text_can_be_said(version: int) -> None:
    """Upstream's version 3 forbids another id than its end: a take may stop at once there."""
    network, _ = by_formula(version)
    network.llm_decoder.bias = torch.nn.Parameter(torch.zeros(network.llm_decoder.out_features), requires_grad=False)
    network.llm_decoder.bias[network.end] = 1000.0  # it would end wherever it may
    takes = speak(network, [Prompt([5, 6, 7], least=least) for least in (2, 6)], Sampling(temperature=0), [1, 1], [9, 9])
    assert [(len(take.codes), take.finish) for take in takes] == [(2, "stop"), (6, "stop")]


# --- the sampler --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", range(4))
def test_what_may_be_drawn_and_how_often_is_upstreams(case: int) -> None:
    what, arrays = golden("cosyvoice/sampling")
    logits, decoded = torch.from_numpy(arrays[f"{case}/logits"]), torch.from_numpy(arrays[f"{case}/decoded"]).long()
    nobody = torch.full((1, 1), -1)
    grid = torch.linspace(0, 1, 4001)[:-1]

    def drawn(recent: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return draw_unrepeated(logits.expand(len(numbers), -1), numbers, UPSTREAMS, recent.expand(len(numbers), -1), WHOLE, leave_out=True)

    first = drawn(nobody, torch.stack([grid, grid], 1)).bincount(minlength=len(logits)) / len(grid)
    kept, weights = arrays[f"{case}/kept"], arrays[f"{case}/weights"]
    assert set(first.nonzero()[:, 0].tolist()) <= set(kept.tolist())
    np.testing.assert_allclose(first[kept], weights / weights.sum(), atol=5e-4)
    likeliest = torch.zeros(1)  # the first draw takes the likeliest
    again = drawn(decoded[None, -10:], torch.stack([likeliest.expand(len(grid)), grid], 1))
    if what["cases"][case]["resampled"]:
        shares = again.bincount(minlength=len(logits)) / len(grid)
        assert int(logits.argmax()) not in again
        np.testing.assert_allclose(shares, arrays[f"{case}/second"] / arrays[f"{case}/second"].sum(), atol=5e-4)
    else:
        assert set(again.tolist()) == {int(logits.argmax())}


# --- text ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The released tokenizer's files, cut to these sentences; what is left out has a name of its own, so that ids follow on as many."""
    folder = tmp_path_factory.mktemp("tokenizer")
    blank = folder / tokenizer.FOLDER
    blank.mkdir()
    for file in (GOLDEN / "cosyvoice/tokenizer").iterdir():
        (blank / file.name).write_bytes(file.read_bytes())
    known = json.loads((blank / "vocab.json").read_text(encoding="utf-8"))
    missing = set(range(max(known.values()) + 1)) - set(known.values())
    (blank / "vocab.json").write_text(json.dumps(known | {f"<unused {index}>": index for index in missing}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("version", [2, 3])
def test_ids_and_pieces_are_upstreams(weights: Path, version: int) -> None:
    what, arrays = golden("cosyvoice/text")
    made = tokenizer.load(weights, version)

    def ids(text: str) -> list[int]:
        return list(made.encode(text, add_special_tokens=False).ids)

    assert made.get_vocab_size() == what["tokenizer_length"][f"v{version}"]
    assert {token: made.token_to_id(token) for token in what["added_tokens"][f"v{version}"]} == what["added_tokens"][f"v{version}"]
    for number, sentence in enumerate(what["sentences"]):
        assert ids(sentence) == arrays[f"v{version}/{number}"].tolist(), sentence
        pieces = front_end.pieces(sentence, lambda text: len(ids(text)))
        assert pieces == what["pieces"][f"v3/{number}"]
        for place, piece in enumerate(pieces):
            assert ids(piece) == arrays[f"v{version}/{number}/{place}"].tolist(), piece


@pytest.mark.parametrize("text", ["", " ", "…", "?!", "。", ":;", "“”"])
def test_a_text_of_marks_alone_has_no_pieces(text: str) -> None:
    assert front_end.pieces(text, len) == []


def test_long_texts_are_cut_at_sentences_and_short_ends_joined() -> None:
    """In words for tokens: pieces of at most 80 where 60 are held, none under 20 at the end."""
    sentence = "One two three four five six seven eight nine ten. "
    cut = front_end.pieces(sentence * 17, lambda text: len(text.split()))
    assert "".join(cut) == (sentence * 17).strip() and [len(piece.split()) for piece in cut] == [80, 90]
    assert front_end.pieces('He said "stop." Then', len) == ['He said "stop." Then.']
