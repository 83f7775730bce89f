"""The least that a family of values must fill in: a recurrent network reads letters and draws how loud and how bright each
frame is, by flow matching. As tests/toy_family, but for its codec without codebooks.

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
from models.parts.sampling import generators, logprob, normals
from models.parts.takes import Takes
from models.parts.text import load_tokenizer, text_ids
from models.parts.value_score import TIME, score_noise, value_score
from models.parts.weights import check_facts, load_network, read_config, save_base, sha256_of
from models.small.phones import phone_tokenizer

RATE, FRAME, VALUES = 16000, 800, 2
IGNORED, GOES_ON, ENDS = -100, 0, 1


class HumCodec(Codec):
    """Loudness (in 20 dB) and zero crossings (in thousands a second), and a hum that is as loud and as high."""

    output_sample_rate = RATE

    def __init__(self, folder: Path):
        self.contract = Contract("hum", sha256_of(folder / "config.json"), RATE, RATE / FRAME, VALUES, ())

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        frames = [np.pad(wave, (0, -len(wave) % FRAME)).reshape(-1, FRAME) for wave in waves]
        loudness = [0.5 * np.log10((frame**2).mean(1) + 1e-6) for frame in frames]
        brightness = [(np.diff(np.signbit(frame), axis=1).sum(1) * RATE / FRAME / 1000) for frame in frames]
        return [np.stack(both, 1).astype(np.float32) for both in zip(loudness, brightness, strict=True)]

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        return np.zeros(0, np.float32)

    def decode(self, codes: Sequence[np.ndarray], voice: Voice) -> list[np.ndarray]:
        waves = []
        for frames in codes:
            loudness, brightness = np.repeat(frames, FRAME, 0).T
            angle = np.cumsum(2 * np.pi * 500 * np.clip(brightness, 0, 16) / RATE)
            waves.append((10 ** np.minimum(loudness, 0) * np.sin(angle)).astype(np.float32))
        return waves


class Network(nn.Module):
    def __init__(self, config: dict[str, Any], tokenizer: Tokenizer):
        super().__init__()
        self.config, self.tokenizer, width = config, tokenizer, config["width"]
        self.embedding = nn.Embedding(1 + tokenizer.get_vocab_size(), width)  # the first one starts
        self.frame = nn.Linear(VALUES, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.stop = nn.Linear(width, 2)
        self.hidden, self.head = nn.Linear(width + VALUES + 1, width), nn.Linear(width, VALUES)

    def prompt(self, text: str) -> list[int]:
        return [*(1 + letter for letter in text_ids(self.tokenizer, text, ())), 0]

    def embed(self, tokens: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Tokens (B, L), -1 where there is a frame, and values (B, L, VALUES) to what is read, (B, L, width)."""
        return torch.where((tokens < 0)[..., None], self.frame(values), self.embedding(tokens.clamp(min=0)))

    def velocity(self, x: torch.Tensor, time: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Values (N, VALUES) on their way from noise, at time 0, to data, at 1, and states (N, width) to their velocity."""
        return self.head(torch.tanh(self.hidden(torch.cat([x, time[:, None], state], 1))))

    def decided(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Every decision of generation: logits (M, 2) and whether an utterance ends there (M,); of the frames that follow,
        the states (N, width) that they are drawn from, and their values (N, VALUES)."""
        states, _ = self.gru(self.embed(batch["tokens"], batch["values"]))
        decides, follows = batch["labels"] != IGNORED, batch["labels"] == GOES_ON
        return self.stop(states[decides]), batch["labels"][decides], states[follows], batch["targets"][follows]

    def scores(self, states: torch.Tensor, values: torch.Tensor, steps: Sequence[int]) -> torch.Tensor:
        noise = score_noise(steps, (VALUES,))
        at = torch.full((len(noise),), TIME)
        return value_score(self.velocity(TIME * (noise + values), at, states), values - noise)


class Toy(PeftFamily):
    name = "toy"
    decisions = ("stop", "values")

    # --- data -----------------------------------------------------------------------------------------------------
    def codec(self, weights: Path) -> HumCodec:
        return HumCodec(weights / "codec")

    def write(self, examples: Sequence[Example], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        rows = [[one.id, one.text, one.speaker, one.codes.tolist()] for one in examples]
        (folder / "rows.json").write_text(json.dumps(rows))

    def read(self, folder: Path) -> list[Example]:
        path = folder / "rows.json"
        if not path.is_file():
            raise UserError(f"{path}: not there; run the tokenise stage")
        rows = json.loads(path.read_text())
        return [Example(id, text, speaker, np.array(codes, np.float32)) for id, text, speaker, codes in rows]

    # --- network --------------------------------------------------------------------------------------------------
    def network(
        self, weights: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Network:
        config, tokenizer = read_config(weights / "config.json"), load_tokenizer(weights / "tokenizer.json")
        return load_network(lambda: Network(config, tokenizer), weights / "model.safetensors", dtype, device)

    def create(self, config: dict[str, Any], seed: int) -> Network:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network(config, phone_tokenizer([]))
        network.stop.bias.data.copy_(torch.tensor([3.0, -3.0]))  # it says something before it has learnt anything
        return network

    def save(self, network: Network, folder: Path) -> None:  # type: ignore[override]
        save_base(folder, network.state_dict(), network.config, network.tokenizer)

    def batch(self, network: Network, examples: Sequence[Example]) -> dict[str, torch.Tensor]:  # type: ignore[override]
        for example in examples:
            example.check((), VALUES)
        return _batch(network, examples)

    def blank(self, network: Network, text: str, frames: int) -> Example:  # type: ignore[override]
        return Example("", text, "", np.zeros((frames, VALUES), np.float32))

    def loss(self, network: Network, batch: dict[str, torch.Tensor]) -> Loss:  # type: ignore[override]
        """In eval mode times and noise are the same in every call, so that checkpoints compare."""
        logits, ends, states, values = network.decided(batch)
        stop = F.cross_entropy(logits.float(), ends)
        noise = torch.randn_like(values) if network.training else score_noise(range(len(values)), (VALUES,))
        time = torch.rand(len(values)) if network.training else torch.full((len(values),), TIME)
        at = noise + time[:, None] * (values - noise)
        flow = F.mse_loss(network.velocity(at, time, states), values - noise)
        return Loss(stop + flow, {"stop": stop.item(), "flow": flow.item()}, len(ends))

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self, network: Network, texts: Sequence[str], voice: Voice, sampling: Sampling, seeds: Sequence[int],
        max_frames: Sequence[int],
    ) -> list[Generation]:
        takes = []
        for text, seed, limit in zip(texts, seeds, max_frames, strict=True):
            tokens, state, source, take = torch.tensor([network.prompt(text)]), None, generators([seed]), Takes([limit], VALUES, values=True)
            values = torch.zeros(1, tokens.shape[1], VALUES)
            for step in range(limit + 1):
                hidden, state = network.gru(network.embed(tokens, values), state)
                logits, frame = network.stop(hidden[:, -1]), normals(source, VALUES)
                ends = logits.argmax(-1)
                for euler in range(sampling.euler_steps):
                    time = torch.full((1,), euler / sampling.euler_steps)
                    frame = frame + network.velocity(frame, time, hidden[:, -1]) / sampling.euler_steps
                scores = network.scores(hidden[:, -1], frame, [step])
                take.add(frame, torch.stack([logprob(logits, ends), scores], 1), ends == ENDS)
                if not take.rows:
                    break
                tokens, values = torch.tensor([[-1]]), frame[:, None]
            takes += take.generations()
        return takes

    @torch.no_grad()
    def decision_logprobs(self, network: Network, text: str, voice: Voice, generation: Generation) -> np.ndarray:  # type: ignore[override]
        logits, ends, states, values = network.decided(_batch(network, [Example("", text, "", generation.codes)]))
        stops, scores = logprob(logits, ends), network.scores(states, values, range(len(values)))
        both = torch.cat([torch.stack([stops[:-1], scores], 1).flatten(), stops[-1:]]).numpy()
        return both[: len(generation.logprobs)]

    def check_shapes(self, network: Network, contract: Contract) -> None:  # type: ignore[override]
        check_facts(self.name, [(contract.codebooks == VALUES, VALUES, f"values a frame, the codec {contract.codebooks}")])


FAMILY = Toy


def _batch(network: Network, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    tokens, values, labels, targets = [], [], [], []
    for example in examples:
        prompt, frames = network.prompt(example.text), torch.from_numpy(example.codes)
        tokens.append(torch.tensor(prompt + [-1] * len(frames)))
        values.append(F.pad(frames, (0, 0, len(prompt), 0)))
        # The one and only shift: the start decides the first frame, the last frame the end.
        labels.append(torch.tensor([IGNORED] * (len(prompt) - 1) + [GOES_ON] * len(frames) + [ENDS]))
        targets.append(F.pad(frames, (0, 0, len(prompt) - 1, 1)))
    return {
        "tokens": nn.utils.rnn.pad_sequence(tokens, batch_first=True),
        "values": nn.utils.rnn.pad_sequence(values, batch_first=True),
        "labels": nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        "targets": nn.utils.rnn.pad_sequence(targets, batch_first=True),
    }
