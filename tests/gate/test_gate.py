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
from stages.common.params import load_params
from stages.common.shards import Clip, write_shards
from stages.common.tokens import write_voice
from stages.gate.judging import judge_file
from stages.gate.prompts import Prompt, prompts, recordings
from stages.gate.verdict import TIERS
from tests.demo_speech import RATE, joined, speech, text_of

ROOT = Path(__file__).parents[2]
TEST = (
    "agent-newlocation", "privacy-prompt", "conf-placeintoconf", "dir-nomatch", "feature-not-avail-line", "vm-newpassword",
    "vm-msgforwarded", "queue-thankyou", "pm-invalid-option", "vm-nobodyavail", "pls-hold-while-try", "conf-onlyone",
    "vm-invalidpassword", "vm-review-urgent",
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
    write_json(folder / "stats.json", {"words_per_second": 2.6, "chars_per_second": 14.0})
    return rows


class Repository:
    """The stages, one talking family, and what the stages before the gate would have left."""

    def __init__(self, root: Path):
        self.root = root
        shutil.copytree(ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("parts", "small"):
            shutil.copytree(ROOT / "models" / part, root / "models" / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "models/__init__.py", root / "models")
        rows = write_corpus(root / "data/corpus")
        self.prompts = {prompt.tier: prompt for prompt in prompts(rows, 2.6, 1)}
        *_, self.lost, self.broken = self.prompts["30s"].clips
        self._write_family()
        checkpoints = root / "data/talker/checkpoints"
        for epoch, lost in ((2, self.lost), (4, None)):
            (checkpoints / f"epoch-{epoch:02d}").mkdir(parents=True)
            state = {"lost": torch.tensor(self.order.index(lost) if lost else -1)}
            save_file(state, checkpoints / f"epoch-{epoch:02d}/adapter.safetensors")
        settings = {"mode": "lora", "rank": 1, "alpha": 1.0, "dropout": 0.0, "targets": ["memory"]}
        write_json(checkpoints / "train.json", {"settings": settings, "epochs": [2, 4]})
        write_voice(root / "data/talker/tokens", Voice("allison", np.zeros(0, np.float32)))

    def _write_family(self) -> None:
        family = self.root / "models/talker"
        (family / "tiny").mkdir(parents=True)
        shutil.copy(ROOT / "tests/talker.py", family / "__init__.py")
        (family / "card.yaml").write_text("token_rate: 1\nlicence: {weights: {name: MIT, commercial: true}}\n")
        self.order = [self.broken, *(name for name in TEST if name != self.broken)]  # the base cannot read the first
        write_json(family / "tiny/texts.json", [speech(name)[0].rstrip(".") + "." for name in self.order])
        for index, name in enumerate(self.order):
            sf.write(family / f"tiny/{index}.flac", speech(name)[1], RATE)
        settings = yaml.safe_load((ROOT / "params.yaml").read_text())
        shared = {key: settings[key] for key in ("profile", "lr", "seed", "intended_use", "corpus", "gate", "report")}
        shared["gate"] |= {"prompts": 1}
        sampling = {"temperature": 1.0, "top_k": 1, "top_p": 1.0, "max_ratio": 2.0}
        block = {"weights": "models/talker/tiny", "train": {"mode": "lora", "epochs": 0}, "sampling": sampling, "scale": 0.5}
        (self.root / "params.yaml").write_text(yaml.safe_dump(shared | {"models": ["talker"], "talker": {"tiny": block}}))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "stages.gate", *arguments]
        return subprocess.Popen(command, cwd=self.root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def gate(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate()
        return process.returncode, out, err

    @property
    def out(self) -> Path:
        return self.root / "data/talker/gate"

    def hashes(self) -> dict[str, str]:
        return {str(path.relative_to(self.out)): sha256(path) for path in sorted(self.out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A gate that was killed (SIGKILL) once its first checkpoint was done, and then run again to its end."""
    repository = Repository(tmp_path_factory.mktemp("gate"))
    process = repository.start("--model", "talker")
    while process.poll() is None and not list(repository.root.glob(".scratch/gate/talker/*/base")):
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.communicate()
    assert not repository.out.exists()
    code, out, err = repository.gate("--model", "talker")
    assert code == 0, err
    return repository


def rows(repository: Repository, checkpoint: str) -> dict[str, dict[str, Any]]:
    return {row["tier"]: row for row in read_jsonl(repository.out / "rows.jsonl") if row["checkpoint"] == checkpoint}


def test_a_checkpoint_that_loses_words_fails_and_they_are_named(killed: Repository) -> None:
    lossy, faithful = rows(killed, "epoch-02")["30s"], rows(killed, "epoch-04")["30s"]
    words = speech(killed.lost)[0].lower().rstrip(".").replace(",", "").split()
    assert not lossy["passed"]
    assert f"dropped {len(words)} words: {' '.join(words)}" in lossy["reasons"][0]
    assert (faithful["passed"], faithful["reasons"]) == (True, [])


def test_the_faithful_checkpoint_is_promoted_and_the_lossy_one_is_not(killed: Repository) -> None:
    verdict = read_json(killed.out / "verdict.json")
    assert verdict["promoted"] == "epoch-04"
    assert verdict["order"] == ["base", "epoch-02", "epoch-04"]
    assert {tier: one["passed"] for tier, one in verdict["tiers"]["epoch-04"].items()} == dict.fromkeys(TIERS, True)
    assert not verdict["tiers"]["epoch-02"]["30s"]["passed"]
    assert read_json(killed.root / "reports/metrics/gate-talker.json")["promoted"] == "epoch-04"


def test_a_text_that_cannot_be_read_is_a_row_and_its_neighbours_are_read(killed: Repository) -> None:
    failed = rows(killed, "base")["30s"]
    assert (failed["finish"], failed["wav"], failed["transcript"], failed["passed"]) == ("failed", None, None, False)
    assert failed["reasons"] == ["failed: RuntimeError: lost for words"]
    assert {op for op, _, _ in failed["words"]} == {"dropped"}
    assert rows(killed, "base")["5s"]["passed"]


def test_every_row_has_its_audio_and_its_held_out_prompt_a_recording(killed: Repository) -> None:
    through_codec = read_json(killed.out / "codec.json")["rows"]
    assert {row["prompt"] for row in through_codec} == {prompt.id for prompt in killed.prompts.values()}
    for row in [*read_jsonl(killed.out / "rows.jsonl"), *read_json(killed.out / "floor.json")["rows"], *through_codec]:
        if row["wav"]:
            assert sf.info(killed.out / row["wav"]).duration == pytest.approx(row["seconds"], abs=0.01)
    recorded = {row["prompt"]: row for row in read_json(killed.out / "floor.json")["rows"]}
    for prompt in killed.prompts.values():
        assert recorded[prompt.id]["text"] == prompt.text
        assert recorded[prompt.id]["passed"]


def test_a_killed_run_ends_with_the_bytes_of_an_uninterrupted_one(killed: Repository) -> None:
    resumed = killed.hashes()
    shutil.rmtree(killed.out)
    code, _, err = killed.gate("--model", "talker")
    assert code == 0, err
    assert killed.hashes() == resumed


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
    code, out, err = killed.gate("--judge", str(write_takes(tmp_path)))
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["reasons"] for row in rows if not row["system"] and not row["passed"]] == []
    assert [row["text"] for row in rows[5:]] == [speech(name)[0] for name in TEST]
    clean, lossy, stutter, silent, stereo = rows[:5]
    assert (clean["passed"], clean["tier"]) == (True, "15s")
    assert (stereo["passed"], stereo["tier"], stereo["system"]) == (True, "5s", "it's \"far\" away")
    assert (lossy["passed"], lossy["reasons"]) == (False, ["dropped 5 words: thank you for your patience"])
    assert (stutter["passed"], stutter["reasons"]) == (False, ["repeated 5 words: thank you for your patience"])
    assert (silent["passed"], silent["reasons"][-1]) == (False, "unheard: the listener made out no words")


def test_judge_without_a_corpus_says_so_and_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sf.write(tmp_path / "take.wav", speech("privacy-prompt")[1], RATE)
    write_jsonl(tmp_path / "takes.jsonl", [{"text": speech("privacy-prompt")[0], "wav": "take.wav"}])
    judge_file(tmp_path / "takes.jsonl", load_params(ROOT / "params.yaml").gate, tmp_path / "corpus")
    out, err = capsys.readouterr()
    assert json.loads(out)["passed"]
    assert err.startswith(f"{tmp_path / 'corpus'}: not there")


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
        judge_file(tmp_path / "takes.jsonl", load_params(ROOT / "params.yaml").gate, tmp_path)
    assert told.format(folder=tmp_path) in str(raised.value)
    assert capsys.readouterr().out == ""


# --- the fixed prompts ------------------------------------------------------------------------------------------------


def test_prompts_fit_their_tiers_and_need_no_clip_twice(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path)
    chosen = prompts(manifest, 2.6, 4)
    assert chosen == prompts(manifest[::-1], 2.6, 4)
    assert len({prompt.id for prompt in chosen}) == len({prompt.text for prompt in chosen}) == 12
    for tier, seconds in TIERS.items():
        takes: list[Prompt] = recordings(manifest, tier)
        used = [clip for prompt in takes for clip in prompt.clips]
        assert len(used) == len(set(used))
        assert set(used) <= set(TEST)
        for prompt in (prompt for prompt in chosen if prompt.tier == tier):
            words = len(prompt.text.split())
            assert 0.8 * seconds * 2.6 <= words <= 1.6 * seconds * 2.6, prompt.id
