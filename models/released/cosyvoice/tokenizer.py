"""The text tokenizer: Qwen's of CosyVoice-BlankEN, and the tokens that upstream adds when it loads it.

No file of the release has those (FunAudioLLM/CosyVoice, cosyvoice/tokenizer/tokenizer.py). They follow on Qwen's own, in
the order of `added_tokens.txt`; version 2 knows the first 17 of them.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from transformers import Qwen2Tokenizer

from models.parts.errors import UserError

FOLDER = "CosyVoice-BlankEN"
FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
ADDED = tuple((Path(__file__).parent / "added_tokens.txt").read_text(encoding="utf-8").split("\n")[:-1])
KNOWN = {2: 17, 3: len(ADDED)}  # by version


def load(weights: Path, version: int) -> Tokenizer:
    """UserError for the first file that `weights` lacks, and for files that are no tokenizer."""
    folder = weights / FOLDER
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: not there; copy or download the whole release")
    try:
        tokenizer: Tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except Exception as error:  # the tokenizers library has no class of its own
        raise UserError(f"{folder}/vocab.json, merges.txt, tokenizer_config.json: no tokenizer ({error}); restore the three files") from None
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ADDED[: KNOWN[version]]])
    return tokenizer
