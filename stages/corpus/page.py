"""reports/corpus/: what the audit found, as a page with four histograms. Everything from the corpus is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from stages.common.languages import words

BINS = 40
LISTED = 500  # rows of a table on the page; audit.json has them all

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Corpus audit: {{ audit.source }}</title>
<style>
:root { color-scheme: light dark; --faint: light-dark(#667, #99a); --line: light-dark(#dde, #334); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.lead, .note { color: var(--faint); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
.plots img { width: 100%; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.clip { font-family: ui-monospace, monospace; font-size: .85rem; overflow-wrap: anywhere; width: 40%; }
</style>
<h1>Corpus audit</h1>
<p class="lead">{{ audit.source }} ({{ audit.kind }}), {{ stats.speakers | join(", ") }}, {{ stats.language }}:
{{ stats.clips }} clips, {{ minutes(stats.seconds) }} minutes after trimming,
{{ counted(audit.warnings, "warning") }}, {{ left_out }} clip{{ "s" if left_out != 1 }} left out.
A sentence takes {{ "%.1f" | format(stats.words_per_second) }} words a second.</p>

<table style="width: auto">
<tr><th>split<th class="number">clips<th class="number">sentences<th class="number">minutes</tr>
{% for name, split in stats.splits.items() %}
<tr><td>{{ name }}<td class="number">{{ split.clips }}<td class="number">{{ split.sentences }}
<td class="number">{{ minutes(split.seconds) }}</tr>
{% endfor %}
</table>

<div class="plots" style="margin-top: 1.5rem">
{% for name, alternative in plots %}
<img src="{{ name }}.svg" alt="{{ alternative }}">
{% endfor %}
</div>

{% macro findings(rows, column) %}
<table>
<tr><th>clip<th>{{ column }}</tr>
{% for row in rows[:listed] %}
<tr><td class="clip">{{ row.source }}<td>{{ row.what }}</tr>
{% endfor %}
</table>
{% if rows | length > listed %}<p class="note">and {{ rows | length - listed }} more in audit.json</p>{% endif %}
{% endmacro %}
<h2>Warnings</h2>
{% if audit.warnings %}{{ findings(audit.warnings, "what a person should look at") }}{% else %}<p>None.</p>{% endif %}

<h2>Left out</h2>
{% if audit.left_out %}{{ findings(audit.left_out, "why") }}{% else %}<p>None.</p>{% endif %}

<h2>Said more than once</h2>
{% if audit.repeated_texts %}
<p class="note">Harmless: every recording of a sentence is in the same split.</p>
<table>
<tr><th>clips<th>sentence</tr>
{% for text, ids in (audit.repeated_texts.items() | list)[:listed] %}
<tr><td class="clip">{{ ids | join(", ") }}<td>{{ text }}</tr>
{% endfor %}
</table>
{% else %}<p>None.</p>{% endif %}
<p class="note">Every measurement of every clip: <a href="audit.json">audit.json</a>.</p>
</html>
"""


def write_page(folder: Path, audit: dict[str, Any], stats: dict[str, Any]) -> None:
    """Write index.html and its plots to `folder`: the same audit gives the same bytes."""
    clips = audit["clips"]
    limit = max(clip["sample_rate"] for clip in clips) / 2000
    plots = [
        ("durations", "Clip length, silence at the ends included (s)", [clip["seconds"] for clip in clips]),
        ("bandwidth", f"Bandwidth (kHz); the rate allows {limit:g}", [clip["bandwidth"] / 1000 for clip in clips]),
        ("loudness", "Loudness of what is not silent (dBFS, RMS)", [clip["loudness"] for clip in clips]),
        ("words", "Words a clip", [words(clip["text"], stats["language"]) for clip in clips]),
    ]
    for name, label, values in plots:
        _histogram(folder / f"{name}.svg", label, values)
    strict = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = strict.from_string(PAGE).render(
        audit=audit,
        stats=stats,
        plots=[(name, f"Histogram: {label}") for name, label, _ in plots],
        listed=LISTED,
        left_out=count_left_out(audit),
        counted=lambda rows, noun: f"{len(rows)} {noun}{'s' * (len(rows) != 1)}",
        minutes=lambda seconds: f"{seconds / 60:.1f}",
    )
    (folder / "index.html").write_text(html, encoding="utf-8")


def count_left_out(audit: dict[str, Any]) -> int:
    """Clips that are left out; those of other speakers and languages have one row together."""
    return len(audit["left_out"]) + sum(len(clips) - 1 for clips in audit["others"].values())


def _histogram(path: Path, label: str, values: Sequence[float]) -> None:
    """Levels get the axis they need; lengths and counts start at 0, and counts have whole bins."""
    low, high = min(0.0, np.floor(min(values))), np.ceil(max(values))
    whole = isinstance(values[0], int)
    step = max(1.0, np.ceil((high - low) / BINS)) if whole else (high - low) / BINS
    # A fixed salt and no date: SVG ids and metadata would otherwise differ from run to run.
    with matplotlib.rc_context({"svg.hashsalt": "corpus", "font.size": 9}):
        figure = Figure(figsize=(5.4, 2.7), layout="constrained")
        axes = figure.add_subplot()
        axes.hist(values, bins=np.arange(low, high + step * (1 + whole), step).tolist(), color="#3b6ea8")
        axes.axvline(float(np.median(values)), color="#c2541b", linewidth=1.2, label=f"median {np.median(values):.3g}")
        axes.set(xlabel=label, ylabel="clips")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
