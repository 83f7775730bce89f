"""Voxtral 4B TTS: Mistral writes a semantic code a frame, a flow-matching head its 36 acoustic values (paradigm A)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from models.parts.errors import UserError
from models.parts.evaluating import evaluating
from models.parts.family import Codec, Contract, Example, Generation, Loss, Sampling, Voice
from models.parts.peft_lora import PeftFamily
from models.parts.sampling import generators, logprob
from models.parts.takes import check_length
from models.small.phones import phone_tokenizer
from models.small.scalars import to_values
from models.voxtral import dataset, generation
from models.voxtral.config import FlowHeadConfig, VoxtralConfig
from models.voxtral.names import FILE
from models.voxtral.network import VoxtralNetwork
from models.voxtral.prompt import CONTROL, Layout

IGNORED = -100
WITHOUT_CONDITION = 0.1  # share of the frames that train the flow head without the hidden state (arXiv 2603.25551)


class Voxtral(PeftFamily):
    """LoRA targets: the trunk's layers by transformers' names (q_proj …), the flow head's by their own (wq … w3)."""

    name = "voxtral"
    decisions = ("semantic code", "acoustic values")

    # --- data -----------------------------------------------------------------------------------------------------
    def codec(self, weights: Path) -> Codec:
        """The released codec where the folder has one, else the tiny base's."""
        if not (weights / FILE).is_file():
            from models.voxtral.codec import VoxtralCodec

            return VoxtralCodec(weights / "codec")
        from models.voxtral.released.codec import ReleasedCodec

        return ReleasedCodec(weights)

    def check_release(self, weights: Path) -> None:
        from models.voxtral.released.check import check_release

        check_release(weights)

    def preset(self, weights: Path, name: str) -> Voice:
        from models.voxtral.released.voices import voice_files

        if not (weights / FILE).is_file():
            raise UserError(f"{weights}: not released weights, and these alone have voices of their own; set profile: full")
        if name not in (there := voice_files(weights)):
            raise UserError(f"voxtral: there is no voice {name!r}; there are {', '.join(there)}")
        return Voice(name, np.zeros(0, np.float32))

    def write(self, examples: Sequence[Example], folder: Path) -> None:
        dataset.write(examples, folder)

    def read(self, folder: Path) -> list[Example]:
        return dataset.read(folder)

    # --- network --------------------------------------------------------------------------------------------------
    def network(
        self, weights: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> VoxtralNetwork:
        return VoxtralNetwork.load(weights, dtype, device)

    def create(self, config: dict[str, Any], seed: int) -> VoxtralNetwork:
        tokenizer = phone_tokenizer(list(CONTROL))
        sizes = config | {"flow": FlowHeadConfig(**config["flow"]), "vocab_size": tokenizer.get_vocab_size()}
        return VoxtralNetwork.new(VoxtralConfig(**sizes), tokenizer, seed)

    def save(self, network: nn.Module, folder: Path) -> None:
        assert isinstance(network, VoxtralNetwork)
        network.save(folder)

    def export(self, network: nn.Module, voice: Voice, weights: Path, folder: Path) -> None:
        """From a release: the folder that upstream's inference loads."""
        from models.voxtral.released.export import write

        assert isinstance(network, VoxtralNetwork)
        if (weights / FILE).is_file():
            write(weights, network, folder)
        else:
            super().export(network, voice, weights, folder)

    def write_release(self, folder: Path, size: str) -> None:
        from models.voxtral.released import rehearsal

        rehearsal.write(folder, size)

    def frozen(self, network: nn.Module) -> list[nn.Module]:
        assert isinstance(network, VoxtralNetwork)
        return [network.trunk.embed_tokens]  # upstream trained with frozen text embeddings

    def batch(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Every tensor is int64. `tokens` (B, L) and `codes` (B, L, K) are the input: prompt, then frames.

        `labels` (B, L) is the semantic decision at each position (0: the end, 1 + code, -100: none), `targets`
        (B, L, K-1) the acoustic codes of the frame that it starts, and `seeds` (B,) decides the noise of a loss in
        eval mode, by the utterance alone. `reference` (R, dim), floating: the voices' rows, utterance after utterance.
        """
        assert isinstance(network, VoxtralNetwork)
        for example in examples:
            example.check(network.config.entries)
        return _pad(network, [(network.prompt(example.text, example.speaker), example.codes) for example in examples])

    def blank(self, network: nn.Module, text: str, frames: int) -> Example:
        """In the longest voice."""
        assert isinstance(network, VoxtralNetwork)
        voices = network.voices
        speaker = max(voices, key=lambda name: len(voices[name]), default="")
        return Example("", text, speaker, np.zeros((frames, network.config.codebooks), np.int32))

    def loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> Loss:
        """The mean over semantic decisions, plus the mean squared error of the velocity (both with weight 1).

        In eval mode the noise is the utterance's own, so that the same weights always have the same loss.
        """
        assert isinstance(network, VoxtralNetwork)
        logits, choices, hidden, values = decisions(network, batch)
        semantic = F.cross_entropy(logits.float(), choices)
        noise, time = _draws(network, batch, values)
        if network.training:
            hidden = hidden * (torch.rand_like(time) >= WITHOUT_CONDITION)[:, None]
        at = noise + time[:, None] * (values - noise)
        acoustic = F.mse_loss(network.acoustic_transformer.velocity(at, time, hidden), values - noise)
        parts = {"semantic": semantic.item(), "acoustic": acoustic.item()}
        return Loss(semantic + acoustic, parts, choices.numel())

    def generate(
        self, network: nn.Module, texts: Sequence[str], voice: Voice, sampling: Sampling, seeds: Sequence[int],
        max_frames: Sequence[int],
    ) -> list[Generation]:
        """A released network reads its own voice of the speaker's name; a tiny base has the voice in its weights.

        `logprobs`: of each frame its semantic decision, and the `value_score` of its acoustic values; of the end, the decision alone.
        """
        assert isinstance(network, VoxtralNetwork)
        with evaluating(network):
            return generation.generate(network, [network.prompt(text, voice.speaker) for text in texts], sampling, seeds, max_frames)

    @torch.no_grad()
    def decision_logprobs(self, network: nn.Module, text: str, voice: Voice, generation: Generation) -> np.ndarray:
        assert isinstance(network, VoxtralNetwork)
        with evaluating(network):
            device = network.audio_embeddings.weight.device
            batch = _pad(network, [(network.prompt(text, voice.speaker), generation.codes)])
            logits, choices, hidden, values = decisions(network, {name: tensor.to(device) for name, tensor in batch.items()})
            semantic = logprob(logits, choices)
            acoustic = network.acoustic_transformer.score(values, hidden, range(len(values)))
        frames = torch.stack([semantic[:-1], acoustic], 1).flatten()
        return torch.cat([frames, semantic[-1:]] if generation.finish == "stop" else [frames]).cpu().numpy()

    def check_shapes(self, network: nn.Module, contract: Contract) -> None:
        assert isinstance(network, VoxtralNetwork)
        config, last_id = network.config, max(network.tokenizer.get_vocab().values())
        if contract.vocabulary != config.entries:
            both = (config.entries, contract.vocabulary)
            shown = [f"{v[0]} codes and {len(v) - 1} values of {sorted(set(v[1:]))} levels" for v in both]
            raise UserError(f"voxtral: the network has {shown[0]}, the codec {shown[1]}; codec and weights are of two models")
        if config.vocab_size <= last_id:
            raise UserError(
                f"voxtral: the network has {config.vocab_size} text embeddings, but the last token is {last_id}; "
                "use the tokenizer that came with the weights"
            )


FAMILY = Voxtral


def decisions(
    network: VoxtralNetwork, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What generation decides, teacher-forced: semantic logits (M, 1 + V) and their choices (M,); the hidden states
    (N, dim) that condition the flow head, and the values (N, A) that it should write. M counts ends as well.
    """
    embeds = network.embed(batch["tokens"], batch["reference"], batch["codes"])
    # Right-padded and causal: no real position sees padding, so there is no mask.
    hidden = network.trunk(inputs_embeds=embeds, use_cache=False).last_hidden_state
    frame_follows = batch["labels"] > 0
    labelled = batch["labels"] != IGNORED
    values = to_values(batch["targets"][frame_follows], network.config.acoustic_codebook_size)
    return network.semantic_logits(hidden[labelled]), batch["labels"][labelled], hidden[frame_follows], values


def _draws(
    network: VoxtralNetwork, batch: dict[str, torch.Tensor], values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise (N, A) and time (N,) for each of the values (N, A): new ones in training, else each utterance's own."""
    if network.training:
        return torch.randn_like(values), torch.rand_like(values[:, 0])
    counts = (batch["labels"] > 0).sum(1).tolist()
    sources = list(zip(generators(batch["seeds"].tolist()), counts, strict=True))
    noise = torch.cat([torch.randn(count, values.shape[1], generator=source) for source, count in sources])
    time = torch.cat([torch.rand(count, generator=source) for source, count in sources])
    return noise.to(values.device), time.to(values.device)


def _pad(network: VoxtralNetwork, sequences: Sequence[tuple[Layout, np.ndarray]]) -> dict[str, torch.Tensor]:
    """The one place where labels are shifted: position p decides what stands at p + 1. Padded on the right."""
    config = network.config
    length = max(len(prompt) + len(frames) for prompt, frames in sequences)
    check_length(length, config.max_seq_len)
    shape = (len(sequences), length)
    tokens, labels = torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORED)
    codes = torch.full((*shape, config.codebooks), -1)
    targets = torch.zeros(*shape, config.n_acoustic_codebook, dtype=torch.int64)
    for row, (prompt, frames) in enumerate(sequences):
        start, end, frame = len(prompt), len(prompt) + len(frames), torch.from_numpy(frames.astype(np.int64))
        tokens[row, :start] = torch.tensor(prompt.tokens)
        codes[row, start:end] = frame
        labels[row, start - 1 : end - 1] = frame[:, 0] + 1
        labels[row, end - 1] = 0
        targets[row, start - 1 : end - 1] = frame[:, 1:]
    seeds = torch.tensor([zlib.crc32(frames.astype("<i4").tobytes()) for _, frames in sequences])
    reference = torch.cat([prompt.reference for prompt, _ in sequences])
    return {"tokens": tokens, "codes": codes, "labels": labels, "targets": targets, "seeds": seeds, "reference": reference}
