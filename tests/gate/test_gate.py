"""The gate, by its real command: a checkpoint that loses words fails by name, a killed run ends like any other.

The speech is real (tests/demo_speech.py); the family that speaks it is tests/talker.py.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
import yaml
from safetensors.torch import save_file

from models.parts.errors import UserError
from models.parts.family import Voice
from stages.common.files import read_json, read_jsonl, sha256, write_json, write_jsonl
from stages.common.params import read_params
from stages.common.shards import Clip, write_shards
from stages.common.tokens import write_voice
from stages.gate.judging import judge_file
from stages.gate.listener import weights
from stages.gate.prompts import TIERS, WHOLE, bank, recordings
from stages.gate.spoken import spoken
from tests.demo_speech import RATE, joined, speech, text_of

ROOT = Path(__file__).parents[2]
TEST = (
    "agent-newlocation", "privacy-prompt", "conf-placeintoconf", "dir-nomatch", "feature-not-avail-line", "vm-newpassword",
    "vm-msgforwarded", "queue-thankyou", "conf-waitforleader", "vm-nobodyavail", "pls-hold-while-try", "conf-onlyone",
    "dir-nomore", "vm-review-urgent",
)  # fmt: skip
TRAIN = ("conf-getconfno", "number-not-answering")


def write_corpus(folder: Path) -> list[dict[str, Any]]:
    """A corpus of a few demo clips, as the corpus stage writes it."""
    rows, clips = [], []
    for split, names in (("test", TEST), ("train", TRAIN)):
        for name in names:
            text, audio = speech(name)
            rows.append({"id": name, "text": text, "split": split, "seconds": len(audio) / RATE})
            clips.append(Clip(name, RATE, audio))
    write_shards(folder, clips)
    write_jsonl(folder / "manifest.jsonl", rows)
    write_json(folder / "stats.json", {"words_per_second": 2.6, "chars_per_second": 14.0, "language": "en"})
    return rows


class Repository:
    """The stages, one talking family, and what the stages before the gate would have left.

    `checkpoints`: by epoch what they do, as tests/talker.py says; the clip that is lost is the last of the first long text.
    """

    def __init__(self, root: Path, checkpoints: dict[int, dict[str, float]], parts: tuple[str, ...] = ("llm",)):
        self.root = root
        shutil.copytree(ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("parts", "small"):
            shutil.copytree(ROOT / "models" / part, root / "models" / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "models/__init__.py", root / "models")
        # General texts that the family knows: the clips that are one sentence, begun at other places.
        known = [name for name in TEST if ". " not in speech(name)[0]]
        turns = [" ".join(f"{speech(name)[0].rstrip('.')}." for name in known[turn:] + known[:turn]) for turn in range(0, len(known), 3)]
        (root / "stages/gate/texts/en.txt").write_text("".join(f"prose: {text}\n" for text in turns))
        self.rows = write_corpus(root / "data/corpus")
        self.broken, *_, self.lost = recordings(self.rows, "30s")[0].clips
        self.order = [self.broken, *(name for name in TEST if name != self.broken)]  # the base cannot read the first
        self._write_family()
        folder = root / "data/talker/checkpoints"
        for epoch, what in checkpoints.items():
            (folder / f"epoch-{epoch:02d}").mkdir(parents=True)
            state = {"lost": -1, "strong": -1, "most": 99, "volume": 1.0} | what
            save_file({name: torch.tensor(value) for name, value in state.items()}, folder / f"epoch-{epoch:02d}/adapter.safetensors")
        settings = {"mode": "lora", "rank": 1, "alpha": 1.0, "dropout": 0.0, "targets": ["memory"], "parts": parts}
        write_json(folder / "train.json", {"settings": settings, "epochs": [*checkpoints]})
        write_voice(root / "data/talker/tokens", Voice("allison", np.zeros(0, np.float32)))
        write_json(root / "data/talker/weights.json", {"sha256": "0"})

    def _write_family(self) -> None:
        family = self.root / "models/talker"
        (family / "tiny").mkdir(parents=True)
        shutil.copy(ROOT / "tests/talker.py", family / "__init__.py")
        (family / "card.yaml").write_text("token_rate: 1\nlicence: {weights: {name: MIT, commercial: true}}\n")
        write_json(family / "tiny/texts.json", [speech(name)[0].rstrip(".") + "." for name in self.order])
        for index, name in enumerate(self.order):
            sf.write(family / f"tiny/{index}.flac", speech(name)[1], RATE)
        settings = yaml.safe_load((ROOT / "params.yaml").read_text())
        shared = {key: settings[key] for key in ("profile", "external", "takes", "lr", "seed", "intended_use", "corpus", "gate", "report")}
        shared["gate"] |= {"screen": 1, "batch": 1, "budget": 2, "false_pass": 0.3, "false_fail": 0.3}
        shared["gate"]["reading"] = {"tiny": {"segment_words": 12, "long_whole": True}}
        sampling = {"temperature": 1.0, "top_k": 1, "top_p": 1.0, "max_ratio": 2.0}
        block = {"weights": "models/talker/tiny", "train": {"mode": "lora", "epochs": 0}, "sampling": sampling, "scales": [0.5, 1.0]}
        self.write_params(shared | {"models": ["talker"], "talker": {"tiny": block}})

    def write_params(self, params: dict[str, Any]) -> None:
        self.params = params
        (self.root / "params.yaml").write_text(yaml.safe_dump(params))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "stages.gate", *arguments]
        return subprocess.Popen(command, cwd=self.root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def gate(self, *arguments: str) -> str:
        process = self.start(*arguments)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return out

    @property
    def out(self) -> Path:
        return self.root / "data/talker/gate"

    @property
    def verdict(self) -> dict[str, Any]:
        verdict: dict[str, Any] = read_json(self.out / "verdict.json")
        return verdict

    def taken(self) -> dict[str, str]:
        """Every take and everything heard so far, by hash; what a killed process was still writing is not there yet."""
        batches = sorted((self.root / ".scratch/takes").glob("[!.]*"))
        return {str(path): sha256(path) for batch in batches for path in sorted(batch.rglob("[!.]*.*")) if path.is_file()}

    def hashes(self) -> dict[str, str]:
        return {str(path.relative_to(self.out)): sha256(path) for path in sorted(self.out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A gate that was killed (SIGKILL) once a checkpoint had spoken, and then run again to its end.

    The first checkpoint loses a phrase, the second reads everything, unless its adapter is merged at twice the scale. Their
    decoder was trained too: the second's is half as loud.
    """
    repository = Repository(tmp_path_factory.mktemp("gate"), {2: {"lost": 13}, 4: {"strong": 13, "volume": 0.5}}, ("llm", "flow"))
    process = repository.start("--model", "talker")
    while process.poll() is None and not any('"frames"' in path.read_text() for path in repository.root.glob(".scratch/takes/[!.]*/heard-*.jsonl")):
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.communicate()
    assert not repository.out.exists()
    kept = repository.taken()
    repository.gate("--model", "talker")
    assert kept.items() <= repository.taken().items()
    return repository


