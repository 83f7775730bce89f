"""A folder in the layout of Qwen3-TTS-12Hz-0.6B-Base with weights by formula, to go through every stage without the release.

The small files are the release's own fields (`template/`); only sizes and token ids are smaller in a small one. The
tokenizer reads bytes: it holds the special tokens and three merged words.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from models.parts.weights import write_tensors
from models.qwen3_tts.config import Ids
from models.qwen3_tts.network import Qwen3TTSNetwork
from models.qwen3_tts.released.check import TOKENS
from models.qwen3_tts.released.codec import SpeechTokenizer
from models.qwen3_tts.released.files import FOLDER
from models.released import formula
from models.released.shapes import shapes_of

TEMPLATE = Path(__file__).parent / "template"
SMALL_BLOCK = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
SMALL_SPEAKER = {"enc_dim": 64, "enc_channels": [32, 32, 32, 32, 96], "enc_attention_channels": 16, "enc_se_channels": 16}
SMALL_ENCODER = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "head_dim": 16, "num_filters": 8, "codebook_dim": 32, "vector_quantization_hidden_dimension": 32, "upsample_groups": 64,
}  # fmt: skip
SMALL_DECODER = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "head_dim": 16, "latent_dim": 48, "codebook_dim": 32, "vector_quantization_hidden_dimension": 32, "decoder_dim": 64,
}  # fmt: skip
SMALL_WORDS = 320  # rows of text: 256 bytes, the merges, the special tokens, and some that nothing uses, as in the release
# As they come, rounding grows to a tenth of a wave that is 25 times too loud.
CODEC_RULES = (
    {"keys": r"decoder\.decoder\..*\.alpha", "mul": 1.0, "add": -1.0},
    {"keys": r"decoder\.decoder\.6\.conv\.(weight|bias)", "mul": 0.02, "add": 0.0},
)
FIRST_SPECIAL = 151643  # of the release's text tokens; as many stand before it in vocab.json
SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|> "
    "<|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> <tool_call> </tool_call> "
    "<|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> <tool_response> </tool_response> "
    "<think> </think> <|audio_start|> <|audio_end|> <tts_pad> <tts_text_bos> <tts_text_eod> <tts_text_bos_single> <|audio_pad|>"
).split()  # fmt: skip
WORDS = ("assistant", "user", "the")  # the first is one token of the release's prompt


def write(folder: Path, size: str) -> None:
    """`size` "small" (some 20 MB) or "released" (2.5 GB, written tensor by tensor)."""
    small = formula.is_small(size)
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for file in TEMPLATE.rglob("*.json"):
        (folder / file.relative_to(TEMPLATE)).write_bytes(file.read_bytes())
    config, codec = _read("config.json"), _read(f"{FOLDER}/config.json")
    write_tokenizer(folder, config, None if small else FIRST_SPECIAL)
    if small:
        shrink(config, codec)
        _write(folder / "config.json", config)
        _write(folder / FOLDER / "config.json", codec)
    with torch.device("meta"):
        network, tokenizer = shapes_of(Qwen3TTSNetwork(config)), shapes_of(SpeechTokenizer(codec, folder / FOLDER))
    # A louder stop: as it comes, one frame in two thousand would be the last. So small takes have some 30 (measured).
    stop = {"keys": r"talker\.codec_head\.weight", "row": Ids.of(config).eos, "mul": 8.0, "add": 0.0}
    write_tensors(
        folder / "model.safetensors", network, torch.bfloat16, lambda key: formula.value(key, network[key], (stop,))
    )
    write_tensors(
        folder / FOLDER / "model.safetensors", tokenizer, torch.float32,
        lambda key: formula.value(key, tokenizer[key], CODEC_RULES),
    )  # fmt: skip


def shrink(config: dict[str, Any], codec: dict[str, Any]) -> None:
    """The release's two configurations, in place, at a few million weights. Codebooks and rates stay."""
    talker = config["talker_config"]
    talker |= SMALL_BLOCK | {"text_vocab_size": SMALL_WORDS, "text_hidden_size": 96}
    talker["rope_scaling"]["mrope_section"] = [4, 2, 2]
    talker["code_predictor_config"] |= SMALL_BLOCK | {"layer_types": ["full_attention"] * SMALL_BLOCK["num_hidden_layers"]}
    config["speaker_encoder_config"] |= SMALL_SPEAKER
    codec["encoder_config"] |= SMALL_ENCODER
    codec["decoder_config"] |= SMALL_DECODER


def write_tokenizer(folder: Path, config: dict[str, Any], size: int | None) -> None:
    """vocab.json, merges.txt (without a version line, as released) and tokenizer_config.json. The special tokens come
    after `size` others, or after those that there are; their ids go into `config`."""
    letters, merges = byte_letters(), []
    for word in WORDS:
        merges += [(word[:end], word[end]) for end in range(1, len(word)) if (word[:end], word[end]) not in merges]
    tokens = [*letters, *("".join(pair) for pair in merges)]
    if size:  # tokens that no merge makes, but "assistant" has its own place
        tokens += [f"<{index}>" for index in range(len(tokens), size)]
        here, there = tokens.index(WORDS[0]), config["assistant_token_id"]
        tokens[here], tokens[there] = tokens[there], tokens[here]
    ids = {token: index for index, token in enumerate([*tokens, *SPECIAL])}
    config |= {field: ids[token] for field, token in TOKENS.items()} | {"assistant_token_id": ids[WORDS[0]]}
    (folder / "vocab.json").write_text(json.dumps({token: ids[token] for token in tokens}, ensure_ascii=False))
    (folder / "merges.txt").write_text("".join(f"{left} {right}\n" for left, right in merges))
    spoken = SPECIAL.index("<tool_call>"), SPECIAL.index("</think>")  # these are ordinary text to the release
    added = {
        str(ids[token]): {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                          "special": not spoken[0] <= index <= spoken[1]}
        for index, token in enumerate(SPECIAL)
    }  # fmt: skip
    _write(folder / "tokenizer_config.json", {
        "add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": added, "bos_token": None,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 131072,
        "pad_token": "<|endoftext|>", "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    })  # fmt: skip


def byte_letters() -> list[str]:
    """A visible letter for each byte, in the order of GPT-2's vocabulary, which is Qwen's: printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def _read(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((TEMPLATE / name).read_text())
    return config


def _write(path: Path, config: dict[str, Any]) -> None:
    path.write_text(json.dumps(config, indent=2) + "\n")
