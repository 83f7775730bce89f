"""Small charts as inline SVG: loss against epoch, and what the gate measured at each checkpoint.

Colours and type come from the page's CSS, so a chart follows light and dark. All panels share one epoch axis, on which
0 is the base, and mark the promoted checkpoint with the same band.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil, floor, log10

from markupsafe import Markup

from stages.report.records import Score, TierVerdict

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 40, 62, 14, 30
INSET = 20  # from the plot's edges to the first and last checkpoint
LABEL_GAP = 12
MAX_POINTS = 160  # a training curve with more is averaged down to this many

Point = tuple[float, float]
Measured = tuple[float, float, tuple[float, float]]  # epoch, value, ends of its interval


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
    """One chart. `epochs` are the checkpoints'; `values` every y that will be drawn; `unit` is how its ticks read."""

    def __init__(
        self, title: str, epochs: Sequence[float], values: Iterable[float], promoted: float | None, unit: str = "{:g}"
    ):
        self.title, self.epochs = title, epochs
        values = list(values)
        self.ticks = ticks(min(values), max(values))
        self.parts: list[Markup] = []
        self.labels: list[tuple[float, str, str]] = []
        if promoted is not None:
            self.parts.append(band(self.x(promoted), 9))
        for tick in self.ticks:
            line = '<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>'
            self.parts.append(Markup(line).format(LEFT, WIDTH - RIGHT, y=self.y(tick)))
            self.parts.append(side_text(self.y(tick), unit.format(tick)))
        self.parts.append(epoch_axis(epochs))

    def x(self, epoch: float) -> float:
        return epoch_x(epoch, self.epochs)

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

    def dots(self, points: Sequence[Point], kind: str, unit: str) -> None:
        for x, y in points:
            dot = '<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3.2"><title>{}</title></circle>'
            self.parts.append(Markup(dot).format(kind, self.x(x), self.y(y), f"epoch {x:g}: {unit.format(y)}"))

    def whisker(self, epoch: float, low: float, high: float, kind: str) -> None:
        line = '<path class="whisker {0}" d="M{1:.1f} {2:.1f}V{3:.1f}m-3 0h6M{4:.1f} {2:.1f}h6"/>'
        x = self.x(epoch)
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


def epoch_x(epoch: float, epochs: Sequence[float]) -> float:
    return LEFT + INSET + (WIDTH - LEFT - RIGHT - 2 * INSET) * epoch / (max(epochs) or 1)


def epoch_axis(epochs: Sequence[float]) -> Markup:
    """Names the checkpoints' epochs, and leaves some out where they would touch."""
    text = '<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>'
    shown = epochs[:: ceil(len(epochs) / 8)]
    names = [(epoch_x(epoch, epochs), f"{epoch:g}" if epoch else "base") for epoch in shown]
    return Markup("").join(Markup(text).format(x, HEIGHT - 9, name) for x, name in names)


def loss_chart(
    epochs: Sequence[float], train: Sequence[Point], validation: Sequence[Point], base: float, promoted: float | None
) -> Markup:
    """`base` is the validation loss of the base; losses in nats per label."""
    train = thinned(train)
    panel = Panel("Loss by epoch", epochs, [base, *(y for _, y in [*train, *validation])], promoted)
    panel.level(base, "base", "base")
    panel.line(train, "train", "train")
    panel.line(validation, "validation", "validation")
    panel.dots(validation, "validation", "{:.3f}")
    numbers = ", ".join(f"epoch {x:g}: {y:.2f}" for x, y in validation)
    return panel.svg(f"Base validation loss {base:.2f}. Validation: {numbers}.")


def error_chart(
    epochs: Sequence[float], scores: Sequence[Score], recordings: float | None, promoted: float | None
) -> Markup:
    """Word error rate of every checkpoint with its confidence interval; dashed: real recordings."""
    measured = [(epoch, one.word_error_rate, one.ci) for epoch, one in zip(epochs, scores, strict=True)]
    levels = [0.0] if recordings is None else [0.0, recordings]
    panel = Panel("Word error rate, with 95 % interval", epochs, [*levels, *_ends(measured)], promoted, "{:.0%}")
    return _with_intervals(panel, measured, recordings, "error", "{:.1%}")


