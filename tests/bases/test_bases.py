"""`python -m stages.bases` on a recipe of a few steps: what it makes can be loaded, and being killed changes nothing."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import models
from models.parts.family import Sampling, Voice
from models.small.flow import Flow, FlowConfig
from stages.bases import __main__ as bases
from stages.bases import loop, natural
from stages.bases.codec import Utterance, decoder_loss, give_alike_frames
from stages.bases.kokoro import SAMPLE_RATE, Reading, Word
from stages.bases.network import ALPHABET, phones_at
from stages.bases.sentences import stream
from stages.bases.voices import PITCH, phone_labels, read_aloud
from stages.bases.voices import SAMPLE_RATE as FLITE_RATE
from stages.common.shards import Shards
from stages.gate.audio import resampled
from tests.toy_cosyvoice import ROOT, contents


class Natural:
    """Stands where Kokoro does, whose packages need a network: two of flite's voices, and one that nobody is to hear."""

    FLITE = {"am_one": "awb", "bf_two": "slt"}
    LETTERS = {name: letter for letter, name in natural.PHONES.items()} | {"er": "ɜ"}

    def voices(self) -> list[str]:
        return ["af_heart", *self.FLITE]

    def words(self, text: str, voice: str) -> list[Word]:
        return [Word(text, "")]

    def read(self, words: list[Word], voice: str) -> Reading:
        (word,) = words
        audio, phones = read_aloud(word.text, self.FLITE[voice], 1.0, PITCH[self.FLITE[voice]])
        said = [(self.LETTERS[name], round(end * SAMPLE_RATE)) for name, end in phones if name != "pau"]
        edges = (round(phones[0][1] * SAMPLE_RATE), *(end for _, end in said))
        return Reading(resampled(audio, FLITE_RATE, SAMPLE_RATE), (Word(word.text, "".join(letter for letter, _ in said), edges),))


REAL = ["the dog and the cat", "a flawed diamond", "he reads the paper in the morning", "walk on"]

pytestmark = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed (apt-get install flite)")


@pytest.fixture(params=["cosyvoice3", "fish_s2", "chatterbox", "voxtral", "qwen3_tts", "indextts2", "voxcpm"])
def recipe(request, tmp_path, monkeypatch):
    """A folder with the family's recipe, cut down to a few dozen sentences and a few steps."""
    monkeypatch.chdir(tmp_path)
    name = request.param
    values = yaml.safe_load((ROOT / f"models/{name}/tiny/recipe.yaml").read_text())
    values["voices"] = {"sentences": 40, "seed": 3}  # each voice has more than one of them, as IndexTTS2's pairs need
    values["train"] |= {"steps": 4, "validation": 5}
    if name in ("fish_s2", "indextts2", "voxcpm"):
        monkeypatch.setattr(natural, "Kokoro", Natural)
        values["voices"]["natural"], values["train"]["natural_from"] = 40, 0.5
    if books := values["codec"]["config"].get("codebooks"):
        values["codec"] |= {"people": None, "aligned_clips": 40, "decoder_steps": 4}
        values["codec"]["config"] |= {"codebooks": [16, *(8 for _ in books[1:])], "pca": 8}
    if name == "fish_s2":
        values["network"] |= {"semantic_entries": 16, "codebook_size": 16}
    elif name == "voxtral":
        values["network"] |= {"semantic_codebook_size": 16, "acoustic_codebook_size": 8}
    elif name == "qwen3_tts":
        values["network"]["talker_config"]["codes"] = 16
        values["network"]["talker_config"]["code_predictor_config"]["vocab_size"] = 8
    elif name == "indextts2":
        values["codec"] |= {"latents_clips": 30, "latents_steps": 4}
        values["network"] |= {"codes": 16, "condition_width": 8}
    elif name != "voxcpm":
        values["network"]["speech_token_size"] = 16
    folder = Path(f"models/{name}/tiny")
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return name, folder


