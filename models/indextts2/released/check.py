"""Is this folder a release of IndexTTS2, whole and of the shapes that its networks have? Reads no tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.indextts2.network import RELEASED, UnifiedVoice
from models.indextts2.released.bigvgan import BigVGAN
from models.indextts2.released.codec import MEL
from models.indextts2.released.dit import BANDS, STYLE
from models.indextts2.released.files import (
    CONFIG,
    FEELINGS,
    FILES,
    GENERATOR,
    GPT,
    HEARING,
    REPCODEC,
    S2MEL,
    SPEAKER,
    STATISTICS,
    STYLES,
    TEXT,
    VOCODER,
    State,
    configuration,
    gpt_tensors,
    hearing_config,
    hearing_tensors,
    repcodec_tensors,
    s2mel_tensors,
    settings,
    vocoder_tensors,
)
from models.indextts2.released.hearing import Hearing
from models.indextts2.released.repcodec import RepCodec
from models.indextts2.released.s2mel import S2Mel
from models.indextts2.released.text import Pieces
from models.parts.errors import UserError
from models.parts.weights import check_fit, check_header, read_config, read_shapes
from models.released.s3_codec import campplus_like
from models.released.shapes import Shapes, shapes_of
from models.released.stored import ALONE, outlines, stored

EXACT = ("F32", "I64")  # half precision gives other codes
ANY = ("F32", "BF16", "F16", "I64")
# Of the vocoder's config.json: what its network here is built for.
VOCODER_IS = {
    "resblock": "1", "activation": "snakebeta", "snake_logscale": True, "use_tanh_at_final": False, "use_bias_at_final": False,
    "num_mels": BANDS, "sampling_rate": MEL.rate, "n_fft": MEL.window, "hop_size": MEL.hop,
}  # fmt: skip


def check_release(weights: Path) -> None:
    """UserError, naming file and tensor, for the first thing that is missing or does not fit."""
    said = settings(weights)
    for name in FILES:
        if not stored(weights, name).is_file():
            raise UserError(f"{stored(weights, name)}: not there; copy or download the whole release")
    config = configuration(weights, RELEASED)
    check_config(weights, said, config)
    part(weights, GPT, ANY, gpt_tensors, lambda shapes: UnifiedVoice(config))
    heard = part(weights, f"{HEARING}/model.safetensors", EXACT, _as_module(hearing_tensors, config["condition_width"]), lambda shapes: Hearing(hearing_config(weights)))
    repcodec = part(weights, REPCODEC, EXACT, repcodec_tensors, RepCodec.like)
    s2mel = part(weights, S2MEL, ANY, s2mel_tensors, lambda shapes: S2Mel.like(shapes, said["s2mel"]["DiT"]["num_heads"]))
    part(weights, SPEAKER, ANY, dict, campplus_like)
    part(weights, GENERATOR, ANY, vocoder_tensors, lambda shapes: BigVGAN(read_config(weights / VOCODER / "config.json")))
    hidden, width, codes = heard["mean"][0], config["model_dim"], config["start_mel_token"]
    count = sum(said.get("emo_num", ()))
    for name, shapes in ((STATISTICS, {"mean": (hidden,), "var": (hidden,)}), (STYLES, {ALONE: (count, STYLE)}), (FEELINGS, {ALONE: (count, width)})):
        check_header(stored(weights, name), shapes, ("F32",))
    facts = [
        (REPCODEC, repcodec["quantizer.quantizers.0.codebook.weight"][0], "codes", codes),
        (REPCODEC, repcodec["encoder.1.weight"][0], "values a frame", hidden),
        (S2MEL, s2mel["gpt_layer.0.weight"][1], "values of a hidden state", width),
        (S2MEL, s2mel["length_regulator.content_in_proj.weight"][1], "values of a code", hidden),
        (TEXT, Pieces(weights / TEXT).count, "pieces", config["number_text_tokens"]),
    ]
    for name, found, what, wanted in facts:
        if found != wanted:
            raise UserError(f"{stored(weights, name)}: has {found} {what}, and the language model's are {wanted}; the files do not belong together")


def part(weights: Path, name: str, dtypes: tuple[str, ...], own: Callable[[State], dict[str, torch.Tensor]], make: Callable[[Shapes], nn.Module]) -> dict[str, Any]:
    """The shapes of a file's tensors by our names; UserError unless they are exactly those of what `make` makes of them."""
    path = stored(weights, name)
    check_header(path, read_shapes(path), dtypes)
    state = own(outlines(path))
    try:
        with torch.device("meta"):
            module = make(shapes_of(state))
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: not the part of IndexTTS2 that it should be (no {error}); take the file as it was released") from None
    check_fit(module.state_dict(), state, path)
    return shapes_of(state)


def _as_module(own: Callable[[State], dict[str, torch.Tensor]], hidden: int) -> Callable[[State], dict[str, torch.Tensor]]:
    """w2v-bert's tensors as those of the module that has its statistics, which are in another file."""
    statistics = {name: torch.empty(hidden, device="meta") for name in ("mean", "var")}
    return lambda state: {f"model.{name}": tensor for name, tensor in own(state).items()} | statistics


def check_config(weights: Path, said: dict[str, Any], config: dict[str, Any]) -> None:
    """What the configurations say is what the code here does."""
    mel = said["s2mel"].get("preprocess_params", {})
    bands = mel.get("spect_params", {})
    found = {"sr": mel.get("sr")} | {name: bands.get(name) for name in ("n_fft", "win_length", "hop_length", "n_mels", "fmax")}
    wanted = {"sr": MEL.rate, "n_fft": MEL.window, "win_length": MEL.window, "hop_length": MEL.hop, "n_mels": MEL.bands, "fmax": "None"}
    for name, value in wanted.items():
        if found[name] != value:
            raise UserError(f"{weights / CONFIG}: s2mel.preprocess_params: {name} is {found[name]!r}, and only {value!r} is read; take the file as it was released")
    vocoder = read_config(weights / VOCODER / "config.json")
    for name, value in VOCODER_IS.items():
        if vocoder.get(name) != value:
            raise UserError(f"{weights / VOCODER}/config.json: {name} is {vocoder.get(name)!r}, and only {value!r} is read; take bigvgan_v2_22khz_80band_256x")
    rows, stop = config["number_mel_codes"], config["stop_mel_token"]
    if rows != stop + 1:
        raise UserError(f"{weights / CONFIG}: gpt: number_mel_codes {rows} and stop_mel_token {stop} do not belong together; take the file as it was released")
