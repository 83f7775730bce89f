"""The sizes of a Voxtral TTS network, as upstream's params.json has them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.parts.errors import UserError
from models.parts.weights import read_config

EMPTY, END, SPECIALS = 0, 1, 2  # the first rows of every codebook; a code is stored as itself + SPECIALS
PADDED_TO = 128                 # upstream rounds embedding rows and head width up to a multiple of this


def padded(rows: int) -> int:
    """`rows` and what upstream fills up with."""
    return -(-rows // PADDED_TO) * PADDED_TO


@dataclass(frozen=True)
class FlowHeadConfig:
    """The flow-matching head ("acoustic_transformer_args"); its width is that of the language model."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class VoxtralConfig:
    """Language model (a Mistral decoder), codebooks, and the head over the acoustic values."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    vocab_size: int
    semantic_codebook_size: int
    acoustic_codebook_size: int  # levels of each acoustic value
    n_acoustic_codebook: int     # acoustic values of a frame
    flow: FlowHeadConfig
    rope_theta: float = 1e6
    norm_eps: float = 1e-5
    max_seq_len: int = 65536

    @property
    def codebooks(self) -> int:
        return 1 + self.n_acoustic_codebook

    @property
    def entries(self) -> tuple[int, ...]:
        """Entries of each codebook."""
        return (self.semantic_codebook_size, *[self.acoustic_codebook_size] * self.n_acoustic_codebook)

    @property
    def codebook_rows(self) -> list[int]:
        """Rows of each codebook in the table of audio embeddings."""
        return [
            self.semantic_codebook_size + SPECIALS,
            *[self.acoustic_codebook_size + SPECIALS] * self.n_acoustic_codebook,
        ]

    @classmethod
    def load(cls, folder: Path) -> VoxtralConfig:
        """Read `params.json` of a released folder, or `config.json`, which `VoxtralNetwork.save` wrote in the same form."""
        path = folder / "params.json"
        path = path if path.is_file() else folder / "config.json"
        data = read_config(path)
        try:
            audio = data["multimodal"]["audio_model_args"]
            flow = audio["acoustic_transformer_args"]
            config = cls(
                flow=FlowHeadConfig(**_known(FlowHeadConfig, flow)), **_known(cls, data), **_known(cls, audio)
            )
            biases, widths = data.get("use_biases") or flow.get("use_biases"), (flow["dim"], flow["input_dim"])
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: not Voxtral TTS's configuration ({error}); use the file that came with the weights"
            ) from None
        if biases or widths != (config.dim, config.dim):
            raise UserError(
                f"{path}: biases, or a flow head of another width than the language model's: no released Voxtral TTS "
                "has that; use the file that came with the weights"
            )
        return config

    def as_params(self) -> dict[str, Any]:
        """The content of params.json, as far as `load` reads it."""
        own = {key: value for key, value in asdict(self).items() if key != "flow"}
        audio = {key: own.pop(key) for key in ("semantic_codebook_size", "acoustic_codebook_size", "n_acoustic_codebook")}
        flow = {"input_dim": self.dim, "dim": self.dim, **asdict(self.flow)}
        return {**own, "multimodal": {"audio_model_args": {**audio, "acoustic_transformer_args": flow}}}


def _known(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in kind.__dataclass_fields__}


# mistralai/Voxtral-4B-TTS-2603, params.json, as several ports have it.
RELEASED = VoxtralConfig(
    dim=3072, n_layers=26, n_heads=32, n_kv_heads=8, head_dim=128, hidden_dim=9216, vocab_size=131072,
    semantic_codebook_size=8192, acoustic_codebook_size=21, n_acoustic_codebook=36,
    flow=FlowHeadConfig(n_layers=3, n_heads=32, n_kv_heads=8, head_dim=128, hidden_dim=9216),
)
