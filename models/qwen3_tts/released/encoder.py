"""Waveform to codes: transformers' Mimi under the release's names.

What differs from Mimi as transformers 5 runs it: attention sees everything before a frame, however long the clip. The
release was made with transformers 4.57, which does not apply the 250 frames of `sliding_window`; with the window every
code from second 10 on is another (measured).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import MimiConfig, MimiModel

NO_WINDOW = 2**31 - 1  # frames: longer than any clip


class Encoder(nn.Module):
    """`config`: `encoder_config` of the release. It holds 32 codebooks; the first `codebooks` are used."""

    def __init__(self, config: dict[str, Any], codebooks: int):
        super().__init__()
        fields = {name: value for name, value in config.items() if name not in ("_frame_rate", "normalize")}
        fields |= {"frame_rate": config["_frame_rate"], "sliding_window": NO_WINDOW, "decoder_config": None}
        mimi: Any = MimiModel(MimiConfig(**fields))
        self.encoder, self.encoder_transformer = mimi.encoder.encoder_seanet, mimi.encoder.encoder_transformer
        self.downsample, self.quantizer = mimi.encoder.downsample, mimi.quantizer
        self.codebooks = codebooks

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        """Waves (B, samples) of the same clip length to codes (B, ceil(samples / 1920), codebooks).

        No padding: every layer completes its own last stride, which zeros at the end of the wave do not do.
        """
        hidden = self.encoder(waves[:, None]).transpose(1, 2)
        hidden = self.encoder_transformer(hidden).last_hidden_state.transpose(1, 2)
        codes: torch.Tensor = self.quantizer.encode(self.downsample(hidden), self.codebooks)
        return codes.permute(1, 2, 0)
