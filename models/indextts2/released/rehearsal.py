"""A folder in the layout of IndexTTS2, with what its download brings from elsewhere, to go through every stage without the release.

Weights are by formula, but for the tables that follow from the code. The pieces of its `bpe.model` are capitals.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from sentencepiece import SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]
from torch import nn
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from models.indextts2.conditioner import Sinusoids
from models.indextts2.network import RELEASED, UnifiedVoice
from models.indextts2.released.bigvgan import BigVGAN, lowpass
from models.indextts2.released.codec import MEL
from models.indextts2.released.dit import STYLE, DiT, TimeEmbedding
from models.indextts2.released.files import (
    CONFIG,
    FEELINGS,
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
)
from models.indextts2.released.repcodec import RepCodec
from models.indextts2.released.s2mel import S2Mel
from models.parts.weights import write_tensors
from models.released import formula, rehearsal
from models.released.shapes import Shapes, shapes_of

Sizes = dict[str, Any]
# `heads` of the DiT stand in config.yaml alone; the rest of s2mel and RepCodec are what their classes take.
BIG: Sizes = {
    "gpt": {}, "hearing": {}, "repcodec": {"width": 384, "inner": 2048, "layers": 12},
    "dit": {"told": 512, "width": 512, "heads": 8, "inner": 1536, "layers": 13, "wave_width": 512, "kernel": 5, "wave_layers": 8}, "latents": (256, 128),
    "vocoder": 1536, "speaker": 32,
}  # fmt: skip
_HEARD = {"output_size": 32, "linear_units": 48, "attention_heads": 1, "num_blocks": 1, "perceiver_mult": 1}
SMALL: Sizes = {
    "gpt": {"model_dim": 128, "layers": 2, "heads": 2, "number_text_tokens": 200, "condition_num_latent": 4, "condition_module": _HEARD,
            "emo_condition_module": _HEARD, "condition_width": 64, "emo_width": 64},
    "hearing": {"hidden_size": 64, "num_hidden_layers": 18, "num_attention_heads": 4, "intermediate_size": 96},
    "repcodec": {"width": 24, "inner": 48, "layers": 2},
    "dit": {"told": 48, "width": 64, "heads": 4, "inner": 96, "layers": 3, "wave_width": 64, "kernel": 5, "wave_layers": 2}, "latents": (32, 16),
    "vocoder": 128, "speaker": 8,
}  # fmt: skip
EMOTIONS = [3, 17, 2, 8, 4, 5, 10, 24]
# Whose weights stand as gain and direction.
NORMED = re.compile(r"(cfm\.estimator\.(wavenet\..*|final_layer\.linear)|quantizer\..*_project|(conv_pre|conv_post|ups\..*|resblocks\..*convs.*))\.weight")
SAID = "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG, AND 0123456789 ARE NUMBERS! ISN'T IT - SO? YES... HOLD THE LINE."
# As it comes, the last convolution makes a wave that is clipped.
QUIETER = ({"keys": r"conv_post\.weight_g", "mul": 0.1, "add": 0.0},)


def write(folder: Path, size: str) -> None:
    """`size` "small" (some 20 MB) or "released" (7.3 GB)."""
    sizes = SMALL if formula.is_small(size) else BIG
    gpt = RELEASED | sizes["gpt"]
    (folder / HEARING).mkdir(parents=True, exist_ok=True)
    (folder / VOCODER).mkdir()
    (folder / CONFIG).write_text(yaml.safe_dump(config_of(gpt, sizes), sort_keys=False))
    write_pieces(folder / TEXT, gpt["number_text_tokens"])
    hidden, told = gpt["condition_width"], sizes["dit"]["told"]
    vocoder = vocoder_config(sizes["vocoder"])
    hearing = Wav2Vec2BertConfig(**{"hidden_size": hidden} | sizes["hearing"])
    with torch.device("meta"):
        network, heard = UnifiedVoice(gpt), Wav2Vec2BertModel(hearing)
        repcodec = RepCodec(hidden, entries=gpt["start_mel_token"], narrow=8, **sizes["repcodec"])
        s2mel = S2Mel(DiT(**sizes["dit"]), hidden, told, (gpt["model_dim"], *sizes["latents"], hidden))
        generator, speaker = BigVGAN(vocoder), rehearsal.campplus(sizes["speaker"] < BIG["speaker"])
    torch.save(values(shapes_of(network)), folder / GPT)
    write_json(folder / VOCODER / "config.json", vocoder)
    write_json(folder / HEARING / "config.json", hearing.to_dict())
    write_json(folder / HEARING / "preprocessor_config.json", {
        "feature_extractor_type": "SeamlessM4TFeatureExtractor", "feature_size": 80, "num_mel_bins": 80, "padding_side": "right",
        "padding_value": 1, "return_attention_mask": True, "sampling_rate": 16000, "stride": 2,
    })  # fmt: skip
    for name, shapes in ((f"{HEARING}/model.safetensors", shapes_of(heard)), (REPCODEC, as_stored(repcodec))):
        write_tensors(folder / name, shapes, torch.float32, lambda key, shapes=shapes: formula.value(key, shapes[key]))  # type: ignore[misc]
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in values(as_stored(s2mel) | {"length_regulator.mask_token": (1, told)}).items():
        part, _, inner = name.partition(".")
        parts.setdefault(part, {})[inner] = tensor
    parts["cfm"]["estimator.input_pos"] = torch.arange(16384)
    torch.save({"net": parts, "iters": 1, "epoch": 0}, folder / S2MEL)  # its training left more there
    torch.save({"generator": values(as_stored(generator))}, folder / GENERATOR)
    torch.save(rehearsal.by_formula(speaker), folder / SPEAKER)
    torch.save({"mean": formula.value("mean", (hidden,)) - 1, "var": formula.value("running_var", (hidden,))}, folder / STATISTICS)
    for name, columns in ((STYLES, STYLE), (FEELINGS, gpt["model_dim"])):
        torch.save(formula.value(name, (sum(EMOTIONS), columns)), folder / name)


def as_stored(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a part's file."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes_of(module).items():
        if NORMED.fullmatch(name):
            found |= {f"{name}_g": (shape[0], *(1 for _ in shape[1:])), f"{name}_v": shape}
        else:
            found[name] = shape
    return found


def values(shapes: Shapes) -> dict[str, torch.Tensor]:
    """By formula, but for what follows from the code."""

    def value(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("pos_enc.pe"):
            return Sinusoids(*shape[1:]).pe
        if name.endswith(".freqs"):
            return TimeEmbedding(1).freqs
        return lowpass() if name.endswith(".filter") else formula.value(name, shape, QUIETER)

    return {name: value(name, tuple(shape)) for name, shape in shapes.items()}


def config_of(gpt: Sizes, sizes: Sizes) -> Sizes:
    """config.yaml, without what nobody reads."""
    kept = {key: value for key, value in gpt.items() if key not in ("condition_num_latent", "condition_width", "emo_width", "condition_positions", "dropout")}
    dit = sizes["dit"]
    spectrum = {"n_fft": MEL.window, "win_length": MEL.window, "hop_length": MEL.hop, "n_mels": MEL.bands, "fmin": 0, "fmax": "None"}
    return {
        "dataset": {"bpe_model": TEXT, "sample_rate": 24000},
        "gpt": kept | {"condition_type": "conformer_perceiver", "use_mel_codes_as_input": True, "mel_length_compression": 1024, "train_solo_embeddings": False},
        "semantic_codec": {
            "codebook_size": gpt["start_mel_token"], "hidden_size": gpt["condition_width"], "codebook_dim": 8, "vocos_dim": sizes["repcodec"]["width"],
            "vocos_intermediate_dim": sizes["repcodec"]["inner"], "vocos_num_layers": sizes["repcodec"]["layers"],
        },
        "s2mel": {
            "preprocess_params": {"sr": MEL.rate, "spect_params": spectrum}, "style_encoder": {"dim": STYLE},
            "length_regulator": {"channels": dit["told"], "in_channels": gpt["condition_width"], "is_discrete": False, "sampling_ratios": [1, 1, 1, 1]},
            "DiT": {"hidden_dim": dit["width"], "num_heads": dit["heads"], "depth": dit["layers"], "content_dim": dit["told"], "in_channels": MEL.bands,
                    "style_condition": True, "final_layer_type": "wavenet", "long_skip_connection": True, "uvit_skip_connection": True, "is_causal": False},
            "wavenet": {"hidden_dim": dit["wave_width"], "num_layers": dit["wave_layers"], "kernel_size": dit["kernel"], "dilation_rate": 1, "style_condition": True},
        },
        "gpt_checkpoint": GPT, "w2v_stat": STATISTICS, "s2mel_checkpoint": S2MEL, "emo_matrix": FEELINGS, "spk_matrix": STYLES, "emo_num": EMOTIONS,
        "vocoder": {"type": "bigvgan", "name": "nvidia/bigvgan_v2_22khz_80band_256x"}, "version": 2.0,
    }  # fmt: skip


def vocoder_config(channels: int) -> Sizes:
    return {
        "resblock": "1", "upsample_rates": [4, 4, 2, 2, 2, 2], "upsample_kernel_sizes": [8, 8, 4, 4, 4, 4], "upsample_initial_channel": channels,
        "resblock_kernel_sizes": [3, 7, 11], "resblock_dilation_sizes": [[1, 3, 5]] * 3, "activation": "snakebeta", "snake_logscale": True,
        "use_tanh_at_final": False, "use_bias_at_final": False, "num_mels": MEL.bands, "n_fft": MEL.window, "hop_size": MEL.hop, "win_size": MEL.window,
        "sampling_rate": MEL.rate, "fmin": 0, "fmax": None,
    }  # fmt: skip


def write_pieces(path: Path, count: int) -> None:
    """A SentencePiece model of capitals, digits and marks with `count` pieces, its marks made alike as the release's are."""
    trained = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([SAID] * 2), model_writer=trained, vocab_size=100, hard_vocab_limit=False, character_coverage=1.0,
        normalization_rule_name="nmt_nfkc", bos_id=0, eos_id=1, unk_id=2, minloglevel=2,
    )  # fmt: skip
    model = ModelProto.FromString(trained.getvalue())
    for number in range(len(model.pieces), count):
        model.pieces.add(piece=f"<{number}>", score=-100.0)
    path.write_bytes(model.SerializeToString())


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