def similarity_chart(
    epochs: Sequence[float], scores: Sequence[Score], recordings: float | None, promoted: float | None
) -> Markup:
    """Mean similarity of every checkpoint with its confidence interval; dashed: real recordings. Nothing where it was
    not measured."""
    measured = [
        (epoch, one.similarity, one.similarity_ci)
        for epoch, one in zip(epochs, scores, strict=True)
        if one.similarity is not None and one.similarity_ci is not None
    ]
    if not measured:
        return Markup("")
    levels = [] if recordings is None else [recordings]
    panel = Panel("Similarity, with 95 % interval", epochs, [*levels, *_ends(measured)], promoted)
    return _with_intervals(panel, measured, recordings, "similarity", "{:.3f}")


def _ends(measured: Sequence[Measured]) -> list[float]:
    return [end for _, _, ends in measured for end in ends]


def _with_intervals(
    panel: Panel, measured: Sequence[Measured], recordings: float | None, kind: str, unit: str
) -> Markup:
    """Values with their intervals on `panel`; dashed: real recordings."""
    if recordings is not None:
        panel.level(recordings, "base", "recordings")
    for epoch, _, ends in measured:
        panel.whisker(epoch, *ends, kind)
    points = [(epoch, value) for epoch, value, _ in measured]
    panel.line(points, kind, "")
    panel.dots(points, kind, unit)
    return panel.svg(", ".join(f"epoch {x:g}: {unit.format(y)}" for x, y in points) + ".")


def tier_chart(epochs: Sequence[float], tiers: Mapping[str, Sequence[TierVerdict]], promoted: float | None) -> Markup:
    """Takes that passed, by tier (under the name it is to have) and checkpoint."""
    parts = [epoch_axis(epochs)]
    half = _half(epochs)
    if promoted is not None:
        parts.append(band(epoch_x(promoted, epochs), half + 4))
    height = (HEIGHT - TOP - BOTTOM) / len(tiers)
    for row, (name, verdicts) in enumerate(tiers.items()):
        top = TOP + row * height
        parts.append(side_text(top + height / 2 - 4, name))
        parts += [
            _glass(epoch_x(x, epochs), top, height - 8, half, one) for x, one in zip(epochs, verdicts, strict=True)
        ]
    said = [f"{name}: " + ", ".join(f"{one.passed_takes} of {one.takes}" for one in row) for name, row in tiers.items()]
    return figure("Takes that pass, by length", "; ".join(said) + ".", parts)


def _half(epochs: Sequence[float]) -> float:
    """Half the width of a cell, so that neighbours keep apart."""
    steps = [epoch_x(b, epochs) - epoch_x(a, epochs) for a, b in zip(epochs, epochs[1:], strict=False)]
    return min(17.0, min(steps, default=40.0) / 2 - 2)


def _glass(x: float, top: float, height: float, half: float, verdict: TierVerdict) -> Markup:
    """A glass that is as full as takes passed, with the count in it; a tick or a cross says it without colour."""
    box = '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2"/>'
    text = '<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>'
    filled = height * verdict.passed_takes / max(verdict.takes, 1)
    parts = [
        Markup(box).format("glass", x - half, top, 2 * half, height),
        Markup(box).format("fill", x - half, top + height - filled, 2 * half, filled),
        Markup(text).format(x, top + height / 2 - 2, f"{verdict.passed_takes}/{verdict.takes}"),
        Markup(text).format(x, top + height / 2 + 11, "✓" if verdict.passed else "✗"),
    ]
    group = Markup('<g class="tier {}">').format("passed" if verdict.passed else "failed")
    return group + Markup("").join(parts) + Markup("</g>")
