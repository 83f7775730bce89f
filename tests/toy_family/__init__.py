"""The least that a family must fill in: a recurrent network reads letters and writes how loud each frame is.

test_add_a_family.py copies this folder to models/toy, and every stage runs on it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F

from models.parts.errors import UserError
from models.parts.family import Codec, Contract, Example, Generation, Loss, Sampling, Voice
from models.parts.peft_lora import PeftFamily
from models.parts.sampling import draw, generators, logprob, uniforms
from models.parts.takes import Takes
from models.parts.text import load_tokenizer, text_ids
from models.parts.weights import check_facts, load_network, read_config, save_base, sha256_of
from models.small.phones import phone_tokenizer

RATE, FRAME, LEVELS = 16000, 800, 16
END = START = LEVELS  # what is decided after the last frame, and what is read before the first
IGNORED = -100


class LoudnessCodec(Codec):
    """Steps of 4 dB in, a hum of 200 Hz out."""

    output_sample_rate = RATE

    def __init__(self, folder: Path):
        self.contract = Contract("loudness", sha256_of(folder / "config.json"), RATE, RATE / FRAME, 1, (LEVELS,))

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        frames = [np.pad(wave, (0, -len(wave) % FRAME)).reshape(-1, FRAME) for wave in waves]
        decibels = [10 * np.log10((frame**2).mean(1) + 1e-6) for frame in frames]
        return [np.clip((level + 60) / 4, 0, LEVELS - 1).astype(np.int32)[:, None] for level in decibels]

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        return np.zeros(0, np.float32)

    def decode(self, codes: Sequence[np.ndarray], voice: Voice) -> list[np.ndarray]:
        loudness = [np.repeat(10 ** ((4 * one[:, 0] - 60) / 20), FRAME) for one in codes]
        return [(one * np.sin(2 * np.pi * 200 / RATE * np.arange(len(one)))).astype(np.float32) for one in loudness]


class Network(nn.Module):
    def __init__(self, config: dict[str, Any], tokenizer: Tokenizer):
        super().__init__()
        self.config, self.tokenizer, width = config, tokenizer, config["width"]
        self.embedding = nn.Embedding(LEVELS + 1 + tokenizer.get_vocab_size(), width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, LEVELS + 1)

    def prompt(self, text: str) -> list[int]:
        return [*(LEVELS + 1 + letter for letter in text_ids(self.tokenizer, text, ())), START]

    def decided(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (M, LEVELS + 1) of every decision, and what they should choose (M,)."""
        hidden, _ = self.gru(self.embedding(batch["tokens"]))
        labelled = batch["labels"] != IGNORED
        return self.head(hidden[labelled]), batch["labels"][labelled]


class Toy(PeftFamily):
    name = "toy"

    # --- data -----------------------------------------------------------------------------------------------------
    def codec(self, weights: Path) -> LoudnessCodec:
        return LoudnessCodec(weights / "codec")

    def write(self, examples: Sequence[Example], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        rows = [[one.id, one.text, one.speaker, one.codes.tolist()] for one in examples]
        (folder / "rows.json").write_text(json.dumps(rows))

    def read(self, folder: Path) -> list[Example]:
        path = folder / "rows.json"
        if not path.is_file():
            raise UserError(f"{path}: not there; run the tokenise stage")
        rows = json.loads(path.read_text())
        return [Example(id, text, speaker, np.array(codes, np.int32)) for id, text, speaker, codes in rows]

    # --- network --------------------------------------------------------------------------------------------------
    def network(
        self, weights: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Network:
        config, tokenizer = read_config(weights / "config.json"), load_tokenizer(weights / "tokenizer.json")
        return load_network(lambda: Network(config, tokenizer), weights / "model.safetensors", dtype, device)

    def create(self, config: dict[str, Any], seed: int) -> Network:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Network(config, phone_tokenizer([]))

    def save(self, network: Network, folder: Path) -> None:  # type: ignore[override]
        save_base(folder, network.state_dict(), network.config, network.tokenizer)

    def batch(self, network: Network, examples: Sequence[Example]) -> dict[str, torch.Tensor]:  # type: ignore[override]
        for example in examples:
            example.check([LEVELS])
        return _batch(network, examples)

    def loss(self, network: Network, batch: dict[str, torch.Tensor]) -> Loss:  # type: ignore[override]
        logits, choices = network.decided(batch)
        total = F.cross_entropy(logits.float(), choices)
        return Loss(total, {"loudness": total.item()}, len(choices))

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self, network: Network, texts: Sequence[str], voice: Voice, sampling: Sampling, seeds: Sequence[int],
        max_frames: Sequence[int],
    ) -> list[Generation]:
        takes = []
        for text, seed, limit in zip(texts, seeds, max_frames, strict=True):
            tokens, state, source, take = torch.tensor([network.prompt(text)]), None, generators([seed]), Takes([limit], 1)
            while take.rows:
                hidden, state = network.gru(network.embedding(tokens), state)
                logits = network.head(hidden[:, -1])
                code = draw(logits, uniforms(source, 1)[:, 0], sampling)
                take.add(code[:, None], logprob(logits, code)[:, None], code == END)
                tokens = code[:, None]
            takes += take.generations()
        return takes

    @torch.no_grad()
    def decision_logprobs(self, network: Network, text: str, voice: Voice, generation: Generation) -> np.ndarray:  # type: ignore[override]
        decided: np.ndarray = logprob(*network.decided(_batch(network, [Example("", text, "", generation.codes)]))).numpy()
        return decided[: len(generation.logprobs)]

    def check_shapes(self, network: Network, contract: Contract) -> None:  # type: ignore[override]
        check_facts(self.name, [(contract.vocabulary == (LEVELS,), LEVELS, f"levels, the codec {contract.vocabulary}")])


FAMILY = Toy


def _batch(network: Network, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    tokens, labels = [], []
    for example in examples:
        prompt, codes = network.prompt(example.text), example.codes[:, 0].tolist()
        tokens.append(torch.tensor(prompt + codes))
        # The one and only shift: the start decides the first frame, the last frame the end.
        labels.append(torch.tensor([IGNORED] * (len(prompt) - 1) + codes + [END]))
    return {
        "tokens": nn.utils.rnn.pad_sequence(tokens, batch_first=True),
        "labels": nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }
