"""How the training of a stage went: what each term contributes to the loss, and what it is by itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdc.report.charts.labels import at_right
from kdc.report.charts.svg import INK, NARROW, SERIES, Margins, Picture, sketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kdc.record import Stage

WEIGHTED = "_weighted"
TABLE_ROWS = 12
Row = dict[str, float]


def pictures(stage: Stage, key: str) -> list[Picture]:
    """The loss as the sum of its weighted terms, the terms before their weights, and scores on held-out rows.

    Only what the stage's history has; nothing for a stage that trained in a step or two.
    """
    history = stage.train.history if stage.train else []
    steps = [row for row in history if "loss" in row and "step" in row]
    checks = [row for row in history if "step" in row and any(name.startswith("eval_") for name in row)]
    terms = [name.removesuffix(WEIGHTED) for name in (steps[-1] if steps else {}) if name.endswith(WEIGHTED)]
    found = []
    if len(steps) > 2:
        found.append(_loss(f"{key}-loss", steps, terms))
        if len(terms) > 1:
            found.append(_terms(f"{key}-terms", steps, terms))
    if len(checks) > 1:
        found.append(_scores(f"{key}-scores", checks))
    return found


def audit(stage: Stage) -> list[list[str]]:
    """Every term: its value at first and at last before its weight, its weight, and its share of the last loss."""
    rows = [row for row in (stage.train.history if stage.train else []) if "loss" in row]
    if not rows:
        return []
    first, last = rows[0], rows[-1]
    return [
        [
            name,
            f"{first[name]:.4g}" if name in first else "",
            f"{last[name]:.4g}",
            f"{last[name + WEIGHTED] / last[name]:.3g}" if last[name] else "",
            f"{last[name + WEIGHTED]:.4g}",
            f"{last[name + WEIGHTED] / last['loss']:.0%}" if last["loss"] else "",
        ]
        for name in last
        if name + WEIGHTED in last
    ]


def _loss(key: str, steps: Sequence[Row], terms: Sequence[str]) -> Picture:
    """Weighted terms, one upon the other where none is negative; the loss itself as a line."""
    at = [row["step"] for row in steps]
    parts = [[row.get(term + WEIGHTED, 0.0) for row in steps] for term in terms]
    stacked = bool(parts) and all(value >= 0 for part in parts for value in part)

    def draw(axes: Axes) -> None:
        loss = [row["loss"] for row in steps]
        if stacked:
            areas = axes.stackplot(at, *parts, colors=[SERIES[i % len(SERIES)] for i in range(len(parts))], alpha=0.28)
            for area in areas:
                area.set_linewidth(0)
        axes.plot(at, loss, color=INK, linewidth=1.6)
        axes.set_ylim(0 if min(loss) >= 0 else None, max(loss) * 1.06 if max(loss) > 0 else None)
        _steps(axes, at)
        if stacked:
            tops = list(itertools.accumulate(part[-1] for part in parts))
            at_right(axes, [(top - part[-1] / 2, term) for top, part, term in zip(tops, parts, terms, strict=True)])

    what = "The line is the loss; the areas are its terms times their weights." if stacked else "The loss by step."
    return Picture(
        key=key,
        title="Loss",
        description=what,
        svg=sketch(draw, key, width=NARROW, height=240, margins=_margins(terms if stacked else [])),
        head=["step", "loss", *(f"{term}, weighted" for term in terms)],
        rows=_thinned(steps, ["step", "loss", *(term + WEIGHTED for term in terms)]),
    )


def _terms(key: str, steps: Sequence[Row], terms: Sequence[str]) -> Picture:
    names = {term: term for term in terms}
    return _lines(key, "Terms before their weights", "What the weights multiply.", steps, names)


def _scores(key: str, checks: Sequence[Row]) -> Picture:
    names = {name: name.removeprefix("eval_") for name in checks[-1] if name.startswith("eval_")}
    about = "Scores on the validation rows while training."
    return _lines(key, "Validation", about, checks, names, marker="o")


def _lines(
    key: str, title: str, about: str, rows: Sequence[Row], names: dict[str, str], *, marker: str | None = None
) -> Picture:
    def draw(axes: Axes) -> None:
        lines = {name: [(row["step"], row[name]) for row in rows if name in row] for name in names}
        for number, line in enumerate(lines.values()):
            axes.plot(*zip(*line, strict=True), color=SERIES[number % len(SERIES)], marker=marker, markersize=5)
        _steps(axes, [row["step"] for row in rows])
        at_right(axes, [(lines[name][-1][1], shown) for name, shown in names.items()])

    return Picture(
        key=key,
        title=title,
        description=about,
        svg=sketch(draw, key, width=NARROW, height=240, margins=_margins(list(names.values()))),
        head=["step", *names.values()],
        rows=_thinned(rows, ["step", *names]),
    )


def _steps(axes: Axes, steps: Sequence[float]) -> None:
    axes.set_xlabel("step")
    axes.set_xlim(steps[0], steps[-1])
    axes.locator_params(axis="x", nbins=4)
    axes.locator_params(axis="y", nbins=5)


def _margins(names: Sequence[str]) -> Margins:
    return Margins(left=44, right=14 + 7 * max((min(len(name), 14) for name in names), default=0))


def _thinned(rows: Sequence[Row], names: Sequence[str]) -> list[list[str]]:
    """At most a dozen rows, counted from the end, so that the last is among them."""
    shown = rows[::-1][:: max(1, -(-len(rows) // TABLE_ROWS))][::-1]
    return [[f"{row[name]:.4g}" if name in row else "" for name in names] for row in shown]
