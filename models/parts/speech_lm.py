"""The language model of CosyVoice 2 and 3: Qwen2 reads text and writes one stream of semantic tokens.

Key names are upstream's (FunAudioLLM/CosyVoice `cosyvoice/llm/llm.py`): `llm.model.*` is a `Qwen2ForCausalLM`,
`speech_embedding` and `llm_decoder` are the speech side, `llm_embedding` (version 2 alone) holds start and task.

Sequence: [start] [text, version 3 after its instruction] [task] [speech 0 … S-1]. The task position decides speech 0
and the last speech position decides the end: `batch` shifts the labels once, nothing else does. A zero-shot voice of
version 2 puts a reference's text before the text, and its codes before the speech.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from models.parts import sampling as drawing
from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Codec, Contract, Example, Generation, Loss, Sampling, Voice
from models.parts.peft_lora import PeftFamily
from models.parts.takes import cut
from models.parts.text import clean, ids_of, load_tokenizer
from models.parts.weights import draw_weights, load_network, read_config, save_base
from models.small.phones import phone_tokenizer

if TYPE_CHECKING:
    from models.released.flow3 import Flow3

IGNORE = -100
END_OF_PROMPT = "<|endofprompt|>"
BLANK = "CosyVoice-BlankEN"  # of a release: the folder of the language model that upstream loads first
LEAST = 2  # codes before a take may end
WHOLE = Sampling(temperature=1.0, top_k=0, top_p=1.0)  # nothing cut off, nothing sharpened


@dataclass(frozen=True)
class Prompt:
    """What a take begins with: ids of a text, codes (P,) of a reference; it may not end before `least` codes."""

    text: list[int]
    codes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    least: int = LEAST


class _Trunk(nn.Module):
    """Upstream wraps the Qwen2 model once more; the names need it."""

    def __init__(self, config: Qwen2Config):
        super().__init__()
        self.model = Qwen2ForCausalLM(config)


class SpeechLM(nn.Module):
    """`config`: version (2 | 3), speech_token_size, instruct (version 3), llm (a Qwen2 configuration), and, of a release,
    least_codes: so many for every token of the text come before the end."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = config
        self.version, self.codes = config["version"], config["speech_token_size"]
        qwen = Qwen2Config(**config["llm"])
        self.width = qwen.hidden_size
        self.llm = _Trunk(qwen)
        if self.version == 2:
            self.llm_embedding = nn.Embedding(2, self.width)
            rows, self.end = self.codes + 3, self.codes
        else:
            # start, end, task, fill and room for more: 6561 + 200 rows on the released weights
            rows, self.end = self.codes + 200, self.codes + 1
        self.speech_embedding = nn.Embedding(rows, self.width)
        self.llm_decoder = nn.Linear(self.width, rows, bias=self.version == 2)
        self.tokenizer: Any = None  # set where weights are loaded; not a weight
        # What generation makes of a text, and of a reference's, before it is tokens; training reads both as they are.
        self.front_end: Callable[[str], str] = str
        self.transcript: Callable[[str], str] = str
        self.flow: Flow3 | None = None  # the decoder, where it is trained too

    @property
    def trunk(self) -> Qwen2Model:
        trunk: Qwen2Model = self.llm.model.model
        return trunk

    def start(self) -> torch.Tensor:
        """Embedding (width,) of the first position."""
        return self.llm_embedding.weight[0] if self.version == 2 else self.speech_embedding.weight[self.codes]

    def task(self) -> torch.Tensor:
        """Embedding (width,) of the position after the text."""
        return self.llm_embedding.weight[1] if self.version == 2 else self.speech_embedding.weight[self.codes + 2]

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text as training and generation both see it; version 3 has its instruction before it."""
        prefix = self.config["instruct"] if self.version == 3 else ""
        return ids_of(self.tokenizer, prefix + clean(self.tokenizer, text))

    def prompt(self, text: str, voice: Voice) -> Prompt:
        """What a take of `text` begins with. A version 3 voice has been trained, or is its instruction's; version 2's is cloned."""
        spoken = self.front_end(text)
        ids, own = self.text_ids(spoken), ids_of(self.tokenizer, clean(self.tokenizer, spoken))
        if not own:
            raise UserError(f"text {text!r}: nothing to say; leave it out, or write it in words")
        least = max(LEAST, self.config.get("least_codes", 0) * len(own))
        if self.version == 3 or not voice.prompts:
            return Prompt(ids, least=least)
        reference = voice.prompts[0]
        return Prompt(self.text_ids(self.transcript(reference.text)) + ids, reference.codes[:, 0].astype(np.int64), least)

    def embed(self, text: torch.Tensor, lengths: torch.Tensor, speech: torch.Tensor) -> torch.Tensor:
        """text (B, Lt) and speech (B, Ls) ids, right-padded; lengths (B, 2) -> embeddings (B, L, width), right-padded."""
        rows, total = len(text), int(lengths.sum(1).max()) + 2
        at = torch.arange(total, device=text.device).expand(rows, total)
        text_end, end = 1 + lengths[:, :1], 2 + lengths.sum(1, keepdim=True)
        out = torch.zeros(rows, total, self.width, device=text.device, dtype=self.speech_embedding.weight.dtype)
        is_text, is_speech = (at >= 1) & (at < text_end), (at > text_end) & (at < end)
        out[is_text] = self.trunk.embed_tokens(text[self._valid(text, lengths[:, 0])]).to(out.dtype)
        out[is_speech] = self.speech_embedding(speech[self._valid(speech, lengths[:, 1])])
        out[:, 0] = self.start()
        out[at == text_end] = self.task()
        return out

    @staticmethod
    def _valid(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]


class SpeechLMFamily(PeftFamily):
    """What CosyVoice 2 and 3 share; a subclass adds its tiny codec and its format. `released`: its release's configuration."""

    version: int
    released: dict[str, Any]

    def codec(self, weights: Path) -> Codec:
        """The released codec where the folder has one, else the tiny base's."""
        if not is_release(weights):
            return self.small_codec(weights / "codec")
        from models.released.cosyvoice.codec import CosyVoiceCodec

        return CosyVoiceCodec(weights, self.version)

    @abstractmethod
    def small_codec(self, folder: Path) -> Codec: ...

    def check_release(self, weights: Path) -> None:
        from models.released.cosyvoice.check import check_release

        check_release(weights, self.released, self._files())

    def export(self, network: nn.Module, voice: Voice, weights: Path, folder: Path) -> None:
        """From a release: the folder that upstream's inference loads, with the speaker by name."""
        assert isinstance(network, SpeechLM)
        if not is_release(weights):
            return super().export(network, voice, weights, folder)
        from models.released.cosyvoice.export import write

        write(weights, network, voice, self._files(), folder)

    def write_release(self, folder: Path, size: str) -> None:
        from models.released.cosyvoice import rehearsal

        rehearsal.write(folder, size, self.released)

    def _files(self) -> list[str]:
        files: list[str] = self.card["release"]["repositories"][0]["files"]
        return files

    def network(
        self, weights: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> SpeechLM:
        if is_release(weights):
            from models.released.cosyvoice.language_model import load

            return load(weights, self.released, dtype, device)
        config = read_config(weights / "config.json")
        if config["version"] != self.version:
            raise UserError(f"{weights}/config.json: version {config['version']}, this family is {self.version}; these are the other CosyVoice's weights")
        network = load_network(lambda: SpeechLM(config), weights / "model.safetensors", dtype, device)
        network.tokenizer = load_tokenizer(weights / "tokenizer.json")
        return network

    def network_to_train(
        self, weights: Path, settings: AdaptSettings, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> SpeechLM:
        network = self.network(weights, dtype, device)
        if "flow" in settings.parts:
            if not is_release(weights):
                raise UserError(f"params.yaml: {self.name}: train.parts: flow: {weights} has no flow to train, a release has; set parts: [llm]")
            network.flow = _tuning().flow_of_release(weights, self.version, device)
        return network

    def create(self, config: dict[str, Any], seed: int) -> SpeechLM:
        tokenizer = phone_tokenizer(["<|endoftext|>", END_OF_PROMPT, "You are a helpful assistant."])
        vocabulary = {"vocab_size": tokenizer.get_vocab_size()}
        network = SpeechLM(config | {"version": self.version, "llm": config["llm"] | vocabulary})
        draw_weights(network, torch.Generator().manual_seed(seed))
        network.tokenizer = tokenizer
        return network

    def save(self, network: SpeechLM, folder: Path) -> None:  # type: ignore[override]
        save_base(folder, network.state_dict(), network.config, network.tokenizer)

    def wrapped(self, network: SpeechLM) -> nn.Module:  # type: ignore[override]
        return network.trunk if network.flow is None else network

    def add_lora(self, network: SpeechLM, settings: AdaptSettings) -> None:  # type: ignore[override]
        super().add_lora(network, settings)
        for name, part, some in (("language model", network.trunk, "q_proj, v_proj"), ("flow", network.flow, "to_q, to_v")):
            if part is not None and not any(parameter.requires_grad for parameter in part.parameters()):
                raise UserError(f"params.yaml: {self.name}: train.targets: none of them is a layer of the {name}; add some, like {some}")

    def frozen(self, network: SpeechLM) -> list[nn.Module]:  # type: ignore[override]
        head = network.llm.model.lm_head  # text is never predicted
        return [] if head.weight is network.trunk.embed_tokens.weight else [head]

    def batch(self, network: SpeechLM, examples: Sequence[Example]) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """`text`, `speech`, `lengths` (B, 2) and `labels` (B, L): labels[p] is what position p decides. And what the flow hears."""
        for example in examples:
            example.check([network.codes])
        batch = _padded(network, [(Prompt(network.text_ids(example.text)), example.codes) for example in examples])
        return batch if network.flow is None else batch | _tuning().heard(examples, self.version)

    def blank(self, network: nn.Module, text: str, frames: int) -> Example:
        assert isinstance(network, SpeechLM)
        example = super().blank(network, text, frames)
        return example if network.flow is None else _tuning().silent(example)

    def loss(self, network: SpeechLM, batch: dict[str, torch.Tensor]) -> Loss:  # type: ignore[override]
        hidden = network.trunk(inputs_embeds=network.embed(batch["text"], batch["lengths"], batch["speech"]), use_cache=False).last_hidden_state
        # Right-padded and causal: no real position sees padding. Logits only where there are labels.
        supervised = batch["labels"] != IGNORE
        logits = network.llm_decoder(hidden[supervised])
        total = F.cross_entropy(logits.float(), batch["labels"][supervised])
        parts = {"speech": float(total.detach())}
        if network.flow is not None:
            matching = _tuning().loss_of(network.flow, batch)
            total, parts = total + matching, parts | {"flow": float(matching.detach())}
        return Loss(total, parts, int(supervised.sum()))

    def generate(  # type: ignore[override]
        self, network: SpeechLM, texts: Sequence[str], voice: Voice, sampling: Sampling, seeds: Sequence[int],
        max_frames: Sequence[int],
    ) -> list[Generation]:
        return speak(network, [network.prompt(text, voice) for text in texts], sampling, seeds, max_frames)

    @torch.no_grad()
    def decision_logprobs(self, network: SpeechLM, text: str, voice: Voice, generation: Generation) -> np.ndarray:  # type: ignore[override]
        rows = _padded(network, [(network.prompt(text, voice), generation.codes)])
        batch = {name: tensor.to(network.speech_embedding.weight.device) for name, tensor in rows.items()}
        hidden = network.trunk(inputs_embeds=network.embed(batch["text"], batch["lengths"], batch["speech"]), use_cache=False).last_hidden_state
        supervised = batch["labels"] != IGNORE
        decided: np.ndarray = drawing.logprob(network.llm_decoder(hidden[supervised]), batch["labels"][supervised]).cpu().numpy()
        return decided[: len(generation.logprobs)]

    def check_shapes(self, network: SpeechLM, contract: Contract) -> None:  # type: ignore[override]
        rows, head = network.speech_embedding.num_embeddings, network.llm_decoder.out_features
        wanted = network.codes + (3 if network.version == 2 else 200)
        if not rows == head == wanted:
            raise UserError(f"{self.name}: speech_embedding has {rows} rows and llm_decoder {head}, but {network.codes} codes make {wanted}; use the config.json that came with the weights")
        if contract.vocabulary != (network.codes,):
            raise UserError(f"{self.name}: the codec has {contract.vocabulary} entries and the network {network.codes}; codec and weights are of two models")
        if network.version == 3 and network.tokenizer.token_to_id(END_OF_PROMPT) is None:
            raise UserError(f"{self.name}: tokenizer.json has no {END_OF_PROMPT}, which CosyVoice 3 demands; use the tokenizer that came with the weights")


def _tuning() -> Any:
    """Where the flow is trained too; takes what a tiny base has no use for."""
    from models.released.cosyvoice import tuning

    return tuning


def is_release(weights: Path) -> bool:
    """Is this the layout of a release, or of an export, and not of a base of ours?"""
    return (weights / BLANK).is_dir()


def _padded(network: SpeechLM, takes: Sequence[tuple[Prompt, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Each prompt and the codes (T, 1) that follow it, as `SpeechLMFamily.batch` says."""
    lengths = torch.tensor([[len(prompt.text), len(prompt.codes) + len(codes)] for prompt, codes in takes])
    text = torch.zeros(len(takes), int(lengths[:, 0].max()), dtype=torch.long)
    speech = torch.zeros(len(takes), int(lengths[:, 1].max()), dtype=torch.long)
    labels = torch.full((len(takes), int(lengths.sum(1).max()) + 2), IGNORE)
    for row, (prompt, codes) in enumerate(takes):
        said = torch.from_numpy(codes[:, 0].astype(np.int64))
        text[row, : len(prompt.text)] = torch.tensor(prompt.text)
        speech[row, : lengths[row, 1]] = torch.cat([torch.from_numpy(prompt.codes), said])
        first = 1 + len(prompt.text) + len(prompt.codes)  # the position before it decides a code: the one and only shift
        labels[row, first : first + len(said)] = said
        labels[row, first + len(said)] = network.end
    return {"text": text, "speech": speech, "lengths": lengths, "labels": labels}


@torch.no_grad()
def speak(
    network: SpeechLM, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int], max_frames: Sequence[int]
) -> list[Generation]:
    """One take a prompt, as one batch with a KV cache."""
    device = network.speech_embedding.weight.device
    lengths = [len(prompt.text) + len(prompt.codes) + 2 for prompt in prompts]
    longest = max(lengths)
    prefix = network.start().new_zeros(len(prompts), longest, network.width)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):  # left-padded, so that every row's next position is the last
        text = network.trunk.embed_tokens(torch.tensor(prompt.text, dtype=torch.long, device=device))
        heard = network.speech_embedding(torch.from_numpy(prompt.codes).to(device))
        prefix[row, longest - length :] = torch.cat([network.start()[None], text, network.task()[None], heard])
        mask[row, longest - length :] = 1
    sources = drawing.generators(seeds)
    limits = torch.tensor(list(max_frames), device=device)
    least = torch.tensor([prompt.least for prompt in prompts], device=device)
    cache, embeds = DynamicCache(), prefix
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    codes: list[torch.Tensor] = []
    logprobs: list[torch.Tensor] = []
    stopped = torch.full((len(prompts),), -1, device=device)
    # Special ids other than the end are never labels.
    banned = [i for i in range(network.codes, network.llm_decoder.out_features) if i != network.end]
    for step in range(int(limits.max()) + 1):
        hidden = network.trunk(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        logits = network.llm_decoder(hidden).float()
        allowed = logits.clone()
        allowed[:, banned] = -torch.inf
        allowed[step < least, network.end] = -torch.inf
        token = _drawn(allowed, codes, sampling, sources)
        codes.append(token)
        logprobs.append(drawing.logprob(logits, token))
        stopped = torch.where((stopped < 0) & (token == network.end), step, stopped)
        if bool(((stopped >= 0) | (limits <= step)).all()):
            break
        embeds = network.speech_embedding(token)[:, None]
        mask = torch.cat([mask, torch.ones(len(prompts), 1, dtype=torch.long, device=device)], dim=1)
        positions = positions[:, -1:] + 1
    return cut(codes, logprobs, stopped, max_frames)


def _drawn(logits: torch.Tensor, codes: list[torch.Tensor], sampling: Sampling, sources: Sequence[torch.Generator]) -> torch.Tensor:
    """One token a row after `codes`, (B,) a step. With a window, one that was there a moment ago gives way to any other
    (FunAudioLLM/CosyVoice, cosyvoice/utils/common.py, `ras_sampling`)."""
    if not sampling.repetition_window:
        return drawing.draw(logits, drawing.uniforms(sources, 1)[:, 0], sampling)
    recent = torch.stack(codes[-sampling.repetition_window :], 1) if codes else torch.full((len(logits), 1), -1, device=logits.device)
    return drawing.draw_unrepeated(logits, drawing.uniforms(sources, 2), sampling, recent, WHOLE, leave_out=True)
