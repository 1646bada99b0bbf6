"""What each setting of a sweep does: the runs by its values, in quality and in latency."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kdc.report import table
from kdc.report.charts.svg import INK, MUTED, NARROW, SERIES, Margins, Picture, sketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kdc.report.charts.pareto import Scale
    from kdc.report.leaderboard import Entry

LEGEND = "A dot is a run, blue if it is on the front; lines are means. What else differs shows as spread."
MOST_VALUES, MOST_LETTERS = 10, 12


def pictures(entries: Sequence[Entry], keys: Sequence[str], on: Scale) -> list[Picture]:
    """Two for each setting: quality and median latency of the runs, by the setting's value."""
    placed = [entry for entry in entries if entry.point is not None]
    found = []
    for number, key in enumerate(keys, 1):
        values = sorted({entry.settings[key] for entry in placed}, key=_order)
        if not 1 < len(values) <= MOST_VALUES:
            continue
        for what, name, shown in (
            ("quality", on.metric, lambda value: table.score(on.metric, value)),
            ("latency", "p50 ms", table.significant),
        ):
            found.append(_picture(f"by-{number}-{what}", f"{name} by {key}", placed, key, values, what, shown))
    return found


def _picture(
    key: str,
    title: str,
    entries: Sequence[Entry],
    setting: str,
    values: Sequence[str],
    what: str,
    shown: Callable[[float], str],
) -> Picture:
    columns = {
        value: [(getattr(e.point, what), e) for e in entries if e.settings[setting] == value] for value in values
    }

    def draw(axes: Axes) -> None:
        for x, runs in enumerate(columns.values()):
            for y, entry in runs:
                color = SERIES[0] if entry.front else MUTED
                axes.scatter(x, y, s=64, color=color, alpha=1 if entry.front else 0.55, linewidth=0, zorder=3)
            mean = sum(y for y, _ in runs) / len(runs)
            axes.hlines(mean, x - 0.28, x + 0.28, color=INK, linewidth=1.5, zorder=2)
        axes.set_xlim(-0.6, len(columns) - 0.4)
        axes.grid(visible=False, axis="x")
        axes.set_xticks(range(len(columns)), [_short(value) for value in columns])
        axes.locator_params(axis="y", nbins=5)
        axes.yaxis.set_major_formatter(lambda value, _: shown(value))

    return Picture(
        key=key,
        title=title,
        description="",
        svg=sketch(draw, key, width=NARROW, height=220, margins=Margins(bottom=28)),
        head=[setting, "runs", "mean", "lowest", "highest"],
        rows=[
            [
                value or "(none)",
                str(len(runs)),
                shown(sum(y for y, _ in runs) / len(runs)),
                shown(min(y for y, _ in runs)),
                shown(max(y for y, _ in runs)),
            ]
            for value, runs in columns.items()
        ],
    )


def _short(value: str) -> str:
    return value if len(value) <= MOST_LETTERS else value[: MOST_LETTERS - 1] + "…"


def _order(value: str) -> tuple[float, str]:
    """Numbers by their size, after them everything else by the alphabet."""
    return (float(value), "") if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", value) else (float("inf"), value)
