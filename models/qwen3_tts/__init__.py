"""Qwen3-TTS (12 Hz): a talker and a sequential code predictor, adapted by PEFT, stored as JSONL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from models.parts.errors import UserError
from models.parts.evaluating import evaluating
from models.parts.family import AdaptSettings, Codec, Contract, Example, Generation, Loss, Sampling, Voice
from models.parts.peft_lora import PeftFamily
from models.parts.sampling import logprob
from models.parts.takes import check_length
from models.parts.weights import check_facts, draw_weights
from models.qwen3_tts import dataset, generation
from models.qwen3_tts.network import Qwen3TTSNetwork
from models.qwen3_tts.prompt import NOTHING, Layout
from models.qwen3_tts.released.files import FOLDER
from models.qwen3_tts.speaker import LOUDNESS
from models.small.phones import phone_tokenizer

IGNORED = -100
# Upstream's weight of the code predictor's loss (QwenLM/Qwen3-TTS, finetuning/sft_12hz.py since 680d4e9).
PREDICTOR_WEIGHT = 0.3
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PARTS = {"talker": r"talker\.model\.layers\.", "code_predictor": r"talker\.code_predictor\.model\.layers\."}


class Qwen3TTS(PeftFamily):
    name = "qwen3_tts"
    told_who_speaks = True

    # --- data -----------------------------------------------------------------------------------------------------
    def codec(self, weights: Path) -> Codec:
        """The released codec where the folder has one, else the tiny base's."""
        from models.qwen3_tts.codec import QwenCodec
        from models.qwen3_tts.released.codec import ReleasedCodec

        return ReleasedCodec(weights) if (weights / FOLDER).is_dir() else QwenCodec(weights / "codec")

    def check_release(self, weights: Path) -> None:
        from models.qwen3_tts.released.check import check_release

        check_release(weights)

    def write(self, examples: Sequence[Example], folder: Path) -> None:
        dataset.write(examples, folder)

    def read(self, folder: Path) -> list[Example]:
        return dataset.read(folder)

    # --- network --------------------------------------------------------------------------------------------------
    def network(
        self, weights: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Qwen3TTSNetwork:
        return Qwen3TTSNetwork.load(weights, dtype, device)

    def create(self, config: dict[str, Any], seed: int) -> Qwen3TTSNetwork:
        """`config` is config.json without the tokens; `talker_config.codes` are the entries of codebook 0."""
        control = ["<|im_start|>", "<|im_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>", "assistant\n"]
        tokenizer = phone_tokenizer(control)
        names = ("im_start_token_id", "im_end_token_id", "tts_pad_token_id", "tts_bos_token_id", "tts_eos_token_id")
        special = ("pad_id", "bos_id", "eos_token_id", "nothink_id", "think_bos_id", "think_eos_id")
        talker = dict(config["talker_config"])
        codes = talker.pop("codes")
        talker |= {f"codec_{name}": codes + index for index, name in enumerate(special)}
        talker |= {"speaker_row": codes + len(special), "special_rows": len(special) + 1}
        talker |= {"vocab_size": codes + talker["special_rows"], "text_vocab_size": tokenizer.get_vocab_size()}
        ids = {name: index for index, name in enumerate(names)}
        whole = {"model_type": self.name, "tts_model_type": "base"} | config | ids | {"talker_config": talker}
        network, source = Qwen3TTSNetwork(whole, tokenizer), torch.Generator().manual_seed(seed)
        draw_weights(network, source, LOUDNESS)
        # The projection makes about a quarter of it: text starts as loud as codes.
        nn.init.normal_(network.talker.model.text_embedding.weight, std=4 * LOUDNESS, generator=source)
        return network

    def save(self, network: nn.Module, folder: Path) -> None:
        assert isinstance(network, Qwen3TTSNetwork)
        network.save(folder)

    def export(self, network: nn.Module, voice: Voice, weights: Path, folder: Path) -> None:
        """From a released Base: the custom voice that upstream's inference loads."""
        from models.qwen3_tts.released.export import write

        assert isinstance(network, Qwen3TTSNetwork)
        if (weights / FOLDER).is_dir():
            write(weights, network, voice.speaker, voice.speaker_embedding, folder)
        else:
            super().export(network, voice, weights, folder)

    def write_release(self, folder: Path, size: str) -> None:
        from models.qwen3_tts.released import rehearsal

        rehearsal.write(folder, size)

    def frozen(self, network: nn.Module) -> list[nn.Module]:
        """As in upstream's SFT."""
        assert isinstance(network, Qwen3TTSNetwork)
        return [network.speaker_encoder] if network.speaker_encoder else []

    def add_lora(self, network: nn.Module, settings: AdaptSettings) -> None:
        super().add_lora(network, _resolved(network, settings))

    def merge_lora(
        self, network: nn.Module, state: dict[str, torch.Tensor], settings: AdaptSettings, scale: float
    ) -> None:
        super().merge_lora(network, state, _resolved(network, settings), scale)

    def batch(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """`text` (B, L) and `codec` (B, L, K; -1 where there is none) are the two channels of prompt and frames, int64;
        `speaker` (B, E) float32.

        `labels` (B, L) is the talker's decision at each position (an entry of codebook 0, or the stop, or -100: none)
        and `label_codes` (B, L, K) is the frame that it starts.
        """
        assert isinstance(network, Qwen3TTSNetwork)
        for example in examples:
            _check(network, example)
        speaker = np.stack([example.speaker_embedding for example in examples])
        takes = [(network.prompt(example.text, example.speaker), example.codes) for example in examples]
        return _pad(network, takes, speaker)

    def blank(self, network: nn.Module, text: str, frames: int) -> Example:
        assert isinstance(network, Qwen3TTSNetwork)
        speaker = np.zeros(network.speaker_size, np.float32)
        return Example("", text, "", np.zeros((frames, network.codebooks), np.int32), speaker)

    def loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> Loss:
        """The mean over the talker's decisions plus 0.3 × the mean over the code predictor's, upstream's weights."""
        assert isinstance(network, Qwen3TTSNetwork)
        first, codes, rest, residual = decisions(network, batch)
        talker = F.cross_entropy(first.float(), codes)
        predictor = F.cross_entropy(rest.float().flatten(0, 1), residual.flatten())
        parts = {"talker": talker.item(), "code_predictor": predictor.item()}
        return Loss(talker + PREDICTOR_WEIGHT * predictor, parts, codes.numel() + residual.numel())

    def generate(
        self, network: nn.Module, texts: Sequence[str], voice: Voice, sampling: Sampling, seeds: Sequence[int],
        max_frames: Sequence[int],
    ) -> list[Generation]:
        assert isinstance(network, Qwen3TTSNetwork)
        _check_vector(network, voice.speaker_embedding, f"voice {voice.speaker}")
        with evaluating(network):
            prompts = [_prompt(network, text, voice) for text in texts]
            speaker = torch.from_numpy(voice.speaker_embedding)
            return generation.generate(network, prompts, speaker, sampling, seeds, max_frames)

    @torch.no_grad()
    def decision_logprobs(self, network: nn.Module, text: str, voice: Voice, generation: Generation) -> np.ndarray:
        assert isinstance(network, Qwen3TTSNetwork)
        with evaluating(network):
            return scored(network, _prompt(network, text, voice), voice.speaker_embedding, generation)

    def check_shapes(self, network: nn.Module, contract: Contract) -> None:
        assert isinstance(network, Qwen3TTSNetwork)
        ids, (first, *rest) = network.ids, contract.vocabulary
        rows, entries = network.talker.codec_head.out_features, network.residual_entries
        words = network.talker.model.text_embedding.num_embeddings
        last = max(*network.prompt.tokenizer.get_vocab().values(), ids.tts_pad, ids.tts_bos, ids.tts_eos)
        facts = [
            (network.codebooks == contract.codebooks, network.codebooks, f"codebooks, not {contract.codebooks}"),
            (ids.codes == first, ids.codes, f"codes of codebook 0, but the codec has {first}"),
            (entries >= max(rest), entries, f"residual codes, but one codebook has {max(rest)} entries"),
            (max(ids.codec) < rows, rows, f"codec rows, but special id {max(ids.codec)}"),
            (min(ids.codec) >= ids.codes, ids.codes, f"codes of codebook 0, and special id {min(ids.codec)} is one"),
            (last < words, words, f"text rows, but the last token is {last}"),
        ]
        check_facts(self.name, facts)


FAMILY = Qwen3TTS


def decisions(
    network: Qwen3TTSNetwork, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every decision of generation, teacher-forced: the talker's logits (M, codes + 1), its choices (M,), the code
    predictor's logits (N, K-1, V), its choices (N, K-1). Rows follow `batch["labels"]`; N counts the frames, M the
    stops as well.

    The state that decided codebook 0 of a frame, which stands one position before the frame, is what the predictor
    starts from. Right-padded and causal: no real position sees padding.
    """
    hidden = network.talker.model.run(network.embed(batch["text"], batch["codec"], batch["speaker"]))
    labelled = batch["labels"] != IGNORED
    hidden, choices, frames = hidden[labelled], batch["labels"][labelled], batch["label_codes"][labelled]
    starts = choices != network.ids.codes
    rest = network.residual_logits(hidden[starts], frames[starts][:, :-1])
    return network.first_logits(hidden), choices, rest, frames[starts][:, 1:]


def scored(network: Qwen3TTSNetwork, prompt: Layout, speaker: np.ndarray, take: Generation) -> np.ndarray:
    """Log-probabilities of the decisions of `take`, teacher-forced after `prompt`: those of `take.logprobs`."""
    batch = _pad(network, [(prompt, take.codes)], speaker[None])
    first, codes, rest, residual = decisions(network, {k: v.to(network.device) for k, v in batch.items()})
    first_log, rest_log = logprob(first, codes)[:, None], logprob(rest, residual)
    frames = torch.cat([first_log[:-1], rest_log], -1).flatten()
    return torch.cat([frames, first_log[-1]] if take.finish == "stop" else [frames]).cpu().numpy()


def target_layers(network: nn.Module, targets: Sequence[str]) -> list[str]:
    """The linear layers that `targets` mean, in order: `q_proj` is that of both transformers, as PEFT's suffixes mean
    it, `talker.q_proj` and `code_predictor.q_proj` one's alone. UserError for a name that is none."""
    patterns = []
    for target in targets:
        part, _, projection = target.rpartition(".")
        if projection not in PROJECTIONS or part not in ("", *PARTS):
            raise UserError(
                f"params.yaml: qwen3_tts: targets: there is no {target!r}; use {', '.join(PROJECTIONS)}, for one "
                f"transformer alone with {' or '.join(f'{name}.' for name in PARTS)} before it"
            )
        where = PARTS[part] if part else f"({'|'.join(PARTS.values())})"
        patterns.append(rf"{where}\d+\.\w+\.{projection}")
    if not targets:
        known = ", ".join(PROJECTIONS)
        raise UserError(f"params.yaml: qwen3_tts: targets: none, so nothing would be trained; use {known}")
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in linear if re.fullmatch("|".join(patterns), name)]


def _resolved(network: nn.Module, settings: AdaptSettings) -> AdaptSettings:
    return replace(settings, targets=tuple(target_layers(network, settings.targets)))


def _prompt(network: Qwen3TTSNetwork, text: str, voice: Voice) -> Layout:
    """A voice with a reference is cloned as upstream does it by default, from text and frames, the words streamed in. Any
    other gets the layout that fine-tuning trains."""
    reference = voice.prompts[0] if voice.prompts else None
    return network.prompt(text, voice.speaker, reference=reference, streaming=reference is not None)


def _check(network: Qwen3TTSNetwork, example: Example) -> None:
    example.check([network.ids.codes] + [network.residual_entries] * (network.codebooks - 1))
    _check_vector(network, example.speaker_embedding, f"utterance {example.id}")


def _check_vector(network: Qwen3TTSNetwork, vector: np.ndarray, what: str) -> None:
    if network.speaker_size and vector.shape != (network.speaker_size,):
        raise UserError(
            f"{what}: a speaker vector of {vector.size} figures, but the network takes {network.speaker_size}; "
            "run the tokenise stage again"
        )


def _pad(
    network: Qwen3TTSNetwork, takes: Sequence[tuple[Layout, np.ndarray]], speaker: np.ndarray
) -> dict[str, torch.Tensor]:
    """The one place where labels are shifted: position p decides what stands at p + 1. Padded on the right."""
    length = max(len(prompt) + len(codes) for prompt, codes in takes)
    check_length(length, network.max_length)
    shape = (len(takes), length)
    text, labels = torch.full(shape, network.ids.tts_pad), torch.full(shape, IGNORED)
    codec = torch.full((*shape, network.codebooks), NOTHING)
    label_codes = torch.zeros_like(codec)
    for row, (prompt, codes) in enumerate(takes):
        start, end, frames = len(prompt), len(prompt) + len(codes), torch.from_numpy(codes.astype(np.int64))
        along = torch.tensor(prompt.following[: len(codes)], dtype=torch.int64)
        text[row, :start], text[row, start : start + len(along)] = prompt.text, along
        codec[row, :start], codec[row, start:end] = prompt.codec, frames
        labels[row, start - 1 : end - 1] = frames[:, 0]
        labels[row, end - 1] = network.ids.codes
        label_codes[row, start - 1 : end - 1] = frames
    speakers = torch.from_numpy(speaker.astype(np.float32))
    return {"text": text, "codec": codec, "speaker": speakers, "labels": labels, "label_codes": label_codes}
