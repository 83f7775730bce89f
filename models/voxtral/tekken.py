"""Mistral's tekken.json as a tokenizer of the `tokenizers` library.

The file lists byte sequences by rank: the pair of neighbours whose union has the lowest rank is merged first, and ids
are ranks after the special tokens (mistral-common tokens/tokenizers/tekken.py). `tokenizers` wants the merges written
out: every way to make a sequence of two others, by the rank of what comes out. Special tokens have ids and are never read
out of a text: "[INST]" is spelt, as upstream spells it.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from models.parts.errors import UserError


def load_tekken(path: Path) -> Tokenizer:
    """UserError when the file is not a tekken tokenizer."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        config, specials = data["config"], data["special_tokens"]
        first = config["default_num_special_tokens"]
        entries = data["vocab"][: config["default_vocab_size"] - first]  # what follows has no embedding
        ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in entries}
        names = {special["token_str"]: special["rank"] for special in specials}
        pattern = Regex(config["pattern"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a tekken tokenizer ({error}); restore the file that came with the weights") from None
    letters = bytes_to_unicode()

    def spelt(sequence: bytes) -> str:
        return "".join(letters[byte] for byte in sequence)

    merges = []
    for sequence, rank in ranks.items():
        pairs = ((sequence[:cut], sequence[cut:]) for cut in range(1, len(sequence)))
        known = [(ranks[left], ranks[right], left, right) for left, right in pairs if left in ranks and right in ranks]
        merges += [(rank, *pair) for pair in sorted(known)]
    merges.sort(key=lambda merge: merge[:3])
    vocabulary = names | {spelt(sequence): first + rank for sequence, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocabulary, [(spelt(left), spelt(right)) for *_, left, right in merges], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    return tokenizer
