"""Fill a template of `templates/`: one page that loads nothing, and in which no text from data can do anything."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc.report import table

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, **values: Any) -> str:
    """The page, with what comes from data escaped; its policy lets no script run but its own, and nothing be loaded."""
    from markupsafe import Markup

    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _templates().get_template(template)
    return page.render(table=table, script=Markup(script), script_hash=Markup(f"sha256-{digest}"), **values)


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters["moment"] = _moment
    return made


def _moment(text: str) -> str:
    """`21 November 2026, 04:00 UTC`; a text that is no time stays as it is."""
    try:
        return f"{datetime.fromisoformat(text):%-d %B %Y, %H:%M %Z}".strip()
    except ValueError:
        return text
