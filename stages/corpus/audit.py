"""What is measured of every clip, and what is said about it. Levels are of 10 ms frames, in dB of full scale (dBFS)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from models.parts.errors import UserError
from stages.common import audio as audio_files
from stages.common.parallel import in_order
from stages.common.shards import pcm_sha256
from stages.corpus.sources import Finding, Utterance
from stages.corpus.texts import few_different, language_warnings, text_errors, text_warnings

FRAME = 0.01  # seconds
SPECTRUM = 1024  # samples
BANDWIDTH_DB = 70  # a band this far below the loudest is empty: upsampled speech has nothing there, vowels still -65
NARROW = 0.7  # of the corpus's median bandwidth: below it a clip is named. 16 kHz in a 24 kHz corpus reaches 0.65
NO_SOUND = -60.0  # dBFS of the peak
CLIPPED = 1e-4  # share of the samples that lie in a flat top
FLAT_TOP = 3  # samples in a row at the clip's peak
OFFSET = 0.01  # of full scale
GAP = 2.0  # seconds of silence inside a clip
LOUDNESS_DB = 9.0  # away from the corpus's median
OUTLIER = 5.0  # robust z-score (median and MAD) of the seconds that a text took
QUIET = -50.0  # dBFS, of the corpus's median clip
HOT_DB = 20.0  # beyond full scale: no gain, but another scale
FEW = 20  # clips: too few to say what is usual in a corpus


@dataclass(frozen=True)
class Measures:
    """One clip. `start` and `end` (samples) are what trimming keeps; the hash is of that part."""

    sample_rate: int  # Hz
    channels: int
    seconds: float
    start: int
    end: int
    leading: float  # seconds of silence at the ends, and the longest one inside
    trailing: float
    gap: float
    peak: float  # dBFS
    hot: float  # dB beyond full scale in the file; the clip was made quieter by so much
    loudness: float  # dBFS: RMS of the frames that are not silent
    clipped: float  # share of the samples
    offset: float  # DC, of full scale
    bandwidth: float  # Hz: the highest band that holds anything
    sha256: str

    @property
    def kept(self) -> float:
        return (self.end - self.start) / self.sample_rate


@dataclass(frozen=True)
class Examined:
    """An utterance with its measures; or, with an error, None."""

    utterance: Utterance
    measures: Measures | None
    errors: list[Finding]


Clips = list[tuple[Utterance, Measures]]


def examine(utterances: Sequence[Utterance], trim_db: float, keep: float) -> list[Examined]:
    """Read and measure every clip. Errors are collected, not raised."""
    work = partial(_examine, trim_db=trim_db, keep=keep)
    return list(in_order(work, utterances, "corpus: reading", len(utterances)))


@dataclass(frozen=True)
class Loaded:
    """A whole clip: mono float32 (samples,) of at most full scale, its rate in Hz, and how its file was."""

    audio: np.ndarray
    rate: int
    channels: int
    hot: float  # dB that were taken away


def load(utterance: Utterance) -> Loaded:
    """Float files may go beyond full scale, which is 24-bit FLAC's limit: such a clip is made quieter as a whole.

    By its own peak, so that nothing is lost and no clip changes when others come. UserError far beyond.
    """
    samples, rate = audio_files.decode(utterance.read(), utterance.source)
    audio = audio_files.mono(samples, utterance.source)
    peak = float(np.abs(audio).max())
    hot = _db(max(peak, 1.0) ** 2)
    if hot >= HOT_DB:
        bits = next((f"{bits}-bit integers written as floats: divide them by {2 ** (bits - 1)}" for bits in (8, 16, 24, 32) if peak <= 2 ** (bits - 1)), "a wrong scale")
        raise UserError(f"{utterance.source}: goes {hot:.0f} dB beyond full scale (its peak is {peak:.6g}), most likely {bits}, and export it again")
    return Loaded(audio / np.float32(peak) if hot else audio, rate, samples.shape[1], hot)


def _examine(utterance: Utterance, trim_db: float, keep: float) -> Examined:
    errors = [Finding(utterance.source, what) for what in text_errors(utterance.text)]
    try:
        clip = load(utterance)
    except UserError as error:
        what = str(error).removeprefix(f"{utterance.source}: ")
        return Examined(utterance, None, [*errors, Finding(utterance.source, what)])
    if np.abs(clip.audio).max() < 10 ** (NO_SOUND / 20):
        what = f"no sound: its peak is below {NO_SOUND:g} dBFS; record it again, or take it out of the corpus"
        return Examined(utterance, None, [*errors, Finding(utterance.source, what)])
    return Examined(utterance, measure(clip, trim_db, keep), errors)


def measure(clip: Loaded, trim_db: float, keep: float) -> Measures:
    """Measures of one clip. Frames `trim_db` below the loudest one count as silence."""
    audio, rate = clip.audio, clip.rate
    levels = _levels(audio, rate)
    sounding = np.flatnonzero(levels >= levels.max() - trim_db)
    hop = round(FRAME * rate)
    first, last = int(sounding[0]) * hop, min((int(sounding[-1]) + 1) * hop, len(audio))
    margin = round(min(keep, len(audio) / rate) * rate)  # all of it, where `keep` is infinite
    start, end = max(first - margin, 0), min(last + margin, len(audio))
    return Measures(
        sample_rate=rate,
        channels=clip.channels,
        seconds=len(audio) / rate,
        start=start,
        end=end,
        leading=first / rate,
        trailing=(len(audio) - last) / rate,
        gap=float(np.diff(sounding).max(initial=1) - 1) * FRAME,
        peak=_db(np.abs(audio).max() ** 2),
        hot=clip.hot,
        loudness=_db((10 ** (levels[sounding] / 10)).mean()),
        clipped=_clipped(audio),
        offset=float(audio.mean(dtype=np.float64)),
        bandwidth=_bandwidth(audio, rate),
        sha256=pcm_sha256(audio[start:end]),
    )


def _db(power: float) -> float:
    return float(10 * np.log10(max(power, 1e-20)))


def _levels(audio: np.ndarray, rate: int) -> np.ndarray:
    """RMS of each frame in dBFS; the last one may be shorter."""
    hop = round(FRAME * rate)
    starts = np.arange(0, len(audio), hop)
    energy = np.add.reduceat(np.square(audio, dtype=np.float64), starts)
    return 10 * np.log10(energy / np.diff(starts, append=len(audio)) + 1e-20)


def _clipped(audio: np.ndarray) -> float:
    """Share of the samples in flat tops, runs at the clip's own peak: clipping before a gain change counts too."""
    at_peak = np.abs(audio) >= 0.9999 * np.abs(audio).max()
    edges = np.flatnonzero(np.diff(at_peak, prepend=False, append=False))
    runs = edges[1::2] - edges[::2]
    return float(runs[runs >= FLAT_TOP].sum() / len(audio))


