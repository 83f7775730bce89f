"""The language model's sizes; its code is `models/parts/speech_lm.py`, shared with version 3."""

from __future__ import annotations

VERSION = 2
# The released LM (examples/libritts/cosyvoice2/conf/cosyvoice2.yaml and CosyVoice-BlankEN/config.json).
RELEASED = {
    "version": VERSION,
    "speech_token_size": 6561,
    "least_codes": 2,  # for each token of the text
    "llm": {
        "vocab_size": 151936, "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    },
}
