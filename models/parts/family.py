"""What a stage may ask of a family. Every package in `models/` subclasses `Family` and nothing else is called.

Shapes: T is frames of codes, K is codebooks, all code arrays are int32 of shape (T, K). Audio is mono float32 in [-1, 1].
A codec without codebooks writes values: float32 "codes" of shape (T, K), K numbers a frame, and an empty vocabulary.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from models.parts.errors import UserError


@dataclass(frozen=True)
class Example:
    """One tokenised utterance. `speaker_embedding` is float32 (E,); families without one leave it empty.

    `prompt`: codes (P, K) of another utterance of the speaker, where the network reads one, and `prompt_text` what is said in
    it; `prepare` or `read` adds them.
    `audio`: gives its recording, float32 (samples,) at the codec's rate, where a part that is trained hears it.
    """

    id: str
    text: str
    speaker: str
    codes: np.ndarray
    speaker_embedding: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    prompt: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.int32))
    prompt_text: str = ""
    audio: Callable[[], np.ndarray] | None = None

    def check(self, vocabulary: Sequence[int], values: int = 0) -> None:
        """UserError where a network with these entries in each codebook, or so many `values` a frame, can't learn from it."""
        frames, width = self.codes.shape
        if not frames:
            raise UserError(f"utterance {self.id}: no frames, so nothing to learn from; leave it out of the corpus")
        if width != (len(vocabulary) or values):
            what = f"codebooks, but the network has {len(vocabulary)}" if vocabulary else f"values a frame, but the network has {values}"
            raise UserError(f"utterance {self.id}: {width} {what}; run the tokenise stage again")
        if not (in_range(self.codes, vocabulary) and in_range(self.prompt, vocabulary)):
            wrong = "a code is outside its codebook" if vocabulary else "a value is no finite number"
            raise UserError(f"utterance {self.id}: {wrong}; run the tokenise stage again")


def in_range(codes: np.ndarray, vocabulary: Sequence[int]) -> bool:
    """Is every code (T, K) an entry of its codebook, or, where there is no vocabulary, every value finite?"""
    if not vocabulary:
        return bool(np.isfinite(codes).all())
    return codes.min(initial=0) >= 0 and not (codes >= np.array(vocabulary)).any()


@dataclass(frozen=True)
class Voice:
    """Who is speaking: what the frozen decoder, or the prompt, is conditioned on.

    `speaker_embedding`: float32 (E,), the mean over several training clips. `prompts`: reference utterances of the
    speaker (text and codes), for families that take one; else empty. `reference`: float32 (samples,) at `reference_rate` Hz,
    the codec's, the recording of the first of them, for a decoder that has to hear one; else empty.
    """

    speaker: str
    speaker_embedding: np.ndarray
    prompts: tuple[Example, ...] = ()
    reference: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    reference_rate: int = 0


