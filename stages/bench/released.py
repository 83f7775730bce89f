"""What the parts of released CosyVoice, Chatterbox and Fish Speech cost here at their true sizes, clips one by one and together.

    python -m stages.bench.released        (make bench)

Weights are random: nothing speaks, and it takes as long as it would. `alone`: clip after clip, each on one core, as a codec computes
a single one. `in turn`: clip after clip, each on all cores, as upstream does. `together`: what a codec does with several, a
clip a core. All in seconds of audio per second; the last columns say how busy that keeps the cores, against plain products
of large matrices, and whether each clip's result is the single one's to the last bit.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.fish_s2.released.codec import RATE as FISH
from models.fish_s2.released.dac import DAC
from models.fish_s2.released.rehearsal import CODEC, SMALL_CODEC
from models.parts.each import each
from models.parts.precision import repeatable
from models.released import rehearsal, s3
from models.released.campplus import filter_bank
from models.released.flow import BANDS, FRAMES, SPEAKER
from models.released.fold import fold
from models.released.hift import FRAME, HARMONICS, Noise, framed_sines
from stages.common.cli import run

SIDE = 2048  # of the matrices that the machine is measured with
CORES = len(os.sched_getaffinity(0))
Item = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Part:
    """`make` gives the module, `item` a clip of so many seconds, `work` does what a codec does with one. `seconds`: of the clips."""

    name: str
    make: Callable[[], nn.Module]
    item: Callable[[float], Item]
    work: Callable[[Any, Item], torch.Tensor]
    seconds: Sequence[float]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.bench.released", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=["small", "released"], default="released")
    small = parser.parse_args(argv).size == "small"
    repeatable()
    torch.manual_seed(0)
    peak = products()
    print(f"{CORES} cores: {peak / 1e9:.0f} GFLOP/s in products of {SIDE} x {SIDE} matrices")
    print(f"{'part':<24} {'alone':>8} {'in turn':>8} {'together':>9} {'/ alone':>8} {'/ in turn':>10} {'busy':>6} {'equal':>6}")
    for part in parts(small):
        print(row(part, peak), flush=True)


def row(part: Part, peak: float) -> str:
    net = part.make().eval()
    items = [part.item(seconds) for seconds in part.seconds]

    def work(item: Item) -> torch.Tensor:
        return part.work(net, item)

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for item in items:
            work(item)
    alone, single = timed(lambda: [each(work, [item])[0] for item in items])
    torch.set_num_threads(CORES)
    with torch.no_grad():
        in_turn, _ = timed(lambda: [work(item) for item in items])
    torch.set_num_threads(1)
    together, found = timed(lambda: each(work, items))
    rates = [sum(part.seconds) / seconds for seconds in (alone, in_turn, together)]
    equal = all(torch.equal(one, other) for one, other in zip(single, found, strict=True))
    busy = counter.get_total_flops() / together / peak
    return (
        f"{part.name:<24} {rates[0]:>8.2f} {rates[1]:>8.2f} {rates[2]:>9.2f} {alone / together:>8.2f} {in_turn / together:>10.2f} {busy:>6.0%} {'yes' if equal else 'NO':>6}"
    )


def timed(work: Callable[[], list[torch.Tensor]]) -> tuple[float, list[torch.Tensor]]:
    began = time.perf_counter()
    made = work()
    return time.perf_counter() - began, made


def products() -> float:
    """Floating-point operations a second of all cores, in what they do best."""
    torch.set_num_threads(CORES)
    first, second = torch.randn(2, SIDE, SIDE)
    best = min(timed(lambda: [first @ second])[0] for _ in range(5))
    torch.set_num_threads(1)
    return 2 * SIDE**3 / best


# --- the parts ----------------------------------------------------------------------------------------------------------

LONG, SHORT = (2.0, 2.4, 3.0, 3.6), (0.4, 0.5, 0.5, 0.6)


def wave(seconds: float, rate: int = s3.RATE) -> Item:
    return (0.1 * torch.randn(round(seconds * rate)),)


def take(seconds: float) -> Item:
    """Codes, a speaker, no reference, and what a mel begins as."""
    count = round(seconds * s3.TOKEN_RATE)
    return torch.randint(s3.CODES, (count,)), torch.randn(SPEAKER), torch.zeros(0, dtype=torch.long), torch.zeros(0, BANDS), torch.randn(BANDS, FRAMES * count)


def mel(seconds: float) -> Item:
    frames = FRAMES * round(seconds * s3.TOKEN_RATE)
    return torch.randn(BANDS, frames), torch.randn(frames * FRAME, HARMONICS), torch.zeros(HARMONICS)


def dac(small: bool) -> DAC:
    made = DAC(SMALL_CODEC if small else CODEC)
    fold(made)
    return made


def frames(seconds: float) -> Item:
    return (torch.stack([torch.randint(entries, (round(seconds * FISH / CODEC.frame),)) for entries in CODEC.entries]),)


def parts(small: bool) -> list[Part]:
    def tokeniser(version: int) -> Part:
        return Part(f"S3 tokeniser, version {version}", lambda: rehearsal.s3_tokeniser(version, small), wave, lambda net, item: net.encode(*item), LONG)

    def flow(version: int) -> Part:
        return Part(f"flow, version {version}", lambda: rehearsal.flow(version, small), take, lambda net, item: net(*item), SHORT)

    def hift(version: int, upsampling: str) -> Part:
        def make() -> nn.Module:
            return rehearsal.hift(framed_sines(upsampling), version == 3, small).double_pitch()

        return Part(f"HiFT, version {version}", make, mel, lambda net, item: net(item[0], Noise(*item[1:])), LONG)

    campplus = Part("CAM++", lambda: rehearsal.campplus(small), wave, lambda net, item: net(filter_bank(*item)[None]), LONG)
    fish = partial(dac, small)
    encoder = Part("Fish's codec, encode", fish, partial(wave, rate=FISH), lambda net, item: net.encode(item[0][None]), LONG)
    decoder = Part("Fish's codec, decode", fish, frames, lambda net, item: net.decode(item[0][None]), LONG)
    return [tokeniser(2), tokeniser(3), campplus, flow(2), flow(3), hift(2, "linear"), hift(3, "nearest"), encoder, decoder]


if __name__ == "__main__":
    run(main)