def rows(repository: Repository, **wanted: object) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(repository.out / "rows.jsonl") if wanted.items() <= row.items()]


def test_a_checkpoint_that_loses_words_fails_and_they_are_named(killed: Repository) -> None:
    words = spoken(speech(killed.order[13])[0])
    lossy = [row for row in rows(killed, checkpoint="epoch-02") if speech(killed.order[13])[0].rstrip(".") in row["text"]]
    assert lossy
    for row in lossy:
        assert not row["passed"]
        assert f"dropped {len(words)} words: {' '.join(words)}" in row["reasons"][0]
    assert all(row["passed"] for row in rows(killed, checkpoint="epoch-04"))


def test_the_faithful_checkpoint_is_promoted_at_the_scale_that_keeps_its_words(killed: Repository) -> None:
    verdict = killed.verdict
    assert verdict["promoted"] == "epoch-04"
    assert verdict["order"] == ["base", "epoch-02", "epoch-04", "epoch-04@1"]
    assert {tier["verdict"] for tier in verdict["candidates"]["epoch-04"]["confirmed"]["tiers"].values()} == {"passes"}
    assert verdict["candidates"]["epoch-02"]["confirmed"] is None
    assert verdict["candidates"]["epoch-04@1"]["screened"]["word_error_rate"] > 0
    metrics = read_json(killed.root / "reports/metrics/gate-talker.json")
    assert (metrics["promoted"], metrics["scale"]) == ("epoch-04", 0.5)


