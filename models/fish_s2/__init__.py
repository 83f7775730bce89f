"""Fish Speech S2 Pro: dual-AR language model over codec frames, adapted by loralib, stored as protobuf shards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from models.fish_s2 import dataset, generation
from models.fish_s2.config import FishConfig
from models.fish_s2.network import FishNetwork
from models.fish_s2.prompt import AFTER, BEFORE, Layout
from models.fish_s2.released.files import CODEC
from models.parts import loralib_lora
from models.parts.adapting import AdaptedFamily
from models.parts.errors import UserError
from models.parts.evaluating import evaluating
from models.parts.family import AdaptSettings, Codec, Contract, Example, Generation, Loss, Sampling, Voice
from models.parts.sampling import logprob
from models.parts.takes import check_length
from models.parts.weights import check_facts
from models.small.phones import phone_tokenizer

IGNORED = -100
DISTRUSTED = 0.8  # share of a base's utterances in which the slow transformer reads residual codes that tell nothing
ATTENTION, MLP = r"layers\.\d+\.attention\.(wqkv|wo)", r"layers\.\d+\.feed_forward\.w[123]"
# Upstream's names: without "fast_" they mean both transformers (fish_speech/models/text2semantic/lora.py).
TARGETS = {
    "attention": f"(fast_)?{ATTENTION}",
    "mlp": f"(fast_)?{MLP}",
    "fast_attention": f"fast_{ATTENTION}",
    "fast_mlp": f"fast_{MLP}",
    "fast_output": "fast_output",
    "fast_embeddings": "fast_embeddings",
}


class FishS2(AdaptedFamily):
    name = "fish_s2"

    # --- data -----------------------------------------------------------------------------------------------------
    def codec(self, weights: Path) -> Codec:
        """The released codec where the folder has one, else the tiny base's."""
        from models.fish_s2.codec import FishCodec

        if not (weights / CODEC).is_file():
            return FishCodec(weights / "codec")
        from models.fish_s2.released.codec import ReleasedCodec

        return ReleasedCodec(weights)

    def check_release(self, weights: Path) -> None:
        from models.fish_s2.released.check import check_release

        check_release(weights)

    def write(self, examples: Sequence[Example], folder: Path) -> None:
        dataset.write(examples, folder)

    def read(self, folder: Path) -> list[Example]:
        """Each with another utterance of its speaker, for a network that reads a reference (see `batch`)."""
        return dataset.with_references(dataset.read(folder))

    # --- network --------------------------------------------------------------------------------------------------
    def network(
        self, weights: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> FishNetwork:
        return FishNetwork.load(weights, dtype, device)

    def create(self, config: dict[str, Any], seed: int) -> FishNetwork:
        # Whole turns of the template are one token each: a small network need not spell them.
        words = [part for part in (*BEFORE, *AFTER) if "<|" not in part]
        semantic = config["semantic_entries"]
        control = ["<|im_start|>", "<|im_end|>", "<|voice|>", "system\n", "user\n", "assistant\n", *words]
        tokenizer = phone_tokenizer([*control, *(f"<|semantic:{entry}|>" for entry in range(semantic))])
        ids = {"semantic_begin_id": len(control), "semantic_end_id": len(control) + semantic - 1}
        ids["vocab_size"] = tokenizer.get_vocab_size()
        sizes = {key: value for key, value in config.items() if key != "semantic_entries"}
        return FishNetwork.new(FishConfig(**sizes, **ids), tokenizer, seed)

    def save(self, network: nn.Module, folder: Path) -> None:
        assert isinstance(network, FishNetwork)
        network.save(folder)

    def export(self, network: nn.Module, voice: Voice, weights: Path, folder: Path) -> None:
        """From a release: the folder that upstream's inference loads."""
        from models.fish_s2.released.export import write

        assert isinstance(network, FishNetwork)
        if (weights / CODEC).is_file():
            write(weights, network, folder)
        else:
            super().export(network, voice, weights, folder)

    def write_release(self, folder: Path, size: str) -> None:
        from models.fish_s2.released import rehearsal

        rehearsal.write(folder, size)

    def add_lora(self, network: nn.Module, settings: AdaptSettings) -> None:
        layers = target_layers(network, settings.targets)
        loralib_lora.wrap(network, layers, settings.rank, settings.alpha, settings.dropout)

    def lora_state(self, network: nn.Module) -> dict[str, torch.Tensor]:
        return loralib_lora.adapter_state(network)

    def merge_lora(
        self, network: nn.Module, state: dict[str, torch.Tensor], settings: AdaptSettings, scale: float
    ) -> None:
        layers = target_layers(network, settings.targets)
        loralib_lora.merge(network, state, layers, scale * settings.alpha / settings.rank)

    def batch(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Every tensor is int64. `tokens` (B, L) and `codes` (B, L, K) are the input: prompt, then frames.

        `labels` (B, L) is the slow decision at each position (an entry of codebook 0, or the stop, or -100: none) and
        `label_codes` (B, L, K) is the frame that it starts.

        A released network reads a reference first, as it does when it speaks: without one it has no voice, and the base that a
        fine-tune starts from would be anybody. The tiny base never had one.
        """
        assert isinstance(network, FishNetwork)
        for example in examples:
            example.check(network.config.entries)
        return _pad(network, [(network.prompt(one.text, _references(network, one)), one.codes) for one in examples])

    def blank(self, network: nn.Module, text: str, frames: int) -> Example:
        """With as long a reference as there may be."""
        assert isinstance(network, FishNetwork)
        codes, prompt = (np.zeros((count, network.config.num_codebooks), np.int32) for count in (frames, dataset.REFERENCE_FRAMES))
        return Example("", text, "", codes, prompt=prompt, prompt_text=text)

    def base_batch(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """In most utterances the residual codes that the slow transformer reads are other frames', each codebook's by
        itself. A few voices would teach it to rely on theirs, and it would lose words as soon as another voice comes.
        """
        assert isinstance(network, FishNetwork)
        batch, config = self.batch(network, examples), network.config
        is_frame = (batch["tokens"] >= config.semantic_begin_id) & (batch["tokens"] <= config.semantic_end_id)
        frames = batch["codes"][is_frame]
        others = torch.stack([column[torch.randperm(len(frames))] for column in frames.unbind(-1)], -1)
        others[:, 0] = frames[:, 0]
        distrusted = (torch.rand(len(is_frame), 1) < DISTRUSTED).expand_as(is_frame)[is_frame]
        batch["codes"][is_frame] = torch.where(distrusted[:, None], others, frames)
        return batch

    def loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> Loss:
        """The mean over slow decisions plus the mean over fast ones, weighted alike as upstream does.

        Upstream's fast loss has codebook 0 in it as well. It is left out: generation takes codebook 0 from the slow
        transformer, so that the fast head's opinion of it is a decision nobody makes.
        """
        assert isinstance(network, FishNetwork)
        slow, codes, fast, residual = decisions(network, batch)
        slow_loss = F.cross_entropy(slow.float(), codes)
        fast_loss = F.cross_entropy(fast.float().flatten(0, 1), residual.flatten())
        parts = {"slow": slow_loss.item(), "fast": fast_loss.item()}
        return Loss(slow_loss + fast_loss, parts, codes.numel() + residual.numel())

    def generate(
        self, network: nn.Module, texts: Sequence[str], voice: Voice, sampling: Sampling, seeds: Sequence[int],
        max_frames: Sequence[int],
    ) -> list[Generation]:
        """A voice that brings utterances along is cloned from them, as in training; the tiny base's is in its weights."""
        assert isinstance(network, FishNetwork)
        with evaluating(network):
            prompts = [_prompt(network, text, voice) for text in texts]
            return generation.generate(network, prompts, sampling, seeds, max_frames)

    @torch.no_grad()
    def decision_logprobs(self, network: nn.Module, text: str, voice: Voice, generation: Generation) -> np.ndarray:
        assert isinstance(network, FishNetwork)
        with evaluating(network):
            batch = _pad(network, [(_prompt(network, text, voice), generation.codes)])
            device = network.norm.weight.device
            slow, codes, fast, residual = decisions(network, {key: value.to(device) for key, value in batch.items()})
        slow_log, fast_log = logprob(slow, codes)[:, None], logprob(fast, residual)
        frames = torch.cat([slow_log[:-1], fast_log], -1).flatten()
        return torch.cat([frames, slow_log[-1]] if generation.finish == "stop" else [frames]).cpu().numpy()

    def check_shapes(self, network: nn.Module, contract: Contract) -> None:
        assert isinstance(network, FishNetwork)
        config, first, largest = network.config, contract.vocabulary[0], max(contract.vocabulary)
        last_id = max(network.prompt.tokenizer.get_vocab().values())
        facts = [
            (config.num_codebooks == contract.codebooks, config.num_codebooks, f"codebooks, not {contract.codebooks}"),
            (config.stop == first, config.stop, f"semantic ids, but codebook 0 has {first} entries"),
            (config.codebook_size >= largest, config.codebook_size, f"codes, but one codebook has {largest} entries"),
            (config.vocab_size > last_id, config.vocab_size, f"embedding rows, but the last token is {last_id}"),
        ]
        check_facts(self.name, facts)


FAMILY = FishS2


def decisions(
    network: FishNetwork, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every decision of generation, teacher-forced: slow logits (M, V0 + 1), their choices (M,), fast logits
    (N, K-1, V), their choices (N, K-1). Rows follow `batch["labels"]`; N counts the frames, M the stops as well.
    """
    hidden = network.slow(batch["tokens"], batch["codes"])
    labelled = batch["labels"] != IGNORED
    hidden, choices, frames = hidden[labelled], batch["labels"][labelled], batch["label_codes"][labelled]
    starts = choices != network.config.stop
    fast = network.fast(hidden[starts], frames[starts][:, :-1])
    return network.slow_logits(hidden), choices, fast, frames[starts][:, 1:]


def target_layers(network: nn.Module, targets: Sequence[str]) -> list[str]:
    """The layers that upstream's target names mean, in order. UserError for a name that is none."""
    for target in targets:
        if target == "embeddings":
            raise UserError(
                "params.yaml: fish_s2: targets: embeddings can't be adapted: the output head is tied to them, and only "
                f"merging would change it, not training; use {', '.join(TARGETS)}"
            )
        if target not in TARGETS:
            raise UserError(f"params.yaml: fish_s2: targets: there is no {target!r}; use {', '.join(TARGETS)}")
    if not targets:
        raise UserError(f"params.yaml: fish_s2: targets: none, so nothing would be trained; use {', '.join(TARGETS)}")
    pattern = re.compile("|".join(TARGETS[target] for target in targets))
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Embedding)]
    return [name for name in layers if pattern.fullmatch(name)]


def _prompt(network: FishNetwork, text: str, voice: Voice) -> Layout:
    for reference in voice.prompts:
        reference.check(network.config.entries)
    return network.prompt(text, voice.prompts)


def _references(network: FishNetwork, example: Example) -> tuple[Example, ...]:
    """What a released network reads before `example`."""
    if not network.prompt.released or not len(example.prompt):
        return ()
    return (Example("", example.prompt_text, example.speaker, example.prompt),)


def _pad(network: FishNetwork, sequences: Sequence[tuple[Layout, np.ndarray]]) -> dict[str, torch.Tensor]:
    """The one place where labels are shifted: position p decides what stands at p + 1. Padded on the right."""
    config = network.config
    length = max(len(prompt) + len(codes) for prompt, codes in sequences)
    check_length(length, config.max_seq_len)
    shape = (len(sequences), length)
    tokens, labels = torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORED)
    codes = torch.zeros(*shape, config.num_codebooks, dtype=torch.int64)
    label_codes = torch.zeros_like(codes)
    for row, (prompt, frames) in enumerate(sequences):
        start, end, frame = len(prompt), len(prompt) + len(frames), torch.from_numpy(frames.astype(np.int64))
        tokens[row, :start] = torch.tensor(prompt.tokens)
        codes[row, :start] = torch.from_numpy(prompt.codes)
        tokens[row, start:end] = frame[:, 0] + config.semantic_begin_id
        codes[row, start:end] = frame
        labels[row, start - 1 : end - 1] = frame[:, 0]
        labels[row, end - 1] = config.stop
        label_codes[row, start - 1 : end - 1] = frame
    return {"tokens": tokens, "codes": codes, "labels": labels, "label_codes": label_codes}
