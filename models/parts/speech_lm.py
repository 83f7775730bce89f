"""The language model of CosyVoice 2 and 3: Qwen2 reads text and writes one stream of semantic tokens.

Key names are upstream's (FunAudioLLM/CosyVoice `cosyvoice/llm/llm.py`): `llm.model.*` is a `Qwen2ForCausalLM`,
`speech_embedding` and `llm_decoder` are the speech side, `llm_embedding` (version 2 alone) holds start and task.

Sequence: [start] [text, version 3 after its instruction] [task] [speech 0 … S-1]. The task position decides speech 0
and the last speech position decides the end: `batch` shifts the labels once, nothing else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from models.parts import sampling as drawing
from models.parts.errors import UserError
from models.parts.family import Contract, Example, Generation, Loss, Sampling, Voice
from models.parts.peft_lora import PeftFamily
from models.parts.takes import cut
from models.parts.text import clean, ids_of, load_tokenizer
from models.parts.weights import draw_weights, load_network, read_config, save_base
from models.small.phones import phone_tokenizer

IGNORE = -100
END_OF_PROMPT = "<|endofprompt|>"


class _Trunk(nn.Module):
    """Upstream wraps the Qwen2 model once more; the names need it."""

    def __init__(self, config: Qwen2Config):
        super().__init__()
        self.model = Qwen2ForCausalLM(config)


class SpeechLM(nn.Module):
    """`config`: version (2 | 3), speech_token_size, instruct (version 3), llm (a Qwen2 configuration)."""

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
        self.tokenizer: Any = None  # set by `load`; not a weight

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
    """What CosyVoice 2 and 3 share; a subclass adds its codec and format."""

    version: int

    def network(
        self, weights: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> SpeechLM:
        config = read_config(weights / "config.json")
        if config["version"] != self.version:
            raise UserError(f"{weights}/config.json: version {config['version']}, this family is {self.version}; these are the other CosyVoice's weights")
        network = load_network(lambda: SpeechLM(config), weights / "model.safetensors", dtype, device)
        network.tokenizer = load_tokenizer(weights / "tokenizer.json")
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

    def wrapped(self, network: SpeechLM) -> Qwen2Model:  # type: ignore[override]
        return network.trunk

    def frozen(self, network: SpeechLM) -> list[nn.Module]:  # type: ignore[override]
        head = network.llm.model.lm_head  # text is never predicted
        return [] if head.weight is network.trunk.embed_tokens.weight else [head]

    def batch(self, network: SpeechLM, examples: Sequence[Example]) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """`text`, `speech`, `lengths` (B, 2) and `labels` (B, L): labels[p] is what position p decides."""
        texts = [network.text_ids(example.text) for example in examples]
        for example in examples:
            example.check([network.codes])
        lengths = torch.tensor([[len(t), len(e.codes)] for t, e in zip(texts, examples, strict=True)])
        text = torch.zeros(len(examples), int(lengths[:, 0].max()), dtype=torch.long)
        speech = torch.zeros(len(examples), int(lengths[:, 1].max()), dtype=torch.long)
        labels = torch.full((len(examples), int(lengths.sum(1).max()) + 2), IGNORE)
        for row, (ids, example) in enumerate(zip(texts, examples, strict=True)):
            codes = torch.from_numpy(example.codes[:, 0].astype(np.int64))
            text[row, : len(ids)] = torch.tensor(ids)
            speech[row, : len(codes)] = codes
            first = 1 + len(ids)  # the task position decides the first code: the one and only shift
            labels[row, first : first + len(codes)] = codes
            labels[row, first + len(codes)] = network.end
        return {"text": text, "speech": speech, "lengths": lengths, "labels": labels}

    def loss(self, network: SpeechLM, batch: dict[str, torch.Tensor]) -> Loss:  # type: ignore[override]
        hidden = network.trunk(inputs_embeds=network.embed(batch["text"], batch["lengths"], batch["speech"]), use_cache=False).last_hidden_state
        # Right-padded and causal: no real position sees padding. Logits only where there are labels.
        supervised = batch["labels"] != IGNORE
        logits = network.llm_decoder(hidden[supervised])
        total = F.cross_entropy(logits.float(), batch["labels"][supervised])
        return Loss(total, {"speech": float(total.detach())}, int(supervised.sum()))

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self, network: SpeechLM, texts: Sequence[str], voice: Voice, sampling: Sampling, seeds: Sequence[int],
        max_frames: Sequence[int],
    ) -> list[Generation]:
        ids, device = [network.text_ids(text) for text in texts], network.speech_embedding.weight.device
        longest = max(map(len, ids))
        prefix = network.start().new_zeros(len(ids), longest + 2, network.width)
        mask = torch.zeros(len(ids), longest + 2, dtype=torch.long, device=device)
        for row, tokens in enumerate(ids):  # left-padded, so that every row's next position is the last
            embedded = network.trunk.embed_tokens(torch.tensor(tokens, dtype=torch.long, device=device))
            prefix[row, longest - len(tokens) :] = torch.cat([network.start()[None], embedded, network.task()[None]])
            mask[row, longest - len(tokens) :] = 1
        sources = drawing.generators(seeds)
        limits = torch.tensor(list(max_frames), device=device)
        cache, embeds = DynamicCache(), prefix
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        codes: list[torch.Tensor] = []
        logprobs: list[torch.Tensor] = []
        stopped = torch.full((len(ids),), -1, device=device)
        # Upstream lets no take end before two frames; special ids other than the end are never labels.
        banned = [i for i in range(network.codes, network.llm_decoder.out_features) if i != network.end]
        for step in range(int(limits.max()) + 1):
            hidden = network.trunk(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
            logits = network.llm_decoder(hidden).float()
            allowed = logits.clone()
            allowed[:, banned] = -torch.inf
            if step < 2:
                allowed[:, network.end] = -torch.inf
            token = drawing.draw(allowed, drawing.uniforms(sources, 1)[:, 0], sampling)
            codes.append(token)
            logprobs.append(drawing.logprob(logits, token))
            stopped = torch.where((stopped < 0) & (token == network.end), step, stopped)
            if bool(((stopped >= 0) | (limits <= step)).all()):
                break
            embeds = network.speech_embedding(token)[:, None]
            mask = torch.cat([mask, torch.ones(len(ids), 1, dtype=torch.long, device=device)], dim=1)
            positions = positions[:, -1:] + 1
        return cut(codes, logprobs, stopped, max_frames)

    @torch.no_grad()
    def decision_logprobs(self, network: SpeechLM, text: str, voice: Voice, generation: Generation) -> np.ndarray:  # type: ignore[override]
        batch = {k: v.to(network.speech_embedding.weight.device) for k, v in self.batch(network, [Example("", text, "", generation.codes)]).items()}
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