def test_the_takes_that_confirm_are_others_than_those_that_screened(killed: Repository) -> None:
    """... and the base reads the first of them too."""
    screened, confirmed = ({(row["prompt"], row["seed"]) for row in rows(killed, phase=phase)} for phase in ("screen", "confirm"))
    assert screened and confirmed and not screened & confirmed
    assert {row["checkpoint"] for row in rows(killed, phase="confirm")} == {"base", "epoch-04"}
    score = killed.verdict["candidates"]["epoch-04"]["confirmed"]
    assert sum(tier["takes"] for tier in score["tiers"].values()) == len(rows(killed, checkpoint="epoch-04", phase="confirm"))


def test_a_text_that_cannot_be_read_is_a_row_and_its_neighbours_are_read(killed: Repository) -> None:
    broken = speech(killed.broken)[0].rstrip(".") + "."
    failed = [row for row in rows(killed, checkpoint="base") if broken in row["text"]]
    assert failed
    for row in failed:
        assert (row["finish"], row["wav"], row["transcript"], row["passed"]) == ("failed", None, None, False)
        assert row["reasons"] == ["failed: RuntimeError: lost for words"]
        assert {op for op, _, _ in row["words"]} == {"dropped"}
    assert all(row["passed"] for row in rows(killed, checkpoint="base") if broken not in row["text"])


def test_every_row_has_its_audio_and_its_held_out_prompt_a_recording(killed: Repository) -> None:
    through_codec, floor = read_json(killed.out / "codec.json")["rows"], read_json(killed.out / "floor.json")["rows"]
    for row in [*rows(killed), *floor, *through_codec]:
        if row["wav"]:
            assert sf.info(killed.out / row["wav"]).duration == pytest.approx(row["seconds"], abs=0.01)
    recorded = {row["prompt"]: row for row in floor}
    spoken = {row["prompt"]: row["text"] for row in rows(killed) if row["prompt"] in recorded}
    assert {row["prompt"] for row in through_codec} == spoken.keys()
    assert spoken == {prompt: recorded[prompt]["text"] for prompt in spoken}
    assert all(recorded[prompt]["passed"] for prompt in spoken)


def test_what_the_codec_costs_is_told_of_the_decoder_that_a_finalist_was_trained_with_too(killed: Repository) -> None:
    def peaks(rows: list[dict[str, Any]]) -> dict[str, float]:
        return {row["prompt"]: float(np.abs(sf.read(killed.out / row["wav"])[0]).max()) for row in rows}

    codec = read_json(killed.out / "codec.json")
    assert {row["checkpoint"] for row in codec["rows"]} == {"codec"} and {row["checkpoint"] for row in codec["tuned"]} == {"codec-epoch-04"}
    frozen, tuned = peaks(codec["rows"]), peaks(codec["tuned"])
    assert tuned == pytest.approx({prompt: peak / 2 for prompt, peak in frozen.items()}, abs=1e-3)
    base, best = (peaks(rows(killed, checkpoint=name, phase="confirm", passed=True)) for name in ("base", "epoch-04"))
    assert {prompt: best[prompt] for prompt in base} == pytest.approx({prompt: peak / 2 for prompt, peak in base.items()}, abs=1e-3)  # its takes as well


def test_a_killed_run_ends_with_the_bytes_of_an_uninterrupted_one(killed: Repository) -> None:
    resumed = killed.hashes()
    shutil.rmtree(killed.out)
    shutil.rmtree(killed.root / ".scratch")
    killed.gate("--model", "talker")
    assert killed.hashes() == resumed


@pytest.mark.parametrize("cards", [1, 3])
def test_cards_share_the_takes_out_and_rows_and_verdict_are_the_same(killed: Repository, cards: int) -> None:
    """Here they compute on the processor, each in a process that begins anew. The rows before were made on two cores."""
    on_cores = killed.hashes()
    shutil.rmtree(killed.out)
    shutil.rmtree(killed.root / ".scratch")
    as_with = f"import runpy, torch; torch.cuda.device_count = lambda: {cards}; runpy.run_module('stages.gate', run_name='__main__', alter_sys=True)"
    subprocess.run([sys.executable, "-c", as_with, "--model", "talker"], cwd=killed.root, check=True, capture_output=True)
    assert killed.hashes() == on_cores


def test_another_tolerance_decides_anew_from_the_takes_that_are_there(killed: Repository) -> None:
    taken, settings = killed.taken(), killed.params
    lenient = settings | {"gate": settings["gate"] | {"extra_dropped": 99, "longest_run": 99}}
    try:
        killed.write_params(lenient)
        killed.gate("--model", "talker")
        assert all(row["passed"] for row in rows(killed, checkpoint="epoch-02", phase="screen"))
        assert taken.items() <= killed.taken().items()
        assert not [path for path in killed.taken().keys() - taken.keys() if "floor" in path]
    finally:
        killed.write_params(settings)
        killed.gate("--model", "talker")


