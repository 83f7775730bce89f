"""The released tokenizer's vocab.json and merges.txt, cut to what the texts of the fixtures can meet (folder `tokenizer`).

`python -m tests.golden.qwen3_tts.vocabulary qwen.tiktoken` writes them anew from the ranks that PyPI dashscope 2.0.2 carries
(dashscope/resources/qwen.tiktoken, Apache-2.0). Uncut, they have the released files' sizes.
A merge that happens in a word makes a part of that word, so that keeping every token that is part of a text, with its
own id, and leaving out the others changes no id of these texts. The added tokens stand in vocab.json, since their ids
would otherwise follow on its size.
"""

from __future__ import annotations

import base64
import json
import sys
import unicodedata
from pathlib import Path

from transformers.convert_slow_tokenizer import bytes_to_unicode

HERE = Path(__file__).parent
ADDED = {
    "<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<tts_pad>": 151671,
    "<tts_text_bos>": 151672, "<tts_text_eod>": 151673,
}  # fmt: skip
# Besides those of text.json and e2e.json.
TEXTS = ["assistant\n", "user\n", "Speak softly.", "A deep old voice.", "\n\nTwo lines first."]


def parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens that `token` is merged from: byte-pair encoding with the ranks below its own."""
    found, limit = [bytes([byte]) for byte in token], ranks[token]
    while len(found) > 2:
        _, at = min((ranks.get(a + b, limit), at) for at, (a, b) in enumerate(zip(found, found[1:], strict=False)))
        found[at : at + 2] = [found[at] + found[at + 1]]
    return found


def write(ranks: dict[bytes, int], folder: Path) -> None:
    letters = bytes_to_unicode()
    written = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [" ".join(written[part] for part in parts(token, ranks)) for token in ranks if len(token) > 1]
    vocabulary = {written[token]: rank for token, rank in ranks.items()} | ADDED
    options = {content: {"content": content, "normalized": False, "special": True} for content in ADDED}
    added = {str(number): options[content] for content, number in ADDED.items()}
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added}
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":")), "utf-8")
    (folder / "merges.txt").write_text("".join(f"{merge}\n" for merge in merges), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), "utf-8")


def main(tiktoken: Path) -> None:
    lines = (line.split() for line in tiktoken.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    texts = [*TEXTS, *(row["text"] for row in json.loads((HERE / "text.json").read_text("utf-8"))["rows"])]
    whole = json.loads((HERE / "e2e.json").read_text("utf-8"))
    texts += [whole["reference_text"], *(mode["text"] for mode in whole["modes"].values())]
    met = unicodedata.normalize("NFC", "\0".join(texts)).encode()
    write({token: rank for token, rank in ranks.items() if len(token) == 1 or token in met}, HERE / "tokenizer")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
