"""HTML pages. What comes from data is escaped; CSS and script are inlined, so a page needs no file but its audio.

The page's policy allows exactly the script that is inlined here (by its hash) and no connection: markup that slipped
into a transcript could neither run nor call out.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from stages.report.findings import counted, percent, tier_name

TEMPLATES = Path(__file__).parent / "templates"


def count(number: float) -> str:
    """3712000 is "3.7 M"."""
    for size, suffix in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{suffix}"
    return f"{number:g}"


def khz(rate: float) -> str:
    return f"{rate / 1000:g} kHz"


def duration(seconds: float | None) -> str:
    """Wall time as a person says it; None is "not measured"."""
    if seconds is None:
        return "not measured"
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else str(timedelta(minutes=minutes))[:-3] + " h"


def measured(value: float | None, form: str, missing: str = "not measured") -> str:
    return missing if value is None else form.format(value)


def environment() -> jinja2.Environment:
    """The templates with their filters. A name that a template does not get is an error, not an empty string."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(percent=percent, counted=counted, count=count, khz=khz, duration=duration)
    made.filters.update(measured=measured, tier=tier_name, url=quote)
    return made


def render(template: str, *scripts: str, **values: Any) -> str:
    """The page that `template` makes of `values`, with the style of all pages and these scripts inlined."""
    style, *parts = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", *scripts))
    script = "".join(parts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    inlined = {"style": Markup(style), "script": Markup(script), "script_hash": digest}
    return environment().get_template(template).render(**inlined, **values)
