"""Is this folder a release of CosyVoice 2 or 3, whole and of the shapes that its networks have? Of tensors, it reads the ONNX graphs' alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.parts.errors import UserError
from models.parts.speech_lm import END_OF_PROMPT, SpeechLM
from models.parts.weights import check_header, read_shapes
from models.released import campplus, s3
from models.released.cosyvoice import tokenizer
from models.released.cosyvoice.codec import flow_of, hift_of, session
from models.released.cosyvoice.files import FLOW, GENERATOR, HIFT, LLM, SPEAKER, part, tokeniser
from models.released.cosyvoice.language_model import configuration
from models.released.flow import SPEAKER as SIZE
from models.released.shapes import shapes_of

FLOATS = ("F32", "BF16", "F16")


def check_release(weights: Path, released: dict[str, Any], names: Sequence[str]) -> None:
    """UserError, naming file and tensor, for the first thing that is missing or does not fit. `names`: the release's files."""
    version = released["version"]
    for name in names:
        path = weights / name
        if path.suffix == ".pt":
            path = part(weights, path.stem)
        if not path.is_file():
            raise UserError(f"{path}: not there; copy or download the whole release")
    config = configuration(weights, released)
    flow, hift = part(weights, FLOW), part(weights, HIFT)
    hift_shapes = read_shapes(hift)
    prefix = GENERATOR if any(name.startswith(GENERATOR) for name in hift_shapes) else ""
    with torch.device("meta"):
        network, decoder = SpeechLM(config), flow_of(read_shapes(flow), version, flow)
        vocoder = hift_of({name.removeprefix(prefix): shape for name, shape in hift_shapes.items()}, version, hift)
    check_header(part(weights, LLM), shapes_of(network), FLOATS)
    check_header(flow, shapes_of(decoder), FLOATS)
    check_header(hift, {prefix + name: shape for name, shape in shapes_of(vocoder).items()}, FLOATS)
    s3.from_onnx(weights / tokeniser(version), version)
    check_speaker(weights / SPEAKER)
    check_tokens(weights, version, config["llm"]["vocab_size"])


def check_speaker(path: Path) -> None:
    """The graph makes one vector of the size that the flow takes out of a second of speech."""
    graph = session(path)
    bands = campplus.filter_bank(torch.randn(campplus.RATE, generator=torch.Generator().manual_seed(0)))[None].numpy()
    try:
        found = np.asarray(graph.run(None, {graph.get_inputs()[0].name: bands})[0]).shape
    except Exception as error:  # its errors have no common class
        raise UserError(f"{path}: does not take a filter bank ({type(error).__name__}); take the file as it was released") from None
    if found != (1, SIZE):
        raise UserError(f"{path}: makes {found} of a clip, not (1, {SIZE}); take the file as it was released")


def check_tokens(weights: Path, version: int, words: int) -> None:
    """The network has a row for every token, and the tokenizer knows the one that version 3 can't do without."""
    tokens = tokenizer.load(weights, version).get_vocab(with_added_tokens=True)
    if max(tokens.values()) >= words or END_OF_PROMPT not in tokens:
        raise UserError(f"{weights / tokenizer.FOLDER}: token {max(tokens.values())} is the last, but the network has {words} rows; the files do not belong together")
