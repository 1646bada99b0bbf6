"""Quality against latency: what each point gives up and gains, and which ones nothing beats in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdc.measure.workloads import spelled
from kdc.report import table
from kdc.report.charts.labels import Anchor, place
from kdc.report.charts.svg import INK, MUTED, NARROW, SERIES, WIDE, Picture, log_scale, sketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kdc.record import RunRecord, Variant

SMALLEST, LARGEST = 4.0, 0.75
"""Radius of a bubble in pixels at the least, and at the most as this part of the root of the drawing's width."""
MOST_NAMES = 8


@dataclass(frozen=True)
class Scale:
    """What the two axes are."""

    metric: str
    higher_is_better: bool
    workload: Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """A variant in the picture; `group` (its runtime) is what it is coloured by."""

    name: str
    group: str
    latency: float
    quality: float
    ci95: tuple[float, float] | None
    bytes: int


def scale(record: RunRecord) -> Scale | None:
    """The primary metric and the first workload of a run; None where one was not measured."""
    scored = next((variant.quality for variant in record.variants if variant.quality), None)
    wanted = table.first_workload(record)
    if scored is None or wanted is None:
        return None
    name, metric = table.primary(scored)
    return Scale(name, metric.higher_is_better, wanted)


def point(variant: Variant, on: Scale, name: str) -> Point | None:
    """Where `variant` stands; None where it was not measured so."""
    latency = table.latency_at(variant, on.workload)
    metric = variant.quality.metrics.get(on.metric) if variant.quality else None
    if latency is None or metric is None:
        return None
    size = variant.artifact.bytes if variant.artifact else 0
    return Point(name, variant.runtime, latency.p50_ms, metric.value, metric.ci95, size)


def front(points: Sequence[Point], *, higher_is_better: bool = True) -> list[Point]:
    """Points that no other is at least as good as in quality and latency and better in one; the fastest first."""
    sign = 1 if higher_is_better else -1
    best: list[Point] = []
    for candidate in sorted(points, key=lambda p: (p.latency, -sign * p.quality)):
        same = best and (candidate.latency, candidate.quality) == (best[-1].latency, best[-1].quality)
        if not best or same or sign * candidate.quality > sign * best[-1].quality:
            best.append(candidate)
    return best


def picture(points: Sequence[Point], on: Scale) -> Picture:
    """Bubbles with intervals; the front is joined by a line."""
    best = front(points, higher_is_better=on.higher_is_better)
    named = best if len(points) > MOST_NAMES else points

    def draw(axes: Axes) -> None:
        _draw(axes, points, best, named, on)

    rows = [
        [
            p.name,
            p.group,
            table.significant(p.latency),
            table.score(on.metric, p.quality),
            table.score_interval(on.metric, p.ci95),
            table.size(p.bytes) if p.bytes else table.MISSING,
            "yes" if p in best else "",
        ]
        for p in points
    ]
    better = "higher" if on.higher_is_better else "lower"
    return Picture(
        key="pareto",
        title=f"{on.metric} against latency",
        description=f"Further left is faster, {better} is better; bars are 95% intervals, a bubble's area is the size "
        f"of the files. {_told(best, several=len({p.group for p in points}) > 1)}",
        svg=sketch(draw, "pareto", width=WIDE, height=440),
        narrow=sketch(draw, "pareto", width=NARROW, height=380),
        head=["variant", "runtime", "p50 ms", on.metric, "95% interval", "size", "on the front"],
        rows=rows,
    )


def _told(best: Sequence[Point], *, several: bool) -> str:
    names = [f"{p.name} in {p.group}" if several else p.name for p in best]
    if len(names) == 1:
        return f"Nothing beats {names[0]} in either."
    return f"The dotted line joins what nothing else beats in both: {', '.join(names)}."


def _draw(axes: Axes, points: Sequence[Point], best: Sequence[Point], named: Sequence[Point], on: Scale) -> None:
    groups = list(dict.fromkeys(p.group for p in points))
    width = float(axes.get_window_extent().width)
    largest = max(p.bytes for p in points) or 1
    ends = [end for p in points for end in (p.quality, *(p.ci95 or ()))]
    room = (max(ends) - min(ends)) * 0.12 or 0.01
    axes.set_ylim(min(ends) - room, max(ends) + room)
    axes.yaxis.set_major_formatter(lambda value, _: table.score(on.metric, value))
    axes.set_xlabel(f"median latency, ms ({spelled(on.workload)})")
    fastest, slowest = min(p.latency for p in points), max(p.latency for p in points)
    if slowest / fastest > 4:
        log_scale(axes, fastest / 1.5, slowest * 1.5)
    else:
        axes.set_xlim(fastest - 0.25 * (slowest - fastest or fastest), slowest + 0.25 * (slowest - fastest or fastest))
    axes.plot([p.latency for p in best], [p.quality for p in best], color=MUTED, linewidth=1.2, dashes=(2, 3), zorder=1)
    anchors = []
    for p in points:
        color = SERIES[groups.index(p.group) % len(SERIES)]
        radius = max(SMALLEST, LARGEST * (width * p.bytes / largest) ** 0.5)
        if p.ci95:
            axes.vlines(p.latency, *p.ci95, color=color, linewidth=1.5, zorder=2)
        area = (2 * radius) ** 2  # matplotlib's areas are those of the square around
        axes.scatter(p.latency, p.quality, s=area, color=color, alpha=0.22, linewidth=0, zorder=3)
        axes.scatter(p.latency, p.quality, s=area, facecolor="none", edgecolor=color, linewidth=1.5, zorder=3)
        axes.scatter(p.latency, p.quality, s=9, color=INK, linewidth=0, zorder=4)
        if p in named:
            told = [*([p.group] if len(groups) > 1 else []), *([table.size(p.bytes)] if width > NARROW else [])]
            anchors.append(Anchor(p.latency, p.quality, radius, p.name, ", ".join(told), p.ci95))
    place(axes, anchors)
