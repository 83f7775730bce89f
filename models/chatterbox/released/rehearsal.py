"""A folder in the layout of English Chatterbox with weights by formula, to go through every stage without the release.

The tokenizer has as many entries as the release's, its letters and control tokens by their ids, and no merges.
"""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import nn

from models.chatterbox.config import RELEASED, S3GEN, WEIGHTS
from models.chatterbox.network import T3
from models.chatterbox.released.codec import VOICE_ENCODER
from models.chatterbox.released.voice_encoder import VoiceEncoder
from models.chatterbox.script import SPACE, START, STOP
from models.parts.weights import write_tensors
from models.released import formula, rehearsal
from models.released.hift import plain_sines
from models.released.shapes import shapes_of

SMALL = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
# Ids of the release's (resemble-ai/chatterbox, tokenizer.json): where each run of letters begins.
LETTERS = {14: string.ascii_lowercase, 263: string.digits, 277: string.ascii_uppercase, 3: ".,!?'\"-", 303: "()/%&$"}
CONTROL = {0: STOP, 1: "[UNK]", 2: SPACE, 255: START}


def write(folder: Path, size: str) -> None:
    """`size` "small" (some 40 MB) or "released" (3.2 GB)."""
    small = formula.is_small(size)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        network = T3(replace(RELEASED, llama=RELEASED.llama | SMALL) if small else RELEASED)
        # Its four parts by upstream's names.
        s3gen = nn.ModuleDict({
            "tokenizer": rehearsal.s3_tokeniser(2, small), "speaker_encoder": rehearsal.campplus(small),
            "flow": rehearsal.flow(2, small), "mel2wav": rehearsal.hift(plain_sines, False, small),
        })  # fmt: skip
        encoder = VoiceEncoder()
    shapes = shapes_of(network)
    write_tensors(folder / WEIGHTS, shapes, torch.float32, lambda name: formula.value(name, shapes[name]))
    rehearsal.save(s3gen, folder / S3GEN)
    rehearsal.save(encoder, folder / VOICE_ENCODER)
    tokenizer().save(str(folder / "tokenizer.json"))


def tokenizer() -> Tokenizer:
    """Letters as they are, in as many entries as the release has."""
    entries = {index: f"<{index}>" for index in range(RELEASED.text_tokens_dict_size)} | CONTROL
    entries |= {first + place: letter for first, letters in LETTERS.items() for place, letter in enumerate(letters)}
    made = Tokenizer(models.BPE({entry: index for index, entry in entries.items()}, [], unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens([AddedToken(token) for token in CONTROL.values()])
    return made
