"""Where the timed calls of every variant lie: their spread tells what a median alone does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdc.measure.workloads import spelled
from kdc.report import table
from kdc.report.charts.labels import height_of, rows
from kdc.report.charts.svg import INK, NARROW, SERIES, Margins, Picture, log_scale, sketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kdc.record import Latency, RunRecord

MOST_TICKS = 3000
"""Calls drawn in all pictures of a page together: what is more is thinned evenly by rank."""
LEGEND = (
    "Ticks are calls, the bar is their middle half, the dark line the median, dots are the medians of single "
    "processes. The slowest hundredth of the calls may lie beyond the right edge."
)
EDGE = 0.99
"""The part of the calls that lies within the picture; a few slow ones would squeeze all others to the left."""


def pictures(record: RunRecord) -> list[Picture]:
    """One a workload, with a row a variant."""
    timed = [variant for variant in record.variants if variant.latency]
    groups = list(dict.fromkeys(variant.runtime for variant in timed))
    cells = sum(len(variant.latency) for variant in timed)
    found = []
    for number, workload in enumerate(table.workloads(record), 1):
        measured = [
            (f"{table.model_name(variant)}, {variant.runtime}", SERIES[groups.index(variant.runtime) % len(SERIES)], at)
            for variant in timed
            if (at := table.latency_at(variant, workload)) is not None
        ]
        found.append(_picture(f"latency-{number}", spelled(workload), measured, ticks=MOST_TICKS // cells))
    return found


def _picture(key: str, workload: str, measured: Sequence[tuple[str, str, Latency]], *, ticks: int) -> Picture:
    def draw(axes: Axes) -> None:
        import numpy as np

        calls = [np.sort(np.concatenate([np.asarray(calls) for calls in at.samples])) for _, _, at in measured]
        low, high = min(each[0] for each in calls), max(float(np.quantile(each, EDGE)) for each in calls)
        rows(axes, [name for name, _, _ in measured], [f"{table.significant(at.p50_ms)} ms" for _, _, at in measured])
        if high / low > 4:
            log_scale(axes, low / 1.08, high * 1.08)
        else:
            axes.set_xlim(low - 0.04 * (high - low or low), high + 0.04 * (high - low or low))
        axes.set_xlabel("ms a call")
        for row, ((_, color, at), each) in enumerate(zip(measured, calls, strict=True)):
            shown = each[np.linspace(0, len(each) - 1, min(len(each), ticks)).round().astype(int)]
            # One line with gaps: a drawing of thousands of single ones would be several times as large.
            x = np.column_stack([shown, shown, np.full(len(shown), np.nan)]).ravel()
            y = np.tile([row - 0.14, row + 0.14, np.nan], len(shown))
            axes.plot(x, y, color=color, alpha=0.4, linewidth=1, solid_capstyle="butt")
            axes.hlines(row, *np.quantile(each, [0.25, 0.75]), color=color, linewidth=7)
            axes.vlines(at.p50_ms, row - 0.2, row + 0.2, color=INK, linewidth=2)
            medians = [float(np.median(calls)) for calls in at.samples]
            axes.scatter(medians, [row + 0.27] * len(medians), s=14, color=color, linewidth=0, clip_on=False)

    height = height_of(len(measured))
    return Picture(
        key=key,
        title=workload[0].upper() + workload[1:],
        description="",
        svg=sketch(draw, key, width=NARROW, height=height, margins=Margins(left=10, top=2, bottom=44)),
        head=["variant", "p50 ms", "p90 ms", "p99 ms", "examples a second", "processes", "calls"],
        rows=[
            [
                name,
                table.significant(at.p50_ms),
                *(table.significant(q) if q is not None else table.MISSING for q in (at.p90_ms, at.p99_ms)),
                table.significant(at.throughput),
                str(len(at.samples)),
                str(sum(map(len, at.samples))),
            ]
            for name, _, at in measured
        ],
    )