def _bandwidth(audio: np.ndarray, rate: int) -> float:
    """Hz of the highest band, 200 Hz wide, that is less than `BANDWIDTH_DB` below the loudest; mean power spectrum."""
    padded = np.pad(audio, (0, max(SPECTRUM - len(audio), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, SPECTRUM)[:: SPECTRUM // 2]
    power = (np.abs(np.fft.rfft(frames * np.hanning(SPECTRUM).astype(np.float32))) ** 2).mean(axis=0)
    width = max(1, round(200 * SPECTRUM / rate))
    bands = np.convolve(power, np.ones(width) / width, "same")
    return float(np.flatnonzero(bands > bands.max() * 10 ** (-BANDWIDTH_DB / 10))[-1] * rate / SPECTRUM)


def warnings(examined: Sequence[Examined], language: str) -> list[Finding]:
    """What a person should look at, clip by clip; then what stands out from the rest of the corpus."""
    clips = [(one.utterance, one.measures) for one in examined if one.measures is not None]
    found = [Finding(utterance.source, *said) for utterance, it in clips for said in _clip_warnings(utterance, it, language)]
    texts = [utterance.text for utterance, _ in clips]
    found += [Finding("the corpus", what) for what in language_warnings(texts, language)]
    if labels := few_different(texts):
        found.append(Finding("the corpus", f"says {len(set(texts))} words in {len(texts)} clips ({labels}); are they what is said?"))
    found += _rates(clips)
    if len(clips) >= FEW:
        found += [*_bandwidths(clips), *_loudnesses(clips), *_durations(clips)]
    return found


def _clip_warnings(utterance: Utterance, it: Measures, language: str) -> Iterator[tuple[str, str, float]]:
    """(what, its kind, how bad)."""
    for kind, what in text_warnings(utterance.text, language):
        yield what, kind, 0.0
    if it.channels > 1:
        yield f"has {it.channels} channels, which were mixed to one", "several channels", it.channels
    if it.clipped > CLIPPED:
        yield f"is clipped: {100 * it.clipped:.2f} % of its samples lie in flat tops", "clipped", it.clipped
    if it.hot > 0.001:
        yield f"goes {it.hot:.1f} dB beyond full scale; it was made quieter by so much, and lost nothing", "beyond full scale", it.hot
    if abs(it.offset) > OFFSET:
        yield f"has a DC offset of {it.offset:+.3f} of full scale", "DC offset", abs(it.offset)
    if it.gap > GAP:
        yield f"has a silence of {it.gap:.1f} s inside", "silence inside", it.gap


def _rates(clips: Clips) -> Iterator[Finding]:
    counts = Counter(it.sample_rate for _, it in clips)
    if len(counts) < 2:
        return
    usual = max(counts, key=lambda rate: (counts[rate], rate))
    for utterance, it in clips:
        if it.sample_rate != usual:
            yield Finding(utterance.source, f"is at {it.sample_rate} Hz, most of the corpus at {usual} Hz", "another rate", abs(it.sample_rate - usual))


def _bandwidths(clips: Clips) -> Iterator[Finding]:
    usual = float(np.median([it.bandwidth for _, it in clips]))
    rate = float(np.median([it.sample_rate for _, it in clips]))
    if usual < NARROW * rate / 2:
        rest = f"though its rate allows {rate / 2000:g} kHz"
        yield Finding("the corpus", f"ends at {usual / 1000:.1f} kHz, {rest}: it was upsampled, or filtered")
    for utterance, it in clips:
        if it.bandwidth < NARROW * usual:
            ends = f"ends at {it.bandwidth / 1000:.1f} kHz, the rest of the corpus at {usual / 1000:.1f} kHz"
            yield Finding(utterance.source, f"{ends}: it was upsampled, or filtered", "narrow band", -it.bandwidth)


def _loudnesses(clips: Clips) -> Iterator[Finding]:
    usual = float(np.median([it.loudness for _, it in clips]))
    if usual < QUIET:
        yield Finding("the corpus", f"is very quiet ({usual:.0f} dBFS); were its samples scaled twice?")
    for utterance, it in clips:
        if abs(it.loudness - usual) > LOUDNESS_DB:
            than = "louder" if it.loudness > usual else "quieter"
            what = f"is {abs(it.loudness - usual):.0f} dB {than} than the rest of the corpus"
            yield Finding(utterance.source, what, "another loudness", abs(it.loudness - usual))


def _durations(clips: Clips) -> Iterator[Finding]:
    """Clips that took far more or less time than their text suggests: a wrong transcript, or a cut recording."""
    letters = np.array([sum(character.isalnum() for character in utterance.text) for utterance, _ in clips], float)
    seconds = np.array([it.seconds - it.leading - it.trailing for _, it in clips])
    expected = _line(letters, seconds)
    scores = robust_z(np.log(seconds / expected))
    for index in np.flatnonzero(np.abs(scores) > OUTLIER):
        than = "long" if scores[index] > 0 else "short"
        what = f"is {than} for its text: {seconds[index]:.1f} s of sound where {expected[index]:.1f} s are usual for "
        what += f"{letters[index]:.0f} letters and digits; does the text fit?"
        yield Finding(clips[index][0].source, what, "length and text that do not fit", abs(scores[index]))


def _line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Robust fit of y = a + b x, evaluated at x: least squares, then twice again on the half that fitted best."""
    chosen = np.ones(len(x), bool)
    for _ in range(3):
        if np.ptp(x[chosen]) == 0:  # no line goes through texts of one length
            return np.full(len(x), np.median(y))
        slope, start = np.polyfit(x[chosen], y[chosen], 1)
        fit = np.maximum(start + slope * x, y.min())
        wrong = np.abs(np.log(y / fit))
        chosen = wrong <= np.median(wrong)
    return fit


def robust_z(values: np.ndarray) -> np.ndarray:
    """Distance from the median in standard deviations, as the median absolute deviation tells them (at least 0.05)."""
    distance = values - np.median(values)
    return distance / max(1.4826 * float(np.median(np.abs(distance))), 0.05)


def same_audio(examined: Sequence[Examined]) -> Iterator[tuple[Utterance, Utterance]]:
    """(first, later) for every clip whose samples an earlier one has too."""
    first: dict[str, Utterance] = {}
    for one in examined:
        if one.measures and (earlier := first.setdefault(one.measures.sha256, one.utterance)) is not one.utterance:
            yield earlier, one.utterance


def repeated(keys: dict[str, str]) -> dict[str, list[str]]:
    """Sentences that several clips say; `keys` maps ids to normalised sentences."""
    ids = defaultdict(list)
    for clip_id, sentence in keys.items():
        ids[sentence].append(clip_id)
    return {sentence: clips for sentence, clips in sorted(ids.items()) if len(clips) > 1}