def test_takes_on_which_a_second_listener_disagrees_are_named(killed: Repository, tmp_path: Path) -> None:
    """The same Whisper under another name agrees; where it is made to miss a phrase, its reasons stand beside the verdict."""
    shutil.copytree(weights(), tmp_path / "another")
    settings, published, taken = killed.params, killed.hashes(), killed.taken()
    killed.write_params(settings | {"gate": settings["gate"] | {"second_listener": str(tmp_path / "another")}})
    killed.gate("--model", "talker")
    assert killed.hashes() == published
    theirs = [Path(path) for path in killed.taken().keys() - taken.keys()]
    assert theirs and {path.name.partition("-")[0] for path in theirs} == {"heard"}  # nothing is spoken again

    take = rows(killed, checkpoint="epoch-04", phase="confirm", tier="30s")[0]
    for path in theirs:
        told = read_jsonl(path)
        for row in told:
            if row["wav"] == f"audio/{take['prompt']}-{take['seed']}.flac":
                row["transcript"] = " ".join(row["transcript"].split()[8:])
        write_jsonl(path, told)
    killed.gate("--model", "talker")
    killed.write_params(settings)
    (found,) = (row for row in rows(killed, checkpoint="epoch-04") if "second" in row)
    assert (found["prompt"], found["passed"], found["second"]["passed"]) == (take["prompt"], True, False)
    assert found["second"]["reasons"][0].startswith("dropped 8 words") and found["second"]["listener"] == str(tmp_path / "another")
    assert killed.verdict["promoted"] == "epoch-04"


def test_a_checkpoint_that_reads_well_in_segments_and_forgets_in_one_go_fails(tmp_path: Path) -> None:
    forgetful = Repository(tmp_path, {2: {"most": 8}})
    forgetful.gate("--model", "talker")
    tiers = forgetful.verdict["candidates"]["epoch-02"]["confirmed"]["tiers"]
    assert {tier: one["verdict"] for tier, one in tiers.items()} == {"5s": "passes", "15s": "passes", "30s": "passes", "30s-whole": "fails"}
    assert forgetful.verdict["promoted"] is None
    for row in rows(forgetful, checkpoint="epoch-02", tier="30s-whole"):
        last = spoken(row["text"])[-1]
        assert row["reasons"][0].startswith("dropped") and row["reasons"][0].endswith((last, " …"))


# --- audio from anywhere ----------------------------------------------------------------------------------------------

CLIPS = ("feature-not-avail-line", "queue-thankyou", "privacy-prompt")  # the middle one is "Thank you for your patience"


def write_takes(folder: Path) -> Path:
    """Takes of one text, good and bad, and every real test recording."""
    text, lines = text_of(*CLIPS), []
    for system, audio, tier in (
        ("clean", joined(*CLIPS), None),
        ("lossy", joined(CLIPS[0], CLIPS[2]), None),
        ("stutter", joined(CLIPS[0], CLIPS[1], CLIPS[1], CLIPS[2]), None),
        ("silent", np.zeros(8 * RATE, np.float32), None),
        ("it's \"far\" away", np.stack([joined(*CLIPS)] * 2, axis=1), "5s"),
    ):
        sf.write(folder / f"{system}.flac", audio, RATE)
        lines.append({"text": text, "wav": f"{system}.flac", "system": system, "tier": tier})
    for name in TEST:
        sf.write(folder / f"{name}.wav", speech(name)[1], RATE)
        lines.append({"text": speech(name)[0], "wav": str(folder / f"{name}.wav")})
    write_jsonl(folder / "takes.jsonl", lines)
    return folder / "takes.jsonl"


def test_judge_names_what_a_take_lost_and_passes_real_recordings(killed: Repository, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in killed.gate("--judge", str(write_takes(tmp_path))).splitlines()]
    assert [row["reasons"] for row in rows if not row["system"] and not row["passed"]] == []
    assert [row["text"] for row in rows[5:]] == [speech(name)[0] for name in TEST]
    clean, lossy, stutter, silent, stereo = rows[:5]
    assert (clean["passed"], clean["tier"]) == (True, "15s")
    assert (stereo["passed"], stereo["tier"], stereo["system"]) == (True, "5s", "it's \"far\" away")
    assert (lossy["passed"], lossy["reasons"]) == (False, ["dropped 5 words: thank you for your patience"])
    assert (stutter["passed"], stutter["reasons"]) == (False, ["repeated 5 words: thank you for your patience"])
    assert (silent["passed"], silent["reasons"][-1]) == (False, "unheard: the listener made out no words")


