"""Chatterbox: a Llama trunk reads voice, prompt and text and writes 25 semantic tokens a second (paradigm A)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from models.chatterbox import dataset, generation
from models.chatterbox.config import PROMPT, S3GEN, T3Config
from models.chatterbox.network import T3
from models.chatterbox.script import START, STOP
from models.parts.errors import UserError
from models.parts.family import Codec, Contract, Example, Generation, Loss, Sampling, Voice
from models.parts.peft_lora import PeftFamily
from models.parts.sampling import logprob
from models.parts.weights import check_facts
from models.small.phones import phone_tokenizer

IGNORED = -100


class Chatterbox(PeftFamily):
    name = "chatterbox"
    told_who_speaks = True
    references = 1

    # --- data -----------------------------------------------------------------------------------------------------
    def codec(self, weights: Path) -> Codec:
        """The released codec where the folder has one, else the tiny base's."""
        from models.chatterbox.codec import ChatterboxCodec

        if not (weights / S3GEN).is_file():
            return ChatterboxCodec(weights / "codec")
        from models.chatterbox.released.codec import ReleasedCodec

        return ReleasedCodec(weights)

    def check_release(self, weights: Path) -> None:
        from models.chatterbox.released.check import check_release

        check_release(weights)

    def prepare(self, examples: Sequence[Example], weights: Path) -> list[Example]:
        return dataset.prompted(examples, PROMPT)

    def write(self, examples: Sequence[Example], folder: Path) -> None:
        dataset.write(examples, folder)

    def read(self, folder: Path) -> list[Example]:
        return dataset.read(folder)

    # --- network --------------------------------------------------------------------------------------------------
    def network(
        self, weights: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> T3:
        return T3.load(weights, dtype, device)

    def create(self, config: dict[str, Any], seed: int) -> T3:
        """`config`: the fields of `T3Config`, with `speech_token_size` in place of the ids that follow from it."""
        tokenizer = phone_tokenizer([STOP, START])
        codes = config["speech_token_size"]
        ids = {
            "stop_text_token": 0, "start_text_token": 1, "text_tokens_dict_size": tokenizer.get_vocab_size(),
            "start_speech_token": codes, "stop_speech_token": codes + 1, "speech_tokens_dict_size": codes + 2,
        }  # fmt: skip
        sizes = {key: value for key, value in config.items() if key != "speech_token_size"}
        return T3.new(T3Config(**sizes, **ids), tokenizer, seed)

    def base_examples(self, examples: Sequence[Example], points: Callable[[str], np.ndarray]) -> list[Example]:
        return dataset.prompted(examples, PROMPT)

    def save(self, network: nn.Module, folder: Path) -> None:
        assert isinstance(network, T3)
        network.save(folder)

    def export(self, network: nn.Module, voice: Voice, weights: Path, folder: Path) -> None:
        """From a release: the folder that upstream's inference loads, with the speaker as its voice."""
        assert isinstance(network, T3)
        if not (weights / S3GEN).is_file():
            return super().export(network, voice, weights, folder)
        from models.chatterbox.released.export import write

        write(weights, network, voice, folder)

    def write_release(self, folder: Path, size: str) -> None:
        from models.chatterbox.released import rehearsal

        rehearsal.write(folder, size)

    def frozen(self, network: nn.Module) -> list[nn.Module]:
        assert isinstance(network, T3)
        return [network.tfmr.embed_tokens]  # comes with the trunk, and nothing looks into it

    def batch(self, network: nn.Module, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """`speaker` float32 (B, E); `prompt`, `text`, `speech` int64 ids, right-padded, each with `…_length` (B,).

        `text_labels` and `speech_labels` are as wide as `text` and `speech`: what each position is to predict.
        """
        assert isinstance(network, T3)
        for example in examples:
            example.check([network.config.start_speech_token])
        return _pad(network, examples)

    def blank(self, network: nn.Module, text: str, frames: int) -> Example:
        assert isinstance(network, T3)
        speaker, codes = np.zeros(network.config.speaker_embed_size, np.float32), np.zeros((frames, 1), np.int32)
        return Example("", text, "", codes, speaker, np.zeros((PROMPT, 1), np.int32))

    def loss(self, network: nn.Module, batch: dict[str, torch.Tensor]) -> Loss:
        """Speech plus text, weighted alike as all trainers of T3 do. `labels` counts the speech: only it is generated.

        In training some utterances are heard without their text, so that guidance has something to compare with.
        """
        assert isinstance(network, T3)
        without_text = torch.zeros(len(batch["text"]), dtype=torch.bool)
        if network.training:
            without_text = torch.rand(len(without_text)) < network.config.text_dropout
        text_logits, text, speech_logits, speech = network.logits(batch, without_text.to(batch["text"].device))
        text_loss = F.cross_entropy(text_logits.float(), text)
        speech_loss = F.cross_entropy(speech_logits.float(), speech)
        parts = {"speech": float(speech_loss.detach()), "text": float(text_loss.detach())}
        return Loss(speech_loss + text_loss, parts, len(speech))

    def generate(
        self, network: nn.Module, texts: Sequence[str], voice: Voice, sampling: Sampling, seeds: Sequence[int],
        max_frames: Sequence[int],
    ) -> list[Generation]:
        assert isinstance(network, T3)
        device = network.speech_emb.weight.device
        room = network.config.max_speech_tokens
        batch = _pad(network, [_spoken_by(voice, text, np.zeros((0, 1), np.int32)) for text in texts])
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        return generation.generate(network, batch, sampling, seeds, [min(limit, room) for limit in max_frames])

    @torch.no_grad()
    def decision_logprobs(self, network: nn.Module, text: str, voice: Voice, generation: Generation) -> np.ndarray:
        assert isinstance(network, T3)
        device = network.speech_emb.weight.device
        batch = _pad(network, [_spoken_by(voice, text, generation.codes)])
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        *_, logits, chosen = network.logits(batch, torch.zeros(1, dtype=torch.bool, device=device))
        scores: np.ndarray = logprob(logits, chosen).cpu().numpy()
        return scores[: len(generation.logprobs)]

    def check_shapes(self, network: nn.Module, contract: Contract) -> None:
        assert isinstance(network, T3)
        config, last_text = network.config, max(network.script.tokenizer.get_vocab().values())
        last_speech = max(config.start_speech_token, config.stop_speech_token)
        facts = [
            (contract.vocabulary == (config.start_speech_token,), config.start_speech_token, f"speech codes, but the codec has {contract.vocabulary}"),
            (config.stop_speech_token >= config.start_speech_token, config.start_speech_token, f"speech codes, and its stop is {config.stop_speech_token}"),
            (config.speech_tokens_dict_size > last_speech, config.speech_tokens_dict_size, f"rows for speech, but the last id is {last_speech}"),
            (config.text_tokens_dict_size > last_text, config.text_tokens_dict_size, f"rows for text, but the last token is {last_text}"),
        ]
        check_facts(self.name, facts)


FAMILY = Chatterbox


def _spoken_by(voice: Voice, text: str, codes: np.ndarray) -> Example:
    """`text` by `voice`, whose first reference utterance is the prompt."""
    prompt = voice.prompts[0].codes[:PROMPT] if voice.prompts else np.zeros((0, 1), np.int32)
    return Example("", text, voice.speaker, codes, voice.speaker_embedding, prompt)


def _pad(network: T3, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """The one place where labels are shifted: a position is to predict what stands at the next one."""
    config = network.config
    for example in examples:
        if len(example.speaker_embedding) != config.speaker_embed_size:
            raise UserError(
                f"utterance {example.id}: a speaker vector of {len(example.speaker_embedding)} values, the network takes "
                f"{config.speaker_embed_size}; run the tokenise stage again"
            )
        if len(example.codes) > config.max_speech_tokens:
            raise UserError(
                f"utterance {example.id}: {len(example.codes)} speech tokens, the network has room for "
                f"{config.max_speech_tokens}; lower max_seconds of the corpus"
            )
    start, stop = config.start_speech_token, config.stop_speech_token
    prompts = [_ids(example.prompt) for example in examples]
    texts = [torch.tensor(network.script(example.text)) for example in examples]
    speech = [torch.cat([torch.tensor([start, start]), _ids(example.codes)]) for example in examples]
    # The first start decides nothing: upstream's generation draws from the second.
    decided = [torch.cat([torch.tensor([IGNORED]), one[2:], torch.tensor([stop])]) for one in speech]
    batch = {"speaker": torch.from_numpy(np.stack([example.speaker_embedding for example in examples]))}
    for name, rows in (("prompt", prompts), ("text", texts), ("speech", speech)):
        batch[name] = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        batch[f"{name}_length"] = torch.tensor([len(row) for row in rows])
    batch["text_labels"] = nn.utils.rnn.pad_sequence([row[1:] for row in texts], True, IGNORED)
    batch["text_labels"] = F.pad(batch["text_labels"], (0, 1), value=IGNORED)
    batch["speech_labels"] = nn.utils.rnn.pad_sequence(decided, True, IGNORED)
    return batch


def _ids(codes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(codes[:, 0].astype(np.int64))
