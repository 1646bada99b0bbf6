"""What a variant changed for parts of the rows, and whether its confidence still means what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdc.report import table
from kdc.report.charts.labels import height_of, rows
from kdc.report.charts.svg import BAD, GOOD, INK, MUTED, NARROW, RULE, SERIES, Margins, Picture, sketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kdc.record import Calibration, Comparison, GroupChange

MOST_GROUPS = 12
GROUPS_LEGEND = (
    "Change in percentage points with its 95% interval, in brackets the rows. Grey: the interval holds zero."
)
RELIABILITY_LEGEND = (
    "A dot is a bin of rows, its area their number. Below the diagonal the variant is too sure of its answers."
)


def groups(comparison: Comparison, key: str) -> list[Picture]:
    """One picture for each way of cutting the rows (by class, by length, ...), the largest losses first."""
    ways = dict.fromkeys(group.by for group in comparison.groups)
    return [
        _cut(by, [g for g in comparison.groups if g.by == by], f"{key}-cut-{number}")
        for number, by in enumerate(ways, 1)
    ]


def _cut(by: str, parts: Sequence[GroupChange], key: str) -> Picture:
    """Rows with an interval; classes are sorted and cut, ranges keep their order."""
    if by == "class" or len(parts) > MOST_GROUPS:
        parts = sorted(parts, key=lambda group: group.difference.value)
    largest = sorted(parts, key=lambda group: -abs(group.difference.value))[:MOST_GROUPS]
    shown = [group for group in parts if group in largest]

    def draw(axes: Axes) -> None:
        rows(axes, [f"{g.group} ({g.n:,})" for g in shown], [table.points(g.difference.value) for g in shown])
        axes.axvline(0, color=MUTED, linewidth=1)
        ends = [100 * end for g in shown for end in (g.difference.value, *(g.difference.ci95 or ()))]
        reach = max(abs(end) for end in ends) * 1.08 or 1.0
        axes.set_xlim(-reach, reach)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("points")
        for row, group in enumerate(shown):
            interval = group.difference.ci95
            sure = interval is not None and not interval[0] <= 0 <= interval[1]
            color = MUTED if not sure else BAD if group.difference.value < 0 else GOOD
            if interval is not None:
                axes.hlines(row, 100 * interval[0], 100 * interval[1], color=color, linewidth=2)
            axes.scatter(100 * group.difference.value, row, s=42, color=color, linewidth=0, zorder=3)

    left_out = f"The {len(shown)} largest of {len(parts)} changes." if len(shown) < len(parts) else ""
    return Picture(
        key=key,
        title="Recall by class" if by == "class" else f"Quality by {by}",
        description=left_out,
        svg=sketch(draw, key, width=NARROW, height=height_of(len(shown)), margins=Margins(left=10, top=2)),
        head=[by, "rows", "before", "now", "change", "95% interval", "p", "p adjusted"],
        rows=[
            [
                g.group,
                f"{g.n:,}",
                f"{g.other:.1%}",
                f"{g.value:.1%}",
                table.points(g.difference.value),
                " to ".join(map(table.points, g.difference.ci95 or ())),
                table.p_value(g.difference.p),
                table.p_value(g.difference.p_adjusted),
            ]
            for g in parts
        ],
    )


def reliability(name: str, calibration: Calibration, key: str) -> Picture:
    """Accuracy against confidence, bin by bin (Guo et al. 2017, figure 1); on the diagonal confidence is honest."""
    filled = [b for b in calibration.bins if b.n]
    x, y = ([getattr(b, of) or 0.0 for b in filled] for of in ("confidence", "accuracy"))
    most = max((b.n for b in filled), default=1)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=RULE, linewidth=1.5)
        axes.vlines(x, list(map(min, x, y)), list(map(max, x, y)), color=SERIES[1], linewidth=1.5)
        axes.scatter(x, y, s=[12 + 140 * b.n / most for b in filled], color=SERIES[0], alpha=0.75, linewidth=0)
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.03)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy", color=INK)

    return Picture(
        key=key,
        title=name,
        description=f"Expected calibration error {calibration.ece:.1%}",
        svg=sketch(draw, key, width=NARROW, height=300, margins=Margins(left=62)),
        head=["confidence", "rows", "mean confidence", "accuracy"],
        rows=[
            [f"{b.low:.0%}–{b.high:.0%}", f"{b.n:,}", f"{confidence:.1%}", f"{accuracy:.1%}"]
            for b, confidence, accuracy in zip(filled, x, y, strict=True)
        ],
    )
