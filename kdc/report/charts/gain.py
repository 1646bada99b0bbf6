"""What the teacher was worth: the score of every seed in every arm, and the gain over each control."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from kdc.report import gain as texts
from kdc.report import table
from kdc.report.charts.labels import height_of, rows
from kdc.report.charts.svg import BAD, GOOD, INK, MUTED, NARROW, RULE, SERIES, Margins, Picture, sketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kdc.record import RunRecord

MARGINS = Margins(left=10, top=2)
COLORS = {"gain": GOOD, "harm": BAD}


def pictures(record: RunRecord) -> list[Picture]:
    """Nothing where there are neither seeds nor controls to compare."""
    metric = texts.primary(record)
    arms = [arm for arm in texts.arms(record) if arm.scores(metric)]
    gained = [arm for arm in arms if arm.gain is not None and arm.gain.ci95 is not None]
    return [*([_seeds(metric, arms)] if arms else []), *([_gains(metric, gained)] if gained else [])]


def _seeds(metric: str, arms: list[texts.Arm]) -> Picture:
    """A dot a seed, joined to the same seed of the next arm."""
    scores = [arm.scores(metric) for arm in arms]
    means = [sum(each.values()) / len(each) for each in scores]

    def draw(axes: Axes) -> None:
        rows(axes, [arm.name for arm in arms], [texts.score_over_seeds(metric, list(s.values())) for s in scores])
        for row, (above, below) in enumerate(pairwise(scores)):
            for seed in sorted(above.keys() & below.keys()):
                axes.plot([above[seed], below[seed]], [row, row + 1], color=RULE, linewidth=1, zorder=1)
        for row, (arm, each, mean) in enumerate(zip(arms, scores, means, strict=True)):
            color = SERIES[1] if arm.control else SERIES[0]
            axes.scatter(list(each.values()), [row] * len(each), s=50, color=color, alpha=0.75, linewidth=0, zorder=3)
            axes.vlines(mean, row - 0.2, row + 0.2, color=INK, linewidth=2, zorder=2)
        low, high = (pick(value for each in scores for value in each.values()) for pick in (min, max))
        room = 0.06 * (high - low) or 0.01
        axes.set_xlim(low - room, high + room)
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter(lambda value, _: table.score(metric, value))
        axes.set_xlabel(metric)

    seeds = sorted({seed for each in scores for seed in each})
    return Picture(
        key="gain-seeds",
        title="Every seed",
        description="A dot is a training, the dark line the mean; thin lines join the same seed.",
        svg=sketch(draw, "gain-seeds", width=NARROW, height=height_of(len(arms)), margins=MARGINS),
        head=["arm", *(f"seed {seed}" for seed in seeds)],
        rows=[
            [arm.name, *(table.score(metric, each[seed]) if seed in each else table.MISSING for seed in seeds)]
            for arm, each in zip(arms, scores, strict=True)
        ],
    )


def _gains(metric: str, arms: list[texts.Arm]) -> Picture:
    scale = 100 if table.is_share(metric) else 1
    gains = [arm.gain for arm in arms if arm.gain is not None]

    def draw(axes: Axes) -> None:
        names = [f"over {texts.OVER[arm.name]}" for arm in arms]
        rows(axes, names, [table.change(metric, gain.value).removesuffix(" points") for gain in gains])
        axes.axvline(0, color=MUTED, linewidth=1)
        for row, gain in enumerate(gains):
            assert gain.ci95 is not None
            color = COLORS.get(gain.verdict, MUTED)
            axes.hlines(row, scale * gain.ci95[0], scale * gain.ci95[1], color=color, linewidth=2)
            axes.scatter(scale * gain.value, row, s=50, color=color, linewidth=0, zorder=3)
        ends = [0.0, *(scale * end for gain in gains for end in gain.ci95 or ())]
        room = 0.06 * (max(ends) - min(ends)) or 1.0
        axes.set_xlim(min(ends) - room, max(ends) + room)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("points" if table.is_share(metric) else metric)

    return Picture(
        key="gain-intervals",
        title=f"Gain in {metric}",
        description="With its 95% interval. Grey: the interval holds zero, so no gain within noise.",
        svg=sketch(draw, "gain-intervals", width=NARROW, height=height_of(len(arms)), margins=MARGINS),
        head=["over", "gain", "95% interval", "verdict"],
        rows=[
            [arm.name, table.change(metric, it.value), table.change_interval(metric, it.ci95), it.verdict]
            for arm, it in zip(arms, gains, strict=True)
        ],
    )
