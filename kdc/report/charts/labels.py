"""Where names go in a drawing: beside their point and over nothing else, or on a line of their own above their row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdc.report.charts.svg import FONT_SIZE, INK, MUTED, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LETTER = 0.54 * FONT_SIZE
"""Mean width of a letter in the fonts of desktops and phones; the drawing cannot know which it will be set in."""
LINE = 1.25 * FONT_SIZE
SIDES = ((1, 0), (-1, 0), *((across, along) for along in (1, -1, 2, -2, 3, -3) for across in (0, 1, -1)))
DISTANCE = 40
"""What a step further away costs, in square pixels of overlap."""
LEADER: dict[str, Any] = {"arrowstyle": "-", "color": RULE, "shrinkA": 0, "shrinkB": 0}
PIXELS: dict[str, Any] = {"xycoords": "figure pixels", "annotation_clip": False}
ROW = 46
"""Pixels of a row with its name above it."""


@dataclass(frozen=True)
class Anchor:
    """A point in data coordinates with its radius in pixels, and what stands beside it: a name, and smaller print.

    `bar` are the ends of its interval, on which nothing should stand either.
    """

    x: float
    y: float
    radius: float
    text: str
    detail: str = ""
    bar: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Box:
    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: _Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0) * max(height, 0)

    def outside(self, frame: _Box) -> float:
        own = (self.right - self.left) * (self.top - self.bottom)
        return own - self.overlap(frame)


def place(axes: Axes, anchors: Sequence[Anchor]) -> None:
    """Write every anchor's text on the side of its point where it covers least of the others and of the frame.

    Limits and scales of `axes` must be final.
    """
    frame = _Box(*axes.get_window_extent().extents)
    points = [axes.transData.transform((a.x, a.y)) for a in anchors]
    taken = [_around(x, y, anchor.radius, anchor.radius) for (x, y), anchor in zip(points, anchors, strict=True)]
    for anchor in anchors:
        if anchor.bar:
            (x, low), (_, high) = (axes.transData.transform((anchor.x, end)) for end in anchor.bar)
            taken.append(_around(x, (low + high) / 2, 2, (high - low) / 2))
    for anchor, (x, y) in zip(anchors, points, strict=True):
        lines = [line for line in (anchor.text, anchor.detail) if line]
        size = max(map(len, lines)) * LETTER, len(lines) * LINE
        spots = {side: _spot(x, y, size, anchor.radius + 5, side) for side in SIDES}
        cost = {
            side: sum(map(box.overlap, taken)) + 4 * box.outside(frame) + DISTANCE * abs(side[1])
            for side, box in spots.items()
        }
        side = min(spots, key=lambda side: cost[side])
        box = spots[side]
        taken.append(box)
        at, align = {1: (box.left, "left"), 0: (x, "center"), -1: (box.right, "right")}[side[0]]
        if abs(side[1]) > 1:
            near = box.top if side[1] < 0 else box.bottom
            axes.annotate("", (x, y), (x, near), **PIXELS, textcoords="figure pixels", arrowprops=LEADER)
        for row, line in enumerate(lines):
            top = box.top - (row + 0.5) * LINE
            axes.annotate(line, (at, top), ha=align, va="center", color=MUTED if row else INK, **PIXELS)


def _around(x: float, y: float, half_width: float, half_height: float) -> _Box:
    return _Box(x - half_width, y - half_height, x + half_width, y + half_height)


def _spot(x: float, y: float, size: tuple[float, float], gap: float, side: tuple[int, int]) -> _Box:
    """A box of `size` beside a point: to the right for side (1, 0), above for (0, 1), further above for (0, 2)."""
    width, height = size
    across, along = side
    reach = gap if across == 0 or along == 0 else 0.75 * gap
    further = max(abs(along) - 1, 0) * (height + LINE / 2)
    left = x - width / 2 + across * (width / 2 + reach)
    bottom = y - height / 2 + (1 if along > 0 else -1 if along < 0 else 0) * (height / 2 + reach + further)
    return _Box(left, bottom, left + width, bottom + height)


def at_right(axes: Axes, ends: Sequence[tuple[float, str]]) -> None:
    """Names of lines in the right margin, each at the height (in data) where its line ends, pushed apart to be read.

    Limits of `axes` must be final.
    """
    frame = axes.get_window_extent()
    ranked = sorted((axes.transData.transform((0, y))[1], text) for y, text in ends)
    heights = [max(ranked[0][0], frame.y0)]
    for y, _ in ranked[1:]:
        heights.append(max(y, heights[-1] + LINE))
    for place, (y, (_, text)) in enumerate(zip(heights, ranked, strict=True), 1):
        lowered = min(y, frame.y1 - LINE * (len(ranked) - place))
        axes.annotate(text, (frame.x1 + 6, lowered), va="center", **PIXELS)


def rows(axes: Axes, names: Sequence[str], values: Sequence[str]) -> None:
    """Turn the y axis into rows 0, 1, ... from the top; above each its name, and its value at the right end."""
    axes.set_ylim(len(names) - 0.4, -0.75)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        above: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "annotation_clip": False, "va": "center"}
        axes.annotate(name, (0, row - 0.42), color=INK, ha="left", **above)
        axes.annotate(value, (1, row - 0.42), color=INK, ha="right", weight="bold", **above)


def height_of(count: int) -> int:
    """Pixels of a drawing with so many rows, its axis included."""
    return ROW * count + 58
