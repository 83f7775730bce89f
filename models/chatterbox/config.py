"""A Chatterbox weights folder: what `config.json` says, and the sizes of the released network, whose folder has none.

Field names follow resemble-ai/chatterbox, src/chatterbox/models/t3/modules/t3_config.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.parts.errors import UserError
from models.parts.weights import read_config, read_shapes


@dataclass(frozen=True)
class T3Config:
    """Ids below `start_speech_token` are speech codes; start, stop and unused rows come after them."""

    llama: dict[str, Any]             # the trunk: a transformers LlamaConfig
    text_tokens_dict_size: int
    start_text_token: int
    stop_text_token: int
    start_speech_token: int
    stop_speech_token: int
    speech_tokens_dict_size: int
    max_text_tokens: int              # learned positions: so many, and two for start and stop
    max_speech_tokens: int            # ... and four
    speaker_embed_size: int
    perceiver_queries: int            # positions that a prompt becomes
    text_dropout: float = 0.1         # share of utterances that training hears without their text: what guidance needs

    @property
    def width(self) -> int:
        return int(self.llama["hidden_size"])

    @classmethod
    def load(cls, folder: Path) -> T3Config:
        """`folder`/config.json, or what the release's code says where there is none, in the sizes of its file."""
        path = folder / "config.json"
        if not path.is_file() and (folder / WEIGHTS).is_file():
            return _released(folder / WEIGHTS)
        values = {key: value for key, value in read_config(path).items() if key != "origin"}
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"{path}: not Chatterbox's configuration ({error}); restore the file") from None


WEIGHTS, S3GEN = "t3_cfg.safetensors", "s3gen.safetensors"  # upstream's names; the second is a release's codec
PROMPT = 150  # codes of a prompt at most: 6 s (upstream's speech_cond_prompt_len)

# English Chatterbox (t3_config.py and llama_configs.py beside it).
RELEASED = T3Config(
    llama={
        "vocab_size": 8, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 30,
        "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 64, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    text_tokens_dict_size=704, start_text_token=255, stop_text_token=0,
    start_speech_token=6561, stop_speech_token=6562, speech_tokens_dict_size=8194,
    max_text_tokens=2048, max_speech_tokens=4096, speaker_embed_size=256, perceiver_queries=32,
)


def _released(path: Path) -> T3Config:
    """`RELEASED` as wide and as deep as the network of `path`: a release has another size in a rehearsal alone."""
    shapes = read_shapes(path)
    try:
        inner, width = shapes["tfmr.layers.0.mlp.gate_proj.weight"]
        queries = shapes["cond_enc.perceiver.pre_attention_query"][1]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: not Chatterbox's T3 (no {error}); take {WEIGHTS} of English Chatterbox") from None
    layers = len({name.split(".")[2] for name in shapes if name.startswith("tfmr.layers.")})
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    sizes |= {heads: RELEASED.llama[heads] * width // RELEASED.width for heads in ("num_attention_heads", "num_key_value_heads")}
    return replace(RELEASED, llama=RELEASED.llama | sizes, perceiver_queries=queries)