def test_judge_without_a_corpus_says_so_and_judges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sf.write(tmp_path / "take.wav", speech("privacy-prompt")[1], RATE)
    write_jsonl(tmp_path / "takes.jsonl", [{"text": speech("privacy-prompt")[0], "wav": "take.wav"}])
    judge_file(tmp_path / "takes.jsonl", read_params(ROOT / "params.yaml"))
    out, err = capsys.readouterr()
    assert json.loads(out)["passed"]
    assert err.startswith("data/corpus: not there")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"text": "hello", "wav": "gone.wav"}', "line 3: {folder}/gone.wav: no such file"),
        ('{"text": "hello", "wav": "text.wav"}', "line 3: {folder}/text.wav: text, not audio"),
        ('{"text": "hello", "wav": "empty.wav"}', "line 3: {folder}/empty.wav: an empty file"),
        ('{"text": "...", "wav": "good.wav"}', "line 3: the text holds no words"),
        ('{"wav": "good.wav"}', "line 3: text must be text; it is missing"),
        ('{"text": "hello", "wav": 7}', "line 3: wav must be text"),
        ('{"text": "hello", "wav": "good.wav", "tier": "9s"}', "line 3: tier '9s' is none of 5s, 15s, 30s"),
        ('{"text": "hello", "wave": "good.wav"}', "line 3: unknown field 'wave'"),
        ('{"text": "hello"', "line 3: not JSON"),
    ],
)
def test_a_bad_line_is_told_before_anything_is_heard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, told: str
) -> None:
    (tmp_path / "text.wav").write_text("I am a letter, not a sound.")
    (tmp_path / "empty.wav").touch()
    sf.write(tmp_path / "good.wav", speech("privacy-prompt")[1], RATE)
    (tmp_path / "takes.jsonl").write_text('{"text": "hello", "wav": "good.wav"}\n\n' + line + "\n")
    with pytest.raises(UserError) as raised:
        judge_file(tmp_path / "takes.jsonl", read_params(ROOT / "params.yaml"))
    assert told.format(folder=tmp_path) in str(raised.value)
    assert capsys.readouterr().out == ""


# --- the bank of texts ------------------------------------------------------------------------------------------------


def test_texts_fit_their_tiers_and_come_in_turn(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path)
    texts = bank(manifest, 2.6, "en", 11, whole=False)
    assert texts == bank(manifest[::-1], 2.6, "en", 11, whole=False)
    assert texts != bank(manifest, 2.6, "en", 12, whole=False)
    for tier, seconds in TIERS.items():
        found = texts[tier]
        assert len({prompt.id for prompt in found}) == len({prompt.text for prompt in found}) == len(found) >= 24
        held_out = [prompt for prompt in found if prompt.kind == "held-out"]
        assert held_out == found[: 2 * len(held_out) : 2]
        assert {clip for prompt in held_out for clip in prompt.clips} <= set(TEST)
        for prompt in found:
            words = len(spoken(prompt.text))
            most = 1.8 if (tier, prompt.kind) == ("5s", "general") else 1.6  # two whole sentences may be long for five seconds
            assert 0.8 * seconds * 2.6 <= words <= most * seconds * 2.6, prompt.id


def test_no_clip_stands_in_two_recordings(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path)
    for tier in TIERS:
        used = [clip for prompt in recordings(manifest, tier) for clip in prompt.clips]
        assert used and len(used) == len(set(used))


def test_the_long_texts_come_again_to_be_read_in_one_go(tmp_path: Path) -> None:
    texts = bank(write_corpus(tmp_path), 2.6, "en", 11, whole=True)
    assert [prompt.text for prompt in texts[WHOLE]] == [prompt.text for prompt in texts["30s"]]


def test_a_language_without_general_texts_has_the_held_out_ones(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path)
    assert {prompt.kind for some in bank(manifest, 2.6, "de", 11, whole=False).values() for prompt in some} == {"held-out"}
    train = [row | {"split": "train"} for row in manifest]
    with pytest.raises(UserError, match="^data/corpus: no text for the gate: no general ones in 'de'"):
        bank(train, 2.6, "de", 11, whole=False)
