"""A Qwen3-TTS weights folder's `config.json`, kept as the plain dictionary that it is.

Field names are upstream's (QwenLM/Qwen3-TTS, qwen_tts/core/models/configuration_qwen3_tts.py). Upstream's own classes
write a file that they cannot read back, so that a folder is always made by editing the dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import Qwen3Config

from models.parts.errors import UserError

_BLOCK = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps",
)
BASE, CUSTOM = "base", "custom_voice"
KINDS = (BASE, CUSTOM, "voice_design")  # of weights; who speaks is said by a vector, by a row, by an instruction
SPEAKER_ROW = 3000  # of the codec embedding: where upstream's fine-tunes keep the speaker's vector


@dataclass(frozen=True)
class Ids:
    """Special tokens. `codes` counts the entries of codebook 0, which are the first rows of the codec embedding."""

    codes: int
    eos: int
    bos: int
    pad: int
    nothink: int
    think_bos: int
    think_eos: int
    speaker: int  # stands for the speaker's vector in the codec channel
    tts_pad: int  # these three are text tokens
    tts_bos: int
    tts_eos: int
    think: int = -1  # before a language; our tiny networks know of none
    languages: Mapping[str, int] = field(default_factory=dict)
    speakers: Mapping[str, int] = field(default_factory=dict)  # rows of the codec embedding, of a custom voice
    dialects: Mapping[str, str | bool] = field(default_factory=dict)  # what a speaker speaks instead of Chinese

    @classmethod
    def of(cls, config: dict[str, Any]) -> Ids:
        talker = config["talker_config"]
        return cls(
            # Upstream never generates the upper 1024 rows but for the end; our tiny networks have fewer of them.
            codes=talker["vocab_size"] - talker.get("special_rows", 1024),
            eos=talker["codec_eos_token_id"], bos=talker["codec_bos_id"], pad=talker["codec_pad_id"],
            nothink=talker["codec_nothink_id"], think_bos=talker["codec_think_bos_id"],
            think_eos=talker["codec_think_eos_id"], speaker=talker.get("speaker_row", SPEAKER_ROW),
            tts_pad=config["tts_pad_token_id"], tts_bos=config["tts_bos_token_id"], tts_eos=config["tts_eos_token_id"],
            think=talker.get("codec_think_id", -1), languages=talker.get("codec_language_id") or {},
            speakers=talker.get("spk_id") or {}, dialects=talker.get("spk_is_dialect") or {},
        )

    @property
    def codec(self) -> list[int]:
        """Every special row of the codec embedding that a sequence needs."""
        needed = [self.eos, self.bos, self.pad, self.nothink, self.think_bos, self.think_eos, self.speaker]
        return [*needed, *([self.think] if self.languages else []), *self.languages.values(), *self.speakers.values()]

    def language(self, name: str, speaker: str = "") -> int | None:
        """The codec token of a language; None for "auto". A speaker of a dialect speaks it for "auto" and "chinese".

        UserError for a language that the network does not know.
        """
        wanted = name.lower()
        if wanted in ("auto", "chinese"):
            wanted = str(self.dialects.get(speaker.lower()) or wanted)
        if wanted == "auto":
            return None
        if wanted not in self.languages:
            raise UserError(f"language {name!r}: the network knows {', '.join(['auto', *self.languages])}; ask for one of them")
        return self.languages[wanted]

    def row_of(self, speaker: str) -> int:
        """The row of the codec embedding that is a custom voice's speaker. UserError for one that it does not know."""
        if speaker.lower() not in self.speakers:
            raise UserError(f"speaker {speaker!r}: the weights know {', '.join(self.speakers) or 'none'}; ask for one of them")
        return self.speakers[speaker.lower()]


def block_config(section: dict[str, Any]) -> Qwen3Config:
    """The transformer of `talker_config` or `code_predictor_config` as Qwen 3's.

    The talker's rotary positions have three sections (`mrope_section`), for time, height and width. Speech has the same
    position in all three, which is the ordinary rotary embedding.
    """
    rope = {"rope_type": "default", "rope_theta": section["rope_theta"]}
    return Qwen3Config(**{name: section[name] for name in _BLOCK}, rope_parameters=rope, use_cache=False)


def check(config: dict[str, Any], where: str) -> dict[str, Any]:
    """`config` itself; UserError if a field that the network needs is missing."""
    try:
        Ids.of(config)
        talker = config["talker_config"]
        for section in (talker, talker["code_predictor_config"]):
            block_config(section)
            section["num_code_groups"]
        talker["text_vocab_size"], talker["text_hidden_size"]
        config["speaker_encoder_config"]
        if config["tts_model_type"] not in KINDS:
            raise UserError(f"{where}: tts_model_type {config['tts_model_type']!r}; use weights of {', '.join(KINDS)}")
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{where}: not Qwen3-TTS's configuration (no {error}); use the file that came with the weights"
        ) from None
    return config
