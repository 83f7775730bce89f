"""From the steps of a batch to one `Generation` an utterance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from models.parts.errors import UserError
from models.parts.family import Generation


class Takes:
    """The utterances of a batch whose rows leave it as soon as they end. `rows`: the utterances that it still holds.

    `values`: frames are float32 values, and not codes. `last`: the stop is decided together with a last frame, and not in
    the place of one.
    """

    def __init__(self, limits: Sequence[int], codebooks: int, values: bool = False, last: bool = False):
        self.rows = list(range(len(limits)))
        self._limits, self._codebooks, self._last = limits, codebooks, last
        self._dtype = np.float32 if values else np.int32
        self._frames: list[list[np.ndarray]] = [[] for _ in limits]
        self._logprobs: list[list[float]] = [[] for _ in limits]
        self._finish = ["length"] * len(limits)

    def add(self, frames: torch.Tensor, logprobs: torch.Tensor, ended: torch.Tensor) -> list[int]:
        """One step: frames (B, K), the log-probabilities (B, S) of their decisions, and whose first one was the stop (B,)
        (of whatever place, where there is a last frame).

        Returns the places in the batch that go on; `rows` follows them.
        """
        going = []
        steps = zip(self.rows, frames.cpu().numpy(), logprobs.tolist(), ended.tolist(), strict=True)
        for place, (row, frame, decided, end) in enumerate(steps):
            if end:
                self._finish[row] = "stop"
            if end and not self._last:
                self._logprobs[row].append(decided[0])  # the rest of the frame means nothing
                continue
            self._frames[row].append(frame)
            self._logprobs[row].extend(decided)
            if not end and len(self._frames[row]) < self._limits[row]:
                going.append(place)
        self.rows = [self.rows[place] for place in going]
        return going

    def generations(self) -> list[Generation]:
        return [
            Generation(np.array(frames, self._dtype).reshape(-1, self._codebooks), finish, np.array(logprobs, np.float32))
            for frames, logprobs, finish in zip(self._frames, self._logprobs, self._finish, strict=True)
        ]


def cut(
    codes: Sequence[torch.Tensor], logprobs: Sequence[torch.Tensor], stopped: torch.Tensor, limits: Sequence[int]
) -> list[Generation]:
    """The takes of a batch whose rows all stay to the end, one codebook: each up to its stop or its limit.

    `codes` and `logprobs`: (B,) a step. `stopped` (B,): the step of the stop, -1: none.
    """
    drawn, taken, results = torch.stack(list(codes), 1).cpu(), torch.stack(list(logprobs), 1).cpu(), []
    for row, (stop, limit) in enumerate(zip(stopped.tolist(), limits, strict=True)):
        ended = 0 <= stop <= limit
        frames = stop if ended else limit
        kept, scores = drawn[row, :frames, None].numpy().astype(np.int32), taken[row, : frames + ended].numpy()
        results.append(Generation(kept, "stop" if ended else "length", scores))
    return results


def frames_left(prompts: Sequence[int], max_frames: Sequence[int], room: int) -> list[int]:
    """How many frames may follow each prompt of so many tokens: `max_frames`, or what a network for `room` tokens holds."""
    limits = [min(limit, room - length) for length, limit in zip(prompts, max_frames, strict=True)]
    if min(limits) < 1:
        raise UserError(f"a text of {max(prompts)} tokens leaves no room of {room} for speech; cut it in parts")
    return limits


def check_length(length: int, room: int) -> None:
    """A training sequence of `length` tokens fits a network for `room` of them."""
    if length > room:
        raise UserError(
            f"an utterance takes {length} tokens, but the network has room for {room}; lower max_seconds of the corpus"
        )