@dataclass(frozen=True)
class Contract:
    """What a tokenised set was made with. `train` refuses a set whose contract is not the network's own.

    The v2 and v3 S3 codes have the same range and a different meaning: only the tokeniser's hash tells them apart.
    """

    tokeniser: str          # the tokeniser's id
    tokeniser_sha256: str   # hash of its weights
    sample_rate: int        # Hz, of the audio that was encoded
    token_rate: float       # frames per second
    codebooks: int               # or values a frame
    vocabulary: tuple[int, ...]  # entries of each codebook; empty: the numbers are values, and not codes

    @property
    def dtype(self) -> type[np.int32] | type[np.float32]:
        """Of the code arrays."""
        return np.int32 if self.vocabulary else np.float32

    @property
    def tokens(self) -> int:
        """What a network writes a frame: a token from each codebook, or one patch of values."""
        return len(self.vocabulary) or 1

    def fits(self, codes: np.ndarray) -> bool:
        """Are `codes` (T, K), T > 0, what such a tokeniser writes?"""
        return codes.shape[1:] == (self.codebooks,) and in_range(codes, self.vocabulary)

    def check(self, other: Contract, where: str) -> None:
        """Raise, naming the first field that differs; `where` says which file holds `other`."""
        for name in self.__dataclass_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise UserError(f"{where}: made with {name} {theirs}, but this network needs {mine}; run its tokenise stage again")


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. `max_ratio` caps the length: frames at most `max_ratio` × the expected ones.

    Those from `guidance` on are for families whose card names them under `sampling`. `guidance`: weight of classifier-free
    guidance; 0: none. `euler_steps`: of a flow-matching head, from noise to data. `retries`: how often a take that does not
    end is made again, with the next seed. `min_p`: what is less likely than so much
    of the likeliest, once sharpened, is left out. `repetition_penalty`: scores of codes that were there are divided by it, or
    multiplied below 0; 1: none. `repetition_window`: a code that is among so many last ones is drawn anew; 0: never.
    `positions` of codes: "contiguous", as in training, or "cached", as upstream's cache counts them where that differs.
    """

    temperature: float = 0.8
    top_k: int = 25
    top_p: float = 0.9
    max_ratio: float = 2.5
    guidance: float = 0.0
    euler_steps: int = 8
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 0
    positions: str = "contiguous"
    retries: int = 0


@dataclass(frozen=True)
class Generation:
    """One generated utterance. `finish` is "stop" (the stop token came) or "length" (the cap did).

    `logprobs` float32 (steps,): the log-probability of every decision that was taken, the stop included, before
    temperature and truncation; of values, which are not chosen among finitely many, a `models.parts.value_score`. The
    alignment check compares them with training. `latents` float32 (T, W): the hidden states that decided the codes, from
    families whose decoder takes them besides the codes.
    """

    codes: np.ndarray
    finish: str
    logprobs: np.ndarray
    latents: np.ndarray | None = None


@dataclass
class Loss:
    """`total` is what is minimised (a scalar with gradient); `parts` are its named terms (floats: nats per label, or a mean squared
    error where values are learnt)."""

    total: torch.Tensor
    parts: dict[str, float]
    labels: int  # supervised decisions in this batch


class Codec(ABC):
    """Waveform to codes and back. Batched results equal single ones, bit for bit."""

    contract: Contract
    output_sample_rate: int
    reference_seconds = 0.0  # how much of a recording of the speaker `decode`, or the network in codes, hears besides; 0: nothing

    @abstractmethod
    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Waves at `contract.sample_rate` to codes (T, K) of `contract.dtype`."""

    def disagreement(self, waves: Sequence[np.ndarray]) -> float | None:
        """Share of the codes of `waves` on which what upstream itself runs disagrees; None where there is no such thing here."""
        return None

    def prepared(self, waves: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Codes and speaker vector of each wave: what `encode` and `speaker_embedding` give, of one pass where they have one in common."""
        return [(codes, self.speaker_embedding(wave)) for codes, wave in zip(self.encode(waves), waves, strict=True)]

    def voice_embedding(self, mean: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """The speaker's vector of a voice with a recording `reference`: `mean`, over several clips, unless upstream hears that recording alone."""
        return mean

    def prompt(self, wave: np.ndarray) -> np.ndarray:
        """Codes (P, K) of a reference recording, with which the network is prompted."""
        return self.encode([wave])[0]

    @abstractmethod
    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        """Float32 (E,) of one wave at `contract.sample_rate`; empty for families without one."""

    @abstractmethod
    def decode(self, codes: Sequence[np.ndarray], voice: Voice) -> list[np.ndarray]:
        """Codes (T, K) to waves at `output_sample_rate`."""

    def tuned(self, network: torch.nn.Module) -> Codec:
        """The same, with the decoder that was trained along with `network`; itself where none was."""
        return self

    def render(self, generations: Sequence[Generation], voice: Voice) -> list[np.ndarray]:
        """What a network generated to waves: its codes, and its latents where the decoder takes them."""
        return self.decode([generation.codes for generation in generations], voice)


@dataclass(frozen=True)
class AdaptSettings:
    """`mode` "lora" or "sft"; rank, alpha, dropout and targets count for LoRA alone. `parts`: what trains, of those that
    the card names; the language model always does."""

    mode: str = "lora"
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    parts: tuple[str, ...] = ("llm",)


class Family(ABC):
    """One model family. `name` is its package; `card` the facts in card.yaml."""

    name: str
    references = 0  # utterances that a voice brings along as `prompts`
    told_who_speaks = False  # does the network take the speaker's vector?
    decisions: tuple[str, ...] = ("token",)  # what the numbers of `Generation.logprobs` are of, in turn, for messages

    def __init__(self) -> None:
        path = Path(__file__).parents[1] / self.name / "card.yaml"
        self.card: dict[str, Any] = yaml.safe_load(path.read_text())

    # --- data -----------------------------------------------------------------------------------------------------
    @abstractmethod
    def codec(self, weights: Path) -> Codec: ...

    @abstractmethod
    def write(self, examples: Sequence[Example], folder: Path) -> None:
        """Write the family's own training format to `folder` (made if absent), the same bytes for the same input."""

    @abstractmethod
    def read(self, folder: Path) -> list[Example]:
        """What `write` wrote, exactly and in order. UserError for a file that is missing, cut or of another shape."""

    def prepare(self, examples: Sequence[Example], weights: Path) -> list[Example]:
        """Utterances as `write` stores them, where that is more than they hold: ids of the base's tokenizer, prompts."""
        return list(examples)

    def preset(self, weights: Path, name: str) -> Voice:
        """A voice that the release brings along, to speak with before anything is tuned. UserError that says which there are."""
        raise UserError(f"{self.name}: its release has no voices of its own")

    # --- network --------------------------------------------------------------------------------------------------
    def check_release(self, weights: Path) -> None:
        """UserError for the first thing that is wrong with a folder of released weights. Reads no tensor.

        Its pickles and ONNX parts are safetensors of the same names by then, nested dictionaries as dotted keys.
        """
        raise UserError(f"{self.name}: released weights can't be brought in yet")

    @abstractmethod
    def network(
        self, weights: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> torch.nn.Module:
        """The network with the released key names, loaded strictly, its parameters as `dtype` on `device`, in eval mode.

        On the device "meta" only the configuration and the tokenizer are read.
        """

    def network_to_train(
        self, weights: Path, settings: AdaptSettings, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> torch.nn.Module:
        """The same, and in it whatever else `settings.parts` names. UserError where the weights have no such part."""
        return self.network(weights, dtype, device)

    @abstractmethod
    def create(self, config: dict[str, Any], seed: int) -> torch.nn.Module:
        """A network with seeded random weights and a character tokenizer, for training a tiny base from nothing."""

    def base_examples(self, examples: Sequence[Example], points: Callable[[str], np.ndarray]) -> list[Example]:
        """What a base is trained on from nothing, where that is more than text and codes.

        `points(id)`: what the tokeniser quantises of an utterance, float32 (T, D), for a network that hears a prompt.
        """
        return list(examples)

    def latents(self, network: torch.nn.Module, examples: Sequence[Example]) -> list[np.ndarray]:
        """`Generation.latents` of each utterance, teacher-forced, from families whose decoder takes them."""
        raise NotImplementedError(f"{self.name}: the decoder takes codes alone")

    @abstractmethod
    def save(self, network: torch.nn.Module, folder: Path) -> None:
        """Write what `network` reads: config.json, tokenizer.json and the weights in half precision."""

    def export(self, network: torch.nn.Module, voice: Voice, weights: Path, folder: Path) -> None:
        """Write `network`, the adapter merged into the base in `weights`, as a folder of its own that loads like that base.

        `voice`: the one that it was judged with, for a layout that holds one.
        """
        self.save(network, folder)
        shutil.copytree(weights / "codec", folder / "codec", dirs_exist_ok=True)

    def export_adapter(  # noqa: B027  # most have no such form
        self, state: dict[str, torch.Tensor], settings: AdaptSettings, scale: float, weights: Path, folder: Path
    ) -> None:
        """Write `scale` × the LoRA beside the merged network, where upstream's inference loads one on the base in `weights`."""

    def write_release(self, folder: Path, size: str) -> None:
        """A folder in the layout of the released weights, filled at random, for a rehearsal; `size`: small | released."""
        raise UserError(f"{self.name}: there is no rehearsal of the released weights yet")

    @abstractmethod
    def adapt(self, network: torch.nn.Module, settings: AdaptSettings) -> torch.nn.Module:
        """Make `network` trainable (LoRA or SFT); returns the module to train. Its outputs do not change by this.

        What trains is float32; under LoRA the frozen base may be bfloat16.
        """

    @abstractmethod
    def adapter_state(self, network: torch.nn.Module, settings: AdaptSettings) -> dict[str, torch.Tensor]:
        """What a checkpoint stores: the adapter's tensors, or every weight for SFT."""

    @abstractmethod
    def merged(
        self, weights: Path, state: dict[str, torch.Tensor], settings: AdaptSettings, scale: float,
        dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    ) -> torch.nn.Module:  # fmt: skip
        """A plain network: the saved base plus `scale` × the adapter. SFT: base + scale × difference.

        Each tensor is merged in float32 and rounded to `dtype` once.
        """

    @abstractmethod
    def batch(self, network: torch.nn.Module, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Padded tensors of one batch, labels included. The one place where labels are shifted."""

    def blank(self, network: torch.nn.Module, text: str, frames: int) -> Example:
        """`text` said in `frames` frames of nothing, as `batch` takes it: what memory is planned with."""
        return Example("", text, "", np.zeros((frames, self.card["codebooks"]), np.int32))

    def base_batch(self, network: torch.nn.Module, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """`batch` as a base is trained on it from nothing, where that is harder than fine-tuning; torch's seed decides."""
        return self.batch(network, examples)

    @abstractmethod
    def loss(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Loss: ...

    def base_loss(self, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[Loss, torch.Tensor]:
        """`loss`, and what each labelled frame is drawn from (labels, D), from families whose codec writes values."""
        raise NotImplementedError(f"{self.name}: the network writes codes")

    @abstractmethod
    def generate(
        self, network: torch.nn.Module, texts: Sequence[str], voice: Voice, sampling: Sampling, seeds: Sequence[int],
        max_frames: Sequence[int],
    ) -> list[Generation]:
        """One utterance a text, generated as one batch with a KV cache; `seeds[i]` alone decides its randomness."""

    @abstractmethod
    def decision_logprobs(self, network: torch.nn.Module, text: str, voice: Voice, generation: Generation) -> np.ndarray:
        """Teacher-forced: the training path's log-probability of each decision in `generation.logprobs`, same order."""

    @abstractmethod
    def check_shapes(self, network: torch.nn.Module, contract: Contract) -> None:
        """Head width, embedding rows, special ids and the largest code fit each other; UserError if not."""
