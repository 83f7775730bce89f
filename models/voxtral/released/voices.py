"""The voices of a release: each a reference that is embedded already, a row for every frame, the end frame's last.

Upstream puts the rows in the place of its prompt's [AUDIO] tokens (vllm-omni model_executor/models/voxtral_tts/voxtral_tts.py).
"""

from __future__ import annotations

from pathlib import Path

import torch

from models.parts.errors import UserError
from models.parts.weights import map_tensors, read_config

FOLDER = "voice_embedding"
KEY = "tensor"  # `make weights` calls a tensor so that has a file to itself


def voice_files(weights: Path) -> dict[str, Path]:
    """The file of each voice, by name. UserError where there is none: upstream's network was never asked without one."""
    files = {path.stem: path for path in sorted((weights / FOLDER).glob("*.safetensors"))}
    if not files:
        raise UserError(f"{weights / FOLDER}: no voice there; bring the whole release in with `make weights MODEL=voxtral`")
    return files


def read_voices(weights: Path) -> dict[str, torch.Tensor]:
    """The rows (N, dim) of each voice, by name, as they are stored."""
    return {name: map_tensors(path)[KEY] for name, path in voice_files(weights).items()}


def count_voices(weights: Path) -> dict[str, int]:
    """How many [AUDIO] tokens upstream writes for each voice, by tekken.json."""
    path = weights / "tekken.json"
    try:
        return {name: int(count) for name, count in read_config(path)["audio"]["voice_num_audio_tokens"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: does not say how long the voices are (audio.voice_num_audio_tokens: {error}); restore the file that came with the weights") from None
