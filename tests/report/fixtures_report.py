"""A small project as the stages leave it, for the tests of the report: seven families with real, short speech."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import yaml

from stages.report import __main__ as report

REPOSITORY = Path(__file__).parents[2]
RATE = 16000
PROMPTS = {
    "test-3": ("5s", "held-out", "Your call is important to us, so please hold the line while we find somebody."),
    "general-1": ("5s", "general", "The quick brown fox jumps over the lazy dog near the river bank."),
    "test-7": (
        "15s",
        "held-out",
        "Thank you for calling. If you know your party's extension, you may dial it at any time. For sales, press one. "
        "For support, press two. To hear these choices again, stay on the line.",
    ),
    "test-9": (
        "30s",
        "held-out",
        "Welcome to the conference bridge. You are currently the only person in this conference. Please enter the "
        "number of the conference you wish to join, followed by the pound key. If you do not know the "
        "number, please wait and an operator will assist you as soon as one becomes available. Your estimated hold "
        "time is seven minutes.",
    ),
}
CONFIRMING = {  # fresh texts, for the base and the finalists
    "test-4": ("5s", "held-out", "All of our agents are busy right now, so please stay on the line and we will be with you."),
    "numbers-2-5s": ("5s", "general", "Your order number is seven four one nine, and the total is sixty two dollars."),
    "mix-15s-2": (
        "15s",
        "held-out",
        "Please hold the line while we find somebody. For support, press two. To hear these choices again, stay on the line. "
        "Thank you for calling. You may dial the extension at any time.",
    ),
    "test-10": (
        "30s",
        "held-out",
        "You have reached a number that is not in service at this time. If you feel that you have reached this recording in "
        "error, please check the number and try your call again, or hang up and dial zero for the operator. If you know your "
        "party's extension, you may dial it now. Otherwise please wait, and somebody will be with you soon.",
    ),
}
TIERS = ("5s", "15s", "30s")
RECORDED = ("test-3", "test-4", "test-7")
# How many words the takes of a candidate lose from their text, by tier.
LOST: dict[str, dict[str, dict[str, int]]] = {
    "cosyvoice2": {"base": {"5s": 2, "15s": 6, "30s": 14}},
    "cosyvoice3": {
        "base": {"5s": 3, "15s": 8, "30s": 16},
        "epoch-02": {"5s": 1, "15s": 3, "30s": 6},
        "epoch-04": {"5s": 0, "15s": 0, "30s": 1},
        "epoch-04@0.5": {"5s": 0, "15s": 1, "30s": 2},
        "epoch-06": {"5s": 0, "15s": 4, "30s": 5},
    },
    "fish_s2": {
        "base": {"5s": 2, "15s": 9, "30s": 20},
        "epoch-02": {"5s": 0, "15s": 1, "30s": 11},
        "epoch-04": {"5s": 0, "15s": 1, "30s": 8},
    },
    "qwen3_tts": {"base": {"5s": 3, "15s": 9, "30s": 18}, "epoch-02": {"5s": 0, "15s": 1, "30s": 2}},
    # two that do not speak
    "chatterbox": {"base": {"5s": 11, "15s": 26, "30s": 50}, "epoch-02": {"5s": 10, "15s": 24, "30s": 48}},
    "indextts2": {"base": {"5s": 11, "15s": 27, "30s": 52}, "epoch-02": {"5s": 9, "15s": 22, "30s": 44}},
    "voxtral": {"base": {"5s": 2, "15s": 8, "30s": 15}, "epoch-02": {"5s": 1, "15s": 3, "30s": 5}},
}
LOST_ONCE = {("qwen3_tts", "epoch-02", "test-4"): 4}  # ... and what one take loses, so that its length is undecided
FINALISTS = {
    "cosyvoice2": [], "cosyvoice3": ["epoch-04", "epoch-04@0.5"], "fish_s2": ["epoch-02", "epoch-04"],
    "qwen3_tts": ["epoch-02"], "chatterbox": ["epoch-02"], "indextts2": ["epoch-02"], "voxtral": ["epoch-02"],
}  # fmt: skip
PROMOTED = dict.fromkeys(LOST) | {"cosyvoice3": "epoch-04"}
ALLOWED = 2  # lost words that a take may have and still pass
ASKED = {"rate": 0.5, "false_pass": 0.05, "false_fail": 0.05, "batch": 4, "budget": 16}
LOUD = {"base": 0.6, "epoch-02": 0.1}  # the second is too quiet for the others to come down to it
SPEECH = 3.0  # words per second of the recordings


def build(root: Path, hostile: str = "") -> Path:
    """Write the project to `root`. `hostile` is put into the transcript and the reasons of one take."""
    settings = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    settings |= {"profile": "tiny", "models": list(LOST), "intended_use": "research"}
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    for family in LOST:
        weights = settings[family]["tiny"]["weights"]
        origin = "A small base trained by this repository, not the released model."
        write(root / weights / "config.json", {"origin": origin})
        _family(root, family, weights, hostile if family == "cosyvoice3" else "")
    return root


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _family(root: Path, family: str, weights: str, hostile: str) -> None:
    data, order = root / "data" / family, list(LOST[family])
    epochs = sorted({_epoch(name) for name in order[1:]})
    base = 4.8 if family == "fish_s2" else 3.1
    train = {
        "family": family, "mode": "lora", "settings": {"mode": "lora", "rank": 16, "alpha": 32.0, "parts": ["llm", "flow"] if family == "cosyvoice3" else ["llm"]},
        "lr": 1e-3 if epochs else None, "epochs": epochs, "weights": weights, "base_sha256": "0" * 64,
        "labels_per_epoch": 31000, "parameters": 3_712_000, "trainable_parameters": 148_000 if epochs else 0,
        "base_validation": {"total": base, "parts": {"speech": base}},
    }  # fmt: skip
    write(data / "checkpoints/train.json", train)
    _lines(data / "checkpoints/history.jsonl", _history(base, max(epochs, default=0)))
    takes = [_take(data / "gate", family, name, prompt, hostile) for name in order for prompt in PROMPTS]
    takes += [_take(data / "gate", family, name, prompt, "") for name in ["base", *FINALISTS[family]] for prompt in CONFIRMING]
    _lines(data / "gate/rows.jsonl", takes)
    promoted = PROMOTED[family]
    why = f"{promoted} is the earliest that passes all three tiers." if promoted else "None passes all three tiers."
    write(data / "gate/verdict.json", {
        "family": family, "promoted": promoted, "why": why, "tiers": TIERS, "order": order, "asked": ASKED,
        "candidates": {name: _candidate(takes, name, name in ["base", *FINALISTS[family]]) for name in order},
    })  # fmt: skip
    recordings = [_recording(data / "gate", prompt) for prompt in RECORDED]
    recordings.append({**recordings[0], "prompt": "test-8", "wav": "audio/recording/not-a-prompt.flac"})
    write(data / "gate/floor.json", {"rows": recordings, "tolerances": {tier: {"rate": SPEECH} for tier in TIERS}})
    shutil.copytree(data / "gate/audio/recording", data / "gate/audio/codec", dirs_exist_ok=True)
    codec = [{**one, "wav": f"audio/codec/{one['prompt']}.flac", "dnsmos": 2.5} for one in recordings[:-1]]
    tuned = [{**one, "checkpoint": "codec-epoch-04", "word_error_rate": 0.25} for one in codec] if family == "cosyvoice3" else []
    write(data / "gate/codec.json", {"rows": codec, "tuned": tuned})
    if family == "cosyvoice3":  # whose decoder was trained too, and hears a reference
        shutil.copytree(data / "gate/audio/codec", data / "gate/audio/codec-epoch-04", dirs_exist_ok=True)
        write(data / "tokens/voice.json", {"speaker": "ann", "speaker_embedding": [], "prompts": [{"id": "clip-7", "text": PROMPTS["test-3"][2], "codes": [[1]]}]})
        sf.write(data / "tokens/reference.wav", _voiced("Your call is important to us", "rms"), RATE, subtype="FLOAT")
    for stage, seconds in (("resample", 6.1), ("tokenise", 41.0), ("train", 312.4), ("gate", 95.0)):
        cost = {"stage": stage, "family": family, "seconds": seconds, "peak_mib": 812}
        write(root / f"reports/metrics/{stage}-{family}.json", cost)


def _history(base: float, epochs: int) -> list[dict[str, Any]]:
    def loss(share: float, epoch: int) -> dict[str, Any]:
        return {"total": round(base * (share + (1 - share) * math.exp(-epoch / 2)), 4), "parts": {}}

    start = {"epoch": 0, "step": 0, "validation": {"total": base, "parts": {}}, "lr": 0.0}
    rows = [
        {"epoch": epoch, "step": 25 * epoch, "train": loss(0.5, epoch), "validation": loss(0.6, epoch), "lr": 1e-3}
        for epoch in range(1, epochs + 1)
    ]
    return [start, *rows]


def _epoch(candidate: str) -> int:
    return 0 if candidate == "base" else int(candidate[6:8])


def _take(gate: Path, family: str, checkpoint: str, prompt: str, hostile: str) -> dict[str, Any]:
    tier, kind, text = (PROMPTS | CONFIRMING)[prompt]
    epoch = _epoch(checkpoint)
    row: dict[str, Any] = {
        "family": family, "checkpoint": checkpoint, "epoch": epoch, "scale": _scale(checkpoint), "tier": tier, "prompt": prompt,
        "kind": kind, "seed": 11, "text": text, "dnsmos": None, "phase": "screen" if prompt in PROMPTS else "confirm",
    }  # fmt: skip
    if (family, checkpoint, tier) == ("fish_s2", "base", "30s"):
        return row | _failed(text)
    lost = LOST_ONCE.get((family, checkpoint, prompt), LOST[family][checkpoint][tier])
    hostile = hostile if (checkpoint, prompt) == ("base", "test-3") else ""
    words = _words(text, lost, hostile)
    transcript = " ".join(heard for _, _, heard in words if heard)
    wav = f"audio/{checkpoint}/{prompt}-11.flac"
    seconds = _speak(gate / wav, transcript)
    dropped = [wanted for operation, wanted, _ in words if operation == "dropped" and wanted]
    reasons = [f"dropped {lost} words: {' '.join(dropped[:6])}", *([hostile] if hostile else [])]
    wrong = [operation for operation, _, _ in words if operation != "ok"]
    return row | {
        "wav": wav, "seconds": seconds, "frames": round(25 * seconds), "finish": "stop", "error": None,
        "transcript": transcript, "words": words, "errors": {"dropped": lost, "longest_run": lost},
        "word_error_rate": round(len(wrong) / len(text.split()), 4), "rate": round(SPEECH * (1 + 0.05 * epoch), 3), "leading_silence": 0.1,
        "trailing_silence": 0.2, "similarity": round(0.62 + 0.03 * epoch, 3), "passed": lost <= ALLOWED,
        "reasons": reasons if lost > ALLOWED else [],
    }  # fmt: skip


def _failed(text: str) -> dict[str, Any]:
    """A row of which nothing came."""
    words = text.split()
    error = "generation failed: no stop token and no audio"
    fields = ("wav", "seconds", "frames", "transcript", "rate", "leading_silence", "trailing_silence", "similarity")
    return dict.fromkeys(fields) | {
        "finish": "failed", "error": error, "words": [["dropped", word, None] for word in words],
        "errors": {"dropped": len(words), "longest_run": len(words)}, "word_error_rate": 1.0, "passed": False,
        "reasons": [f"failed: {error}"],
    }  # fmt: skip


def _words(text: str, lost: int, hostile: str) -> list[tuple[str, str | None, str | None]]:
    """An alignment that lacks `lost` words in the middle; where a take fails, one of each other error stands in it."""
    words = text.lower().replace(",", "").replace(".", "").split()
    start = max(1, (len(words) - lost) // 2)
    aligned: list[tuple[str, str | None, str | None]] = [("ok", word, word) for word in words]
    aligned[start : start + lost] = [("dropped", word, None) for word in words[start : start + lost]]
    if lost > ALLOWED:
        aligned[0] = ("substituted", words[0], "hear")
        aligned.insert(2, ("inserted", None, hostile or "well"))
        aligned.insert(4, ("repeated", aligned[3][1], aligned[3][1]))
        aligned[-2:] = [("merged", f"{words[-2]} {words[-1]}", f"{words[-2][:3]}{words[-1][-3:]}")]
    return aligned


def _scale(candidate: str) -> float | None:
    return None if candidate == "base" else float(candidate.partition("@")[2] or 1.0)


def _candidate(takes: list[dict[str, Any]], name: str, finalist: bool) -> dict[str, Any]:
    def figures(phase: str) -> dict[str, Any]:
        chosen = [take for take in takes if (take["checkpoint"], take["phase"]) == (name, phase)]
        return _score(chosen) | {"tiers": {tier: _tier([one for one in chosen if one["tier"] == tier], phase) for tier in TIERS}}

    return {
        "checkpoint": name.partition("@")[0], "epoch": _epoch(name), "scale": _scale(name), "screened": figures("screen"),
        "confirmed": figures("confirm") if finalist else None,
    }  # fmt: skip


def _tier(chosen: list[dict[str, Any]], phase: str) -> dict[str, Any]:
    """Verdicts as if these few takes proved them; two that differ decide nothing."""
    passed, takes = sum(take["passed"] for take in chosen), len(chosen)
    reasons = [f"{take['prompt']}: {reason}" for take in chosen for reason in take["reasons"]]
    verdict = "passes" if passed == takes else "fails" if not passed else "undecided"
    found = {"takes": takes, "passed_takes": passed, "reasons": reasons}
    return found if phase == "screen" else found | {"verdict": verdict, "needed": 24 if verdict == "undecided" else None}


def _score(takes: list[dict[str, Any]]) -> dict[str, Any]:
    rate = float(np.mean([take["word_error_rate"] for take in takes]))
    known = [take["similarity"] for take in takes if take["similarity"] is not None]
    near = round(float(np.mean(known)), 4)
    return {"word_error_rate": round(rate, 4), "ci": [round(0.7 * rate, 4), round(1.3 * rate + 0.01, 4)],
            "similarity": near, "similarity_ci": [near - 0.02, near + 0.02], "similarity_margin": 0.02,
            "dnsmos": 2.25}  # fmt: skip


def _recording(gate: Path, prompt: str) -> dict[str, Any]:
    tier, kind, text = (PROMPTS | CONFIRMING)[prompt]
    wav = f"audio/recording/{prompt}.flac"
    seconds = _speak(gate / wav, text, voice="rms")
    return {
        "checkpoint": "recording", "prompt": prompt, "tier": tier, "kind": kind, "text": text, "wav": wav,
        "seconds": seconds, "transcript": text, "words": [["ok", word, word] for word in text.split()],
        "word_error_rate": 0.0, "rate": 2.9, "similarity": 0.91, "dnsmos": None, "passed": True, "reasons": [],
    }  # fmt: skip


def _speak(path: Path, text: str, voice: str = "slt") -> float:
    """Write the first words of `text` as speech (all would slow the tests down); returns how long all would take."""
    letters = "".join(letter for letter in text if letter.isalnum() or letter == " ").split()
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = np.tile(_voiced(" ".join(letters[:4]), voice), 1 if path.stem.startswith("test-7") else 3)
    sf.write(path, LOUD.get(path.parent.name, 1.0) * audio, RATE, format="FLAC")
    return round(0.31 * len(letters), 2)


@functools.cache
def _voiced(text: str, voice: str) -> np.ndarray:
    """flite's voice; where flite is not installed, a tone of about the length that the words would take."""
    if not shutil.which("flite"):
        times = np.arange(int(RATE * 0.35 * len(text.split()))) / RATE
        return (0.2 * np.sin(2 * np.pi * 220 * times)).astype(np.float32)
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", file.name], check=True)
        return sf.read(file.name, dtype="float32")[0]


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def build_pages(root: Path, hostile: str) -> Path:
    """`build`, and then every page of it, by the stage's own entry point. Returns `root`."""
    build(root, hostile)
    with contextlib.chdir(root):
        for family in LOST:
            report.main(["--model", family])
        report.main([])
    return root


def add_system(root: Path, name: str) -> None:
    """A system from elsewhere in the project: two checkpoints that speak like two of cosyvoice3's; and its pages."""
    gate, order = root / "data" / name / "gate", ["epoch-02", "epoch-04"]
    shutil.copytree(root / "data/cosyvoice3/gate", gate)
    rows = [json.loads(line) for line in (gate / "rows.jsonl").read_text().splitlines()]
    _lines(gate / "rows.jsonl", [row | {"family": name, "scale": None} for row in rows if row["checkpoint"] in order])
    verdict = read(gate / "verdict.json")
    candidates = {one: verdict["candidates"][one] | {"epoch": number, "scale": None} for number, one in enumerate(order, 1)}
    write(gate / "verdict.json", verdict | {"family": name, "order": order, "candidates": candidates})
    write(gate / "codec.json", {"rows": []})
    write(root / f"reports/metrics/gate-{name}.json", {"stage": "gate", "family": name, "seconds": 12.0, "peak_mib": 600})
    settings = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(settings | {"external": [name]}))
    with contextlib.chdir(root):
        report.main(["--model", name])
        report.main([])
