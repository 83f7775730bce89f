"""A folder in the layout of CosyVoice 2 or 3 with weights by formula, to go through every stage without the release.

The tokenizer reads bytes: it has no merges. The graph that hears a speaker is a stand-in with the release's input and output.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers.convert_slow_tokenizer import bytes_to_unicode

from models.parts.speech_lm import SpeechLM
from models.released import formula, rehearsal
from models.released.cosyvoice.codec import UPSAMPLING
from models.released.cosyvoice.files import FLOW, HIFT, LLM, SPEAKER, tokeniser
from models.released.cosyvoice.tokenizer import ADDED, FOLDER
from models.released.flow import SPEAKER as SIZE
from models.released.hift import framed_sines
from models.released.s3 import S3Tokeniser

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FIRST_SPECIAL = 151643  # of the release's tokens; as many stand before it in vocab.json


def write(folder: Path, size: str, released: dict[str, Any]) -> None:
    """`size` "small" (some 30 MB) or "released" (4.4 GB). `released`: the configuration of the version's release."""
    small, version = formula.is_small(size), released["version"]
    blank = folder / FOLDER
    blank.mkdir(parents=True, exist_ok=True)
    words = write_tokenizer(blank, None if small else FIRST_SPECIAL)
    qwen = released["llm"] | (SMALL | {"vocab_size": words + len(ADDED)} if small else {})
    stated = {name: value for name, value in qwen.items() if name != "rope_parameters"} | {"rope_theta": qwen["rope_parameters"]["rope_theta"]}
    _write(blank / "config.json", {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"} | stated)
    _write(blank / "generation_config.json", {"eos_token_id": words - 1})
    (folder / f"cosyvoice{version}.yaml").write_text("sample_rate: 24000\n")
    with torch.device("meta"):
        network = SpeechLM(released | {"llm": qwen})
        flow, hift = rehearsal.flow(version, small), rehearsal.hift(framed_sines(UPSAMPLING[version]), version == 3, small)
    state = rehearsal.by_formula(network)
    state["llm.model.lm_head.weight"] = state["llm.model.model.embed_tokens.weight"]  # stored once, as in the release
    torch.save(state, folder / f"{LLM}.pt")
    for name, module in ((FLOW, flow), (HIFT, hift)):
        torch.save(rehearsal.by_formula(module), folder / f"{name}.pt")
    write_tokeniser(rehearsal.s3_tokeniser(version, small), folder / tokeniser(version))
    write_speaker(folder / SPEAKER)


def write_tokeniser(network: S3Tokeniser, path: Path) -> None:
    """As an ONNX graph whose nodes have the released one's names."""
    formula.fill(network)
    example = torch.zeros(1, 128, 100), torch.tensor([100], dtype=torch.int32)
    with warnings.catch_warnings():  # of the exporter, on itself
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), example, str(path), input_names=["feats", "feats_length"], output_names=["indices"],
            dynamic_axes={"feats": {2: "t"}, "indices": {1: "codes"}}, dynamo=False, opset_version=17,
        )  # fmt: skip
    graph = onnx.load(path)
    for node in graph.graph.node:
        node.name = node.name.removeprefix("/encoder").replace("/quantizer/_codebook/project_down", "/quantizer/project_in")
    onnx.save(graph, path)


def write_speaker(path: Path) -> None:
    """A graph (1, frames, 80) -> (1, 192): the loudness of the bands, mixed."""
    mixing = numpy_helper.from_array(np.ascontiguousarray(formula.tensor("speaker", (80, SIZE))), "mixing")
    nodes = [
        helper.make_node("Abs", ["input"], ["loud"]), helper.make_node("ReduceMean", ["loud"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "mixing"], ["output"]),
    ]  # fmt: skip
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, "frames", 80])
    made = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, SIZE])
    graph = helper.make_graph(nodes, "speaker", [given], [made], [mixing])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def write_tokenizer(folder: Path, size: int | None) -> int:
    """vocab.json, merges.txt and tokenizer_config.json of 256 bytes and Qwen's three special tokens, which come after `size`
    others, or right behind the bytes. Returns how many tokens there are."""
    letters = list(bytes_to_unicode().values())
    letters += [f"<{index}>" for index in range(len(letters), size or 0)]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(letters)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("")
    options = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(len(letters) + place): {"content": token} | options for place, token in enumerate(SPECIAL)}
    _write(folder / "tokenizer_config.json", {
        "add_prefix_space": False, "added_tokens_decoder": added, "additional_special_tokens": list(SPECIAL[1:]), "bos_token": None,
        "clean_up_tokenization_spaces": False, "eos_token": "<|endoftext|>", "errors": "replace", "model_max_length": 32768,
        "pad_token": "<|endoftext|>", "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    })  # fmt: skip
    return len(letters) + len(SPECIAL)


def _write(path: Path, config: dict[str, Any]) -> None:
    path.write_text(json.dumps(config, indent=2) + "\n")
