"""Small charts as inline SVG: what training and the gate measured at each checkpoint, and at each scale.

Colours and type come from the page's CSS, so a chart follows light and dark. All panels over checkpoints share one axis, on
which 0 is the base, and mark the promoted checkpoint with the same band.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from markupsafe import Markup

from stages.report.records import Score, TierCount

WIDTH, HEIGHT = 340, 220
LEFT, RIGHT, TOP, BOTTOM = 40, 62, 14, 40
INSET = 20  # from the plot's edges to the first and last checkpoint
LABEL_GAP = 12
NAME_GAP = 25  # between the middles of two names under the axis
MAX_POINTS = 160  # a training curve with more is averaged down to this many

Point = tuple[float, float]
Measured = tuple[float, float, tuple[float, float]]  # x, value, ends of its interval


@dataclass(frozen=True)
class Axis:
    """`at`: where values stand, from 0 on. `names`: what is written under each of them, a line for each kind of name."""

    at: Sequence[float]
    names: Mapping[str, Sequence[str]]
    marked: float | None = None  # the promoted checkpoint

    def x(self, value: float) -> float:
        return LEFT + INSET + (WIDTH - LEFT - RIGHT - 2 * INSET) * value / (max(self.at) or 1)

    def drawn(self) -> Markup:
        """The names; those that would touch the one before are left out."""
        text = '<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>'
        parts = []
        for line, (kind, names) in enumerate(self.names.items()):
            y, last = HEIGHT - BOTTOM + 18 + 12 * line, float(-NAME_GAP)
            for value, name in zip(self.at, names, strict=True):
                if (x := self.x(value)) - last >= NAME_GAP:
                    parts.append(Markup(text).format(x, y, "middle", name))
                    last = x
            parts.append(Markup(text).format(WIDTH - RIGHT + 6, y, "start", kind))
        return Markup("").join(parts)


def checkpoint_axis(steps: Mapping[int, int], promoted: int | None) -> Axis:
    """`steps`: the optimizer step of each epoch that has a checkpoint; 0 is the base."""
    names = {"epoch": [str(epoch) if epoch else "base" for epoch in steps], "step": [str(step) for step in steps.values()]}
    return Axis([float(epoch) for epoch in steps], names, promoted)


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers that cover [low, high], in about `wanted` steps; at least two, however flat the values."""
    raw = max(high - low, 1e-6 * max(1.0, abs(high))) / wanted
    size = 10.0 ** floor(log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first = floor(low / step)
    last = max(ceil(high / step), first + 1)
    return [round(step * index, 10) for index in range(first, last + 1)]


def thinned(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """At most `most` points, each the mean of a run of neighbours."""
    size = ceil(len(points) / most) or 1
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


class Panel:
    """One chart. `values`: every y that will be drawn; `unit` is how its ticks read."""

    def __init__(self, title: str, axis: Axis, values: Iterable[float], unit: str = "{:g}"):
        self.title, self.axis, self.x = title, axis, axis.x
        values = list(values)
        self.ticks = ticks(min(values), max(values))
        self.parts: list[Markup] = []
        self.labels: list[tuple[float, str, str]] = []
        if axis.marked is not None:
            self.parts.append(band(self.x(axis.marked), 9))
        for tick in self.ticks:
            line = '<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>'
            self.parts.append(Markup(line).format(LEFT, WIDTH - RIGHT, y=self.y(tick)))
            self.parts.append(side_text(self.y(tick), unit.format(tick)))
        self.parts.append(axis.drawn())

    def y(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    def line(self, points: Sequence[Point], kind: str, label: str) -> None:
        """A line with its name at its right end."""
        if not points:
            return
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(Markup('<polyline class="line {}" points="{}"/>').format(kind, path))
        self.labels.append((self.y(points[-1][1]), kind, label))

    def level(self, value: float, kind: str, label: str) -> None:
        """A dashed horizontal line."""
        line = '<line class="line {}" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
        y = self.y(value)
        self.parts.append(Markup(line).format(kind, LEFT, WIDTH - RIGHT, y, y))
        self.labels.append((y, kind, label))

    def parting(self, at: float | None) -> None:
        """A dashed upright line where words and loss part."""
        if at is not None:
            line = '<line class="parting" x1="{x:.1f}" x2="{x:.1f}" y1="{}" y2="{}"/><text class="parting" x="{:.1f}" y="{}">part</text>'
            self.parts.append(Markup(line).format(TOP - 6, HEIGHT - BOTTOM + 6, self.x(at) + 3, TOP + 2, x=self.x(at)))

    def dots(self, points: Sequence[Point], kind: str, said: str) -> None:
        """`said`: of x and y, when one points at a dot."""
        for x, y in points:
            dot = '<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3.2"><title>{}</title></circle>'
            self.parts.append(Markup(dot).format(kind, self.x(x), self.y(y), said.format(x, y)))

    def whisker(self, x: float, low: float, high: float, kind: str) -> None:
        line = '<path class="whisker {0}" d="M{1:.1f} {2:.1f}V{3:.1f}m-3 0h6M{4:.1f} {2:.1f}h6"/>'
        x = self.x(x)
        self.parts.append(Markup(line).format(kind, x, self.y(low), self.y(high), x - 3))

    def svg(self, description: str) -> Markup:
        text = '<text class="label {}" x="{}" y="{:.1f}">{}</text>'
        previous = float(-LABEL_GAP)
        for y, kind, label in sorted(self.labels):
            previous = max(y, previous + LABEL_GAP)  # names of lines that end close together do not overprint
            self.parts.append(Markup(text).format(kind, WIDTH - RIGHT + 6, previous + 3.5, label))
        return figure(self.title, description, self.parts)


def band(x: float, half: float) -> Markup:
    """Behind the promoted checkpoint."""
    box = '<rect class="band" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>'
    return Markup(box).format(x - half, TOP - 6, 2 * half, HEIGHT - TOP - BOTTOM + 12)


def side_text(y: float, text: str) -> Markup:
    """What stands left of the plot, centred on `y`."""
    markup = '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
    return Markup(markup).format(LEFT - 6, y + 3.5, text)


def figure(title: str, description: str, parts: Iterable[Markup]) -> Markup:
    start = '<figure><figcaption>{}</figcaption><svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">'
    opened = Markup(start).format(title, WIDTH, HEIGHT, f"{title}. {description}")
    return opened + Markup("").join(parts) + Markup("</svg></figure>")


# --- over checkpoints -------------------------------------------------------------------------------------------------


def loss_chart(axis: Axis, train: Sequence[Point], validation: Sequence[Point], base: float | None, parting: float | None) -> Markup:
    """By epoch. `base` is the validation loss of the base, None where no sentence was held out; losses in nats per label;
    `parting` where words part from it."""
    train = thinned(train)
    known = [] if base is None else [base]
    panel = Panel("Loss", axis, [*known, *(y for _, y in [*train, *validation])])
    panel.parting(parting)
    if base is not None:
        panel.level(base, "base", "base")
    panel.line(train, "train", "train")
    panel.line(validation, "validation", "validation")
    panel.dots(validation, "validation", "epoch {:g}: {:.3f}")
    numbers = ", ".join(f"epoch {x:g}: {y:.2f}" for x, y in validation)
    return panel.svg("No sentence was held out for validation." if base is None else f"Base validation loss {base:.2f}. Validation: {numbers}.")


def error_chart(axis: Axis, scores: Sequence[Score], recordings: float | None, parting: float | None) -> Markup:
    """Word error rate of every checkpoint with its confidence interval; dashed: real recordings."""
    measured = [(epoch, one.word_error_rate, one.ci) for epoch, one in zip(axis.at, scores, strict=True)]
    levels = [0.0] if recordings is None else [0.0, recordings]
    panel = Panel("Word error rate · screening", axis, [*levels, *_ends(measured)], "{:.0%}")
    panel.parting(parting)
    return _with_intervals(panel, measured, recordings, "error", "{:.1%}")


def similarity_chart(axis: Axis, scores: Sequence[Score], recordings: float | None) -> Markup:
    """Mean similarity of every checkpoint with its confidence interval; dashed: real recordings. Nothing where it was
    not measured."""
    measured = [
        (epoch, one.similarity, one.similarity_ci)
        for epoch, one in zip(axis.at, scores, strict=True)
        if one.similarity is not None and one.similarity_ci is not None
    ]
    if not measured:
        return Markup("")
    levels = [] if recordings is None else [recordings]
    panel = Panel("Similarity · screening", axis, [*levels, *_ends(measured)])
    return _with_intervals(panel, measured, recordings, "similarity", "{:.3f}")


def rate_chart(axis: Axis, drifts: Sequence[Sequence[float]]) -> Markup:
    """Of each checkpoint's takes the mean speaking rate against the recordings' (0.1: ten percent faster), and the range.
    Nothing where no rate is known."""
    measured = [
        (epoch, sum(some) / len(some), (min(some), max(some))) for epoch, some in zip(axis.at, drifts, strict=True) if some
    ]
    if not measured:
        return Markup("")
    panel = Panel("Speaking rate · screening", axis, [0.0, *_ends(measured)], "{:+.0%}")
    return _with_intervals(panel, measured, 0.0, "rate", "{:+.1%}")


def _ends(measured: Sequence[Measured]) -> list[float]:
    return [end for _, _, ends in measured for end in ends]


def _with_intervals(panel: Panel, measured: Sequence[Measured], recordings: float | None, kind: str, unit: str) -> Markup:
    """Values with their intervals on `panel`; dashed: real recordings."""
    if recordings is not None:
        panel.level(recordings, "base", "recordings")
    for epoch, _, ends in measured:
        panel.whisker(epoch, *ends, kind)
    points = [(epoch, value) for epoch, value, _ in measured]
    panel.line(points, kind, "")
    panel.dots(points, kind, "epoch {:g}: " + unit)
    return panel.svg(", ".join(f"epoch {x:g}: {unit.format(y)}" for x, y in points) + ".")


def tier_chart(axis: Axis, tiers: Mapping[str, Sequence[TierCount]]) -> Markup:
    """Takes that passed, by tier (under the name it is to have) and checkpoint."""
    parts = [axis.drawn()]
    steps = [axis.x(b) - axis.x(a) for a, b in zip(axis.at, axis.at[1:], strict=False)]
    half = min(17.0, min(steps, default=40.0) / 2 - 2)  # of a cell, so that neighbours keep apart
    if axis.marked is not None:
        parts.append(band(axis.x(axis.marked), half + 4))
    height = (HEIGHT - TOP - BOTTOM) / len(tiers)
    for row, (name, counts) in enumerate(tiers.items()):
        top = TOP + row * height
        for line, words in enumerate(name.split(" in ")):  # "30 s in one go" has no room on one line
            parts.append(side_text(top + height / 2 - 4 + 11 * line, words))
        parts += [_glass(axis.x(x), top, height - 8, half, one) for x, one in zip(axis.at, counts, strict=True)]
    said = [f"{name}: " + ", ".join(f"{one.passed_takes} of {one.takes}" for one in row) for name, row in tiers.items()]
    return figure("Takes passed · screening", "; ".join(said) + ".", parts)


def _glass(x: float, top: float, height: float, half: float, count: TierCount) -> Markup:
    """A glass that is as full as takes passed, with the count in it. No colour of a verdict: screening gives none."""
    box = '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2"/>'
    filled = height * count.passed_takes / max(count.takes, 1)
    text = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>')
    return Markup("").join([
        Markup(box).format("glass", x - half, top, 2 * half, height),
        Markup(box).format("fill", x - half, top + height - filled, 2 * half, filled),
        text.format(x, top + height / 2 + 4, f"{count.passed_takes}/{count.takes}"),
    ])  # fmt: skip


# --- over scales ------------------------------------------------------------------------------------------------------


def scale_charts(sweeps: Mapping[str, Mapping[float, Score]], promoted: tuple[str, float] | None) -> list[Markup]:
    """Word error rate and similarity against the scale, a line for each checkpoint that was swept; 0 is the base. Nothing
    where nothing was. `promoted`: the checkpoint and its scale, ringed."""
    scales = sorted({scale for sweep in sweeps.values() for scale in sweep})
    if not sweeps:
        return []
    axis = Axis(scales, {"scale": [f"{scale:g}" if scale else "base" for scale in scales]})
    errors = {name: {scale: one.word_error_rate for scale, one in sweep.items()} for name, sweep in sweeps.items()}
    near = {name: {scale: one.similarity for scale, one in sweep.items() if one.similarity is not None} for name, sweep in sweeps.items()}
    drawn = [_sweep("Word error rate by scale · screening", axis, errors, [0.0], promoted, "{:.1%}", "{:.0%}")]
    if all(near.values()):
        drawn.append(_sweep("Similarity by scale · screening", axis, near, [], promoted, "{:.3f}", "{:g}"))
    return drawn


def _sweep(
    title: str, axis: Axis, lines: Mapping[str, Mapping[float, float]], levels: list[float],
    promoted: tuple[str, float] | None, unit: str, tick: str,
) -> Markup:  # fmt: skip
    panel = Panel(title, axis, [*levels, *(y for line in lines.values() for y in line.values())], tick)
    for number, (name, line) in enumerate(lines.items()):
        points = sorted(line.items())
        panel.line(points, f"swept-{number % 4}", name)
        panel.dots(points, f"swept-{number % 4}", f"{name} at {{:g}}: {unit}")
        if promoted and promoted[0] == name and promoted[1] in line:
            ring = '<circle class="ring" cx="{:.1f}" cy="{:.1f}" r="7"><title>promoted</title></circle>'
            panel.parts.append(Markup(ring).format(panel.x(promoted[1]), panel.y(line[promoted[1]])))
    said = [f"{name}: " + ", ".join(f"{x:g}: {unit.format(y)}" for x, y in sorted(line.items())) for name, line in lines.items()]
    return panel.svg("; ".join(said) + ("" if promoted is None else f". Promoted: {promoted[0]} at {promoted[1]:g}") + ".")
