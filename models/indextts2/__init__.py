"""IndexTTS2: GPT-2 under a prompt's latents writes 50 semantic tokens a second; a DiT reads them and its hidden states.

Paradigm C: the decoder is frozen, but its input is not only codes. Fine-tuning moves the hidden states as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from models.indextts2 import dataset, generation
from models.indextts2.conditioner import unpack
from models.indextts2.dataset import Heard, Target
from models.indextts2.network import UnifiedVoice, encode, read_network_config, read_tokenizer
from models.indextts2.released.files import is_release
from models.indextts2.released.text import Pieces
from models.parts.errors import UserError
from models.parts.evaluating import evaluating
from models.parts.family import Codec, Contract, Example, Generation, Loss, Sampling, Voice
from models.parts.peft_lora import PeftFamily
from models.parts.sampling import logprob
from models.parts.weights import check_facts
from models.small.phones import phone_tokenizer

IGNORED = -100
TEXT_WEIGHT, SPEECH_WEIGHT = 0.2, 0.8  # instavar/indextts2-finetuning trainers/train_gpt_v2.py
HEARD = 150  # frames of the prompt that a base learns from, at most: 3 s


class IndexTTS2(PeftFamily):
    name = "indextts2"

    # --- data -----------------------------------------------------------------------------------------------------
    def codec(self, weights: Path) -> Codec:
        """The released codec where the folder is a release, else the tiny base's."""
        if is_release(weights):
            from models.indextts2.released.codec import ReleasedCodec

            return ReleasedCodec(weights)
        from models.indextts2.codec import IndexCodec

        return IndexCodec(weights)

    def check_release(self, weights: Path) -> None:
        from models.indextts2.released.check import check_release

        check_release(weights)

    def prepare(self, examples: Sequence[Example], weights: Path) -> list[Example]:
        """Ids of the base's tokenizer, and for every utterance another one of its speaker as prompt."""
        tokenizer, config = read_tokenizer(weights), read_network_config(weights)
        return list(dataset.paired(examples, lambda text: encode(tokenizer, text, config), config))

    def write(self, examples: Sequence[Example], folder: Path) -> None:
        dataset.write([_target(example) for example in examples], folder)

    def read(self, folder: Path) -> list[Example]:
        return list(dataset.read(folder))

    # --- network --------------------------------------------------------------------------------------------------
    def network(
        self, weights: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> UnifiedVoice:
        return UnifiedVoice.load(weights, dtype, device)

    def create(self, config: dict[str, Any], seed: int) -> UnifiedVoice:
        tokenizer = phone_tokenizer(["<|start|>", "<|stop|>"])
        ids = {"start_text_token": 0, "stop_text_token": 1, "number_text_tokens": tokenizer.get_vocab_size()}
        codes = config["codes"]
        ids |= {"start_mel_token": codes, "stop_mel_token": codes + 1, "number_mel_codes": codes + 2}
        return UnifiedVoice.new({key: value for key, value in config.items() if key != "codes"} | ids, tokenizer, seed)

    def base_examples(self, examples: Sequence[Example], points: Callable[[str], np.ndarray]) -> list[Example]:
        """A base learns to hear its prompts: they come as they are, not as latents."""
        prompts = dataset.pairs(examples)

        def heard(prompt: str) -> Callable[[], np.ndarray]:
            return lambda: points(prompt)[:HEARD]

        return [Heard(**vars(example), hear=heard(prompts[example.id].id)) for example in examples]

    def save(self, network: nn.Module, folder: Path) -> None:
        assert isinstance(network, UnifiedVoice)
        network.save(folder)

    def export(self, network: nn.Module, voice: Voice, weights: Path, folder: Path) -> None:
        """From a release: the folder that upstream's inference loads. The voice is a recording, which upstream hears each time."""
        assert isinstance(network, UnifiedVoice)
        if not is_release(weights):
            return super().export(network, voice, weights, folder)
        from models.indextts2.released.export import write

        write(weights, network, folder)

    def write_release(self, folder: Path, size: str) -> None:
        from models.indextts2.released import rehearsal

        rehearsal.write(folder, size)

    def wrapped(self, network: nn.Module) -> nn.Module:
        assert isinstance(network, UnifiedVoice)
        return network.gpt

    def frozen(self, network: nn.Module) -> list[nn.Module]:
        """The conditioner: its results come from files, so no gradient reaches it."""
        assert isinstance(network, UnifiedVoice)
        return network.conditioner_modules()

    def batch(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """`text` (B, Lt) with start and stop, `speech` (B, Ls) with start, `lengths` (B, 2) of both.

        The prompt: `condition` (B, N, W) and `emotion` (B, W), or, where a base is trained, `points` (B, T, D) and
        `point_lengths` (B,). `labels` and `text_labels` (B, L): what the speech or the text head decides at a position.
        """
        assert isinstance(network, UnifiedVoice)
        for example in examples:
            _check(network, example)
        return _batch(network, examples)

    def blank(self, network: nn.Module, text: str, frames: int) -> Example:
        assert isinstance(network, UnifiedVoice)
        count, width = network.config["condition_num_latent"], network.config["model_dim"]
        condition, emotion = np.zeros((count, width), np.float32), np.zeros(width, np.float32)
        return _said(network, text, np.zeros((frames, 1), np.int32), condition, emotion)

    def loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> Loss:
        """0.2 x the text's cross-entropy + 0.8 x the speech's, each a mean over its own labels.

        `labels` counts the speech's: they are what generation decides, so that a validation set's mean is the same
        however it is cut into batches.
        """
        assert isinstance(network, UnifiedVoice)
        hidden = _hidden(network, batch)
        labels, text_labels = batch["labels"], batch["text_labels"]
        spoken, written = labels != IGNORED, text_labels != IGNORED
        speech = F.cross_entropy(network.mel_head(hidden[spoken]).float(), labels[spoken])
        text = F.cross_entropy(network.text_head(hidden[written]).float(), text_labels[written])
        parts = {"speech": speech.item(), "text": text.item()}
        return Loss(TEXT_WEIGHT * text + SPEECH_WEIGHT * speech, parts, int(spoken.sum()))

    def generate(
        self, network: nn.Module, texts: Sequence[str], voice: Voice, sampling: Sampling, seeds: Sequence[int],
        max_frames: Sequence[int],
    ) -> list[Generation]:
        """The prompt is what the codec made of the voice: a tiny base's is the mean over its clips, as XTTS takes the mean over
        the chunks of a prompt, a release's what it hears in one recording."""
        assert isinstance(network, UnifiedVoice)
        _, *heard = unpack(voice.speaker_embedding, network.config)
        condition, emotion = (torch.from_numpy(array).to(network.device) for array in heard)
        with evaluating(network):
            ids = [network.text_ids(text) for text in texts]
            return generation.generate(network, ids, condition, emotion, sampling, seeds, max_frames)

    @torch.no_grad()
    def decision_logprobs(self, network: nn.Module, text: str, voice: Voice, generation: Generation) -> np.ndarray:
        assert isinstance(network, UnifiedVoice)
        _, condition, emotion = unpack(voice.speaker_embedding, network.config)
        target = _said(network, text, generation.codes, condition, emotion)
        with evaluating(network):
            batch = {key: value.to(network.device) for key, value in _batch(network, [target]).items()}
            spoken = batch["labels"] != IGNORED
            logits = network.mel_head(_hidden(network, batch)[spoken])
        decided: np.ndarray = logprob(logits, batch["labels"][spoken]).cpu().numpy()
        return decided[: len(generation.logprobs)]

    @torch.no_grad()
    def latents(self, network: nn.Module, examples: Sequence[Example]) -> list[np.ndarray]:
        assert isinstance(network, UnifiedVoice)
        with evaluating(network):
            batch = {key: value.to(network.device) for key, value in self.batch(network, examples).items()}
            hidden = _hidden(network, batch)
        codes = (batch["labels"] != IGNORED) & (batch["labels"] != network.stop)
        return [states[which].float().cpu().numpy() for states, which in zip(hidden, codes, strict=True)]

    def check_shapes(self, network: nn.Module, contract: Contract) -> None:
        assert isinstance(network, UnifiedVoice)
        config, text = network.config, network.tokenizer
        last_id = text.count - 1 if isinstance(text, Pieces) else max(text.get_vocab().values()) if text else 0
        facts = [
            (contract.vocabulary == (network.codes,), network.codes, f"codes before its start token, the codec {contract.vocabulary}"),
            (network.stop == network.codes + 1 and config["number_mel_codes"] == network.codes + 2,
             config["number_mel_codes"], f"columns, but {network.codes} codes, start and stop make {network.codes + 2}"),
            (config["number_text_tokens"] > last_id, config["number_text_tokens"], f"text tokens, but the last of its tokenizer is {last_id}"),
        ]  # fmt: skip
        check_facts(self.name, facts)


FAMILY = IndexTTS2


def _batch(network: UnifiedVoice, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    texts = [network.text_ids(example.text) for example in examples]
    lengths = torch.tensor([[len(ids), 1 + len(e.codes)] for ids, e in zip(texts, examples, strict=True)])
    text = torch.zeros(len(examples), int(lengths[:, 0].max()), dtype=torch.long)
    speech = torch.zeros(len(examples), int(lengths[:, 1].max()), dtype=torch.long)
    labels = torch.full((len(examples), network.prompt_length + int(lengths.sum(1).max())), IGNORED)
    text_labels = labels.clone()
    for row, (ids, example) in enumerate(zip(texts, examples, strict=True)):
        codes = torch.from_numpy(example.codes[:, 0].astype(np.int64))
        text[row, : len(ids)] = torch.tensor(ids)
        speech[row, 0], speech[row, 1 : 1 + len(codes)] = network.config["start_mel_token"], codes
        first, middle = network.prompt_length, network.prompt_length + len(ids)
        # The one and only shift: a start token decides the first of what follows it, the last one the stop.
        text_labels[row, first : middle - 1] = torch.tensor(ids[1:])
        labels[row, middle : middle + len(codes)] = codes
        labels[row, middle + len(codes)] = network.stop
    tensors = {"text": text, "speech": speech, "lengths": lengths, "labels": labels, "text_labels": text_labels}
    return tensors | _prompts(examples)


def _hidden(network: UnifiedVoice, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, L, W): what the heads read at every position."""
    if "points" in batch:
        condition, emotion = network.condition(batch["points"], batch["point_lengths"])
    else:
        condition, emotion = batch["condition"], batch["emotion"]
    return network.hidden(network.embed(condition, emotion, batch["text"], batch["speech"], batch["lengths"]))


def _prompts(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    if isinstance(examples[0], Heard):
        points = [torch.from_numpy(example.hear()) for example in examples if isinstance(example, Heard)]
        return {
            "points": nn.utils.rnn.pad_sequence(points, batch_first=True),
            "point_lengths": torch.tensor([len(one) for one in points]),
        }
    targets = [_target(example) for example in examples]
    return {
        "condition": torch.from_numpy(np.stack([target.condition for target in targets])),
        "emotion": torch.from_numpy(np.stack([target.emotion for target in targets])),
    }


def _said(network: UnifiedVoice, text: str, codes: np.ndarray, condition: np.ndarray, emotion: np.ndarray) -> Target:
    ids = np.array(network.text_ids(text)[1:-1], np.int32)
    return Target("", text, "", codes, text_ids=ids, prompt_id="", condition=condition, emotion=emotion)


def _target(example: Example) -> Target:
    if not isinstance(example, Target):
        raise TypeError(f"utterance {example.id} has no prompt; IndexTTS2.prepare gives it one")
    return example


def _check(network: UnifiedVoice, example: Example) -> None:
    example.check([network.codes])
    config, frames = network.config, len(example.codes)
    if frames > config["max_mel_tokens"]:
        raise UserError(f"utterance {example.id}: {frames} speech tokens, the network has room for {config['max_mel_tokens']}; lower corpus.max_seconds")
    if isinstance(example, Target) and example.text_ids.tolist() != network.text_ids(example.text)[1:-1]:
        raise UserError(f"utterance {example.id}: its text ids are not those of the base's tokenizer; run the tokenise stage again")