def test_a_base_speaks_and_being_killed_changes_nothing(recipe, monkeypatch):
    name, folder = recipe
    bases.main(["--model", name])
    family = models.load(name)
    network, codec = family.network(folder), family.codec(folder)
    family.check_shapes(network, codec.contract)
    voice = Voice("x", codec.speaker_embedding(0.1 * np.sin(np.arange(codec.contract.sample_rate) / 20).astype(np.float32)))
    takes = family.generate(network, ["Hello."] * 8, voice, Sampling(), range(8), [10] * 8)
    take = next(take for take in takes if len(take.codes))  # after four steps some say nothing
    (wave,) = codec.render([take], voice)
    assert np.isfinite(wave).all() and len(wave) == pytest.approx(len(take.codes) / codec.contract.token_rate * codec.output_sample_rate, rel=0.01)
    whole = contents(folder)

    shutil.rmtree(f".scratch/bases/{name}")
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    honest, steps = torch.optim.AdamW.step, itertools.count()

    def power_cut(self, *arguments, **options):
        if next(steps) == (2 if name == "voxcpm" else 6):  # two steps into the network; values need no decoder
            raise KeyboardInterrupt
        return honest(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", power_cut)
    with pytest.raises(KeyboardInterrupt):
        bases.main(["--model", name])
    monkeypatch.setattr(torch.optim.AdamW, "step", honest)
    bases.main(["--model", name])
    again = contents(folder)
    assert {k: v for k, v in again.items() if k != "figures.json"} == {k: v for k, v in whole.items() if k != "figures.json"}


def test_natural_voices_begin_alike_and_some_are_never_heard(tmp_path, monkeypatch):
    monkeypatch.setattr(natural, "Kokoro", Natural)
    few, more = (natural.read_naturally(tmp_path / str(count), [*itertools.islice(stream(3, REAL), count)], 3) for count in (10, 20))
    assert more[:10] == few
    assert {row["speaker"] for row in more} == {*Natural.FLITE}
    assert [clip.id for clip in Shards(tmp_path / "20")] == [row["id"] for row in more]
    for row, clip in zip(more, Shards(tmp_path / "20"), strict=True):
        assert clip.sample_rate == 16000 and len(clip.audio) / 16000 == row["seconds"] == pytest.approx(row["phones"][-1][1])


def test_sentences_are_seeded_and_new():
    first, again, other = (list(itertools.islice(stream(seed, REAL), 300)) for seed in (1, 1, 2))
    assert first == again != other
    long = [text for text in first if len(text.split()) > 1]
    assert len(set(long)) == len(long)


def test_a_frame_is_labelled_with_its_phone_and_the_nearer_neighbour():
    phones = [("pau", 0.2), ("n", 0.3), ("ow", 0.7), ("pau", 0.9)]
    assert phone_labels(phones, np.array([0.05, 0.15, 0.22, 0.28, 0.4, 0.6, 0.95])) == [
        ("", "pau"), ("pau", "n"), ("pau", "n"), ("n", "ow"), ("n", "ow"), ("ow", "pau"), ("pau", ""),
    ]  # fmt: skip


def test_the_phone_of_a_moment_is_the_one_being_said():
    phones = [("pau", 0.2), ("n", 0.3), ("ow", 0.7), ("pau", 0.9)]
    said = phones_at(phones, np.array([0.05, 0.19, 0.21, 0.29, 0.31, 0.69, 0.71, 5.0]))
    assert [ALPHABET[place] for place in said] == ["pau", "pau", "n", "n", "ow", "ow", "pau", "pau"]


def test_guessed_residual_codes_are_of_the_same_voice_and_semantic_code():
    generator = torch.Generator().manual_seed(1)
    voices = {f"{voice}-{clip}": voice for voice in ("rms", "slt") for clip in range(3)}
    said = {}
    for index, clip_id in enumerate(voices):
        codes = torch.randint(0, 4, (30, 3), generator=generator)
        codes[:, 1] = codes[:, 0] + 4 * (voices[clip_id] == "slt")  # tells voice and semantic code
        codes[:, 2] = 30 * index + torch.arange(30)  # tells the frame
        said[clip_id] = Utterance(codes.short(), torch.zeros(0), torch.zeros(0))
    give_alike_frames(said, voices, 3)
    for one in said.values():
        assert one.alike is not None
        assert torch.equal(one.alike[:, :2], one.codes[:, :2])
        assert (one.alike[:, 2] != one.codes[:, 2]).float().mean() > 0.5


def test_a_decoder_hears_frames_that_are_alike_beside_its_own(monkeypatch):
    flow = Flow(FlowConfig(codebooks=(4, 4), patch=1, width=16, layers=1, heads=2, speaker=False, steps=1))
    own, alike = torch.zeros(50, 2).short(), torch.ones(50, 2).short()
    utterance = Utterance(own, torch.zeros(50, 80), torch.zeros(160), alike=alike)
    heard = []
    monkeypatch.setattr(flow, "loss", lambda frames, codes, *rest: heard.append(codes.float().mean((1, 2))) or codes.sum())
    torch.manual_seed(0)
    decoder_loss(flow, [[utterance]], 50, random.Random(0))
    assert heard[0].min() < 0.2 and heard[0].max() > 0.8  # from hardly any to nearly all of a crop's frames
