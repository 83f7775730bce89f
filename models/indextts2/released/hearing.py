"""What codec and language model hear of a clip: the 17th layer of w2v-bert 2.0, each value by its own mean and deviation.

Features are those of transformers' SeamlessM4TFeatureExtractor, all frames of a clip at once: the extractor takes them one by
one, which costs more than a small network does.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel
from transformers.audio_utils import mel_filter_bank, window_function
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention

from models.indextts2.released.files import LAYERS

RATE = 16000
STRIDE = 2  # frames of 10 ms that become one
WINDOW, STEP, BINS, BANDS = 400, 160, 257, 80
FLOOR = float(np.finfo(np.float32).eps)
SHORTEST = WINDOW + STEP * (STRIDE - 1)  # samples of one point


def features(wave: torch.Tensor) -> tuple[torch.Tensor, int]:
    """A wave (N,) at 16 kHz in [-1, 1] to float32 (T, 160), each band standardised over the clip, and how many of them are
    whole: the last is half a one where the frames of 10 ms are an odd number."""
    window, filters = (table.to(wave.device) for table in _tables())
    frames = (2**15 * wave.double()).unfold(0, WINDOW, STEP)
    frames = frames - frames.mean(1, keepdim=True)
    frames = frames - 0.97 * torch.cat([frames[:, :1], frames[:, :-1]], 1)
    powers = torch.view_as_real(torch.fft.rfft(frames * window, 2 * (BINS - 1))).square().sum(-1)
    bands = (powers @ filters).clamp(min=FLOOR).log()
    bands = (bands - bands.mean(0)) / (bands.var(0) + 1e-7).sqrt()
    whole, rest = divmod(len(bands), STRIDE)
    bands = F.pad(bands, (0, 0, 0, rest))
    return bands.reshape(whole + rest, -1).float(), whole


@lru_cache(maxsize=1)
def _tables() -> tuple[torch.Tensor, torch.Tensor]:
    """Kaldi's window (400,) and mel bands (257, 80), float64: torchaudio's, of single precision, are 6e-5 off in some bands."""
    filters = mel_filter_bank(BINS, BANDS, 20, RATE / 2, RATE, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True)
    return torch.from_numpy(window_function(WINDOW, "povey", periodic=False)), torch.from_numpy(filters)


class RelativeAttention(Wav2Vec2BertSelfAttention):
    """transformers' own, without its table of (T, T, head) distances: a query meets each of the few distances once, and what it
    makes of them is looked up."""

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *_: object, **__: object
    ) -> tuple[torch.Tensor, None]:
        query, key, value = (
            layer(hidden_states).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for layer in (self.linear_q, self.linear_k, self.linear_v)
        )
        place, (left, right) = torch.arange(query.shape[2], device=query.device), (self.left_max_position_embeddings, self.right_max_position_embeddings)
        distance = (place - place[:, None]).clamp(-left, right) + left
        bias = (self.scaling * query @ self.distance_embedding.weight.T).gather(3, distance.expand(*query.shape[:2], -1, -1))
        if attention_mask is not None:
            bias = bias.masked_fill(~attention_mask, -torch.inf)
        heard = F.scaled_dot_product_attention(query, key, value, bias, scale=self.scaling)
        return self.linear_out(heard.transpose(1, 2).flatten(2)), None


class Hearing(nn.Module):
    """A wave (N,) at 16 kHz to points (T, W), 50 a second, and how many of them are whole."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        sizes = Wav2Vec2BertConfig.from_dict(config | {"num_hidden_layers": LAYERS})
        self.model = Wav2Vec2BertModel(sizes)
        for layer in self.model.encoder.layers:
            layer.self_attn = RelativeAttention(sizes)
        self.register_buffer("mean", torch.zeros(config["hidden_size"]))
        self.register_buffer("var", torch.ones(config["hidden_size"]))
        self.mean: torch.Tensor
        self.var: torch.Tensor

    def forward(self, wave: torch.Tensor) -> tuple[torch.Tensor, int]:
        heard, whole = features(wave)
        # Half a point is heard by itself alone; with none there is nothing to mask, which saves a seventh of the time.
        mask = (torch.arange(len(heard), device=heard.device) < whole)[None].long() if whole < len(heard) else None
        states = self.model(input_features=heard[None], attention_mask=mask).last_hidden_state[0]
        return (states - self.mean) / self.var.sqrt(), whole
