"""Drawings as inline SVG: text stays text, colours are the page's own variables, nothing refers outside.

matplotlib draws them, imported only then; what it writes is cut down to what a page needs.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that nothing else has, drawn in place of the variables of style.css that they become.
INK, MUTED, RULE, PAGE = "#00000a", "#00000b", "#00000c", "#00000d"
SERIES = ("#00001a", "#00001b", "#00001c", "#00001d")
GOOD, BAD = "#00002a", "#00002b"
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    PAGE: "--page",
    GOOD: "--good",
    BAD: "--bad",
    **{color: f"--series-{number}" for number, color in enumerate(SERIES, 1)},
}
FONT_SIZE = 12
WIDE, NARROW = 960, 343
"""CSS pixels of a drawing: on a desktop, and on a phone (or beside another)."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kdc",  # the same record makes the same page
    "text.parse_math": False,  # a label may hold dollar signs
    "font.size": FONT_SIZE,
    "text.color": INK,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": FONT_SIZE,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 1,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}

Draw = Callable[["Axes"], None]


@dataclass(frozen=True)
class Margins:
    """Pixels between the edge of a drawing and its axes: what ticks and axis titles need."""

    left: int = 52
    right: int = 14
    bottom: int = 46
    top: int = 12


@dataclass(frozen=True)
class Picture:
    """A drawing, what it shows in words, and its numbers, for those who do not see it.

    `key` is that of `sketch`.
    """

    key: str
    title: str
    description: str
    """What the reader must know of this one; a legend that several share stands before them."""
    svg: str
    narrow: str = ""
    """The same drawn for a phone, where the drawing is wide."""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=list)


def sketch(draw: Draw, key: str, *, width: int, height: int, margins: Margins | None = None) -> str:
    """Let `draw` work on fresh axes of a drawing of so many CSS pixels.

    `key` is the picture's own on its page: the elements with the ids `key`-title and `key`-about name and describe
    it. Margins are fixed, so that labels can be placed before all is laid out.
    """
    import matplotlib
    from matplotlib.figure import Figure

    edge = margins or Margins()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the reader's browser has fonts that this machine lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)  # matplotlib's points are then CSS pixels
        axes = figure.add_axes(
            (
                edge.left / width,
                edge.bottom / height,
                (width - edge.left - edge.right) / width,
                (height - edge.bottom - edge.top) / height,
            )
        )
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    names = {"role": "img", "aria-labelledby": f"{key}-title", "aria-describedby": f"{key}-about"}
    return _inline(file.getvalue(), f"{key}-{width}", names)


def decimal_ticks(low: float, high: float) -> list[float]:
    """At most seven round numbers between two positive ones, as evenly as a logarithmic axis wants them."""
    found: list[float] = []
    for digits in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        steps = [digit * 10.0**power for power in range(-9, 10) for digit in digits]
        found = [step for step in steps if low <= step <= high]
        if len(found) <= 7:
            break
    return found


def log_scale(axes: Axes, low: float, high: float) -> None:
    """A logarithmic x axis from `low` to `high` with plain numbers on it."""
    ticks = decimal_ticks(low, high)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _inline(source: str, key: str, names: dict[str, str]) -> str:
    """An SVG document as an element of a page: no namespaces, metadata or style sheet; its ids begin with `key`."""
    root = ElementTree.fromstring(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "", source))
    referred = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", source))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        if attributes.get("id") not in referred:
            attributes.pop("id", None)
        element.attrib.clear()
        element.attrib.update({name: _value(name, value, key) for name, value in attributes.items()})
    root.attrib = {"viewBox": root.attrib["viewBox"], **names}
    return ElementTree.tostring(root, encoding="unicode")


def _value(name: str, value: str, key: str) -> str:
    if name == "id":
        return f"{key}-{value}"
    if name == "style":
        kept = [part for part in value.split("; ") if not part.startswith("font-family")]
        value = re.sub("#[0-9a-f]{6}", lambda color: f"var({VARIABLES[color[0]]})", "; ".join(kept))
    if name in ("d", "x", "y", "transform"):
        value = re.sub(r"(\.\d\d)\d+", r"\1", value)
    return re.sub(r"url\(#|^#", lambda start: f"{start[0]}{key}-", value)
