"""What the teacher was worth, to be read: a sentence a control, and the score of every seed of every arm. Text only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from kdc.record import Gain, Replicate, RunRecord
from kdc.report import table
from kdc.report.summary import Grid, Row
from kdc.report.table import Cell

TEACHER, PEERS = ("the teacher", "was"), ("its peers", "were")
"""Who taught."""
OVER = {"hard labels": "hard labels", "from scratch": "training from scratch"}


@dataclass(frozen=True)
class Arm:
    """Trainings that differ in their seed alone: a variant's, or a control's with what the student gained over it."""

    name: str
    replicates: Sequence[Replicate]
    control: bool = False
    about: str = ""
    gain: Gain | None = None

    def scores(self, metric: str) -> dict[int, float]:
        """By seed."""
        return {one.seed: one.metrics[metric] for one in self.replicates if metric in one.metrics}


def gain_verdict(record: RunRecord) -> list[str]:
    """A sentence a control, by the primary metric."""
    metric = primary(record)
    who = PEERS if record.config.get("distill", {}).get("peers") else TEACHER
    return [sentence(metric, arm.gain, OVER[arm.name], who) for arm in arms(record) if arm.gain is not None]


def sentence(metric: str, gain: Gain, over: str, who: tuple[str, str] = TEACHER) -> str:
    """`the teacher was worth +1.3 points of accuracy [0.6, 2.0] over hard labels (3 seeds, 1,821 rows)`.

    A difference whose interval holds 0 is no gain within noise; what a teacher cost is told as a positive number.
    """
    cost = gain.verdict == "harm"
    value, ci95 = gain.value, gain.ci95
    if cost and gain.higher_is_better:
        value, ci95 = -value, (-ci95[1], -ci95[0]) if ci95 else None
    amount, interval = _spelled(metric, value, ci95)
    unit = " points" if table.is_share(metric) else ""
    of = f"{amount.removeprefix('+') if cost else amount}{unit} of {metric}{interval}"
    less = "" if gain.higher_is_better else "less is better; "
    seeds = f"{gain.seeds} seeds" if gain.seeds > 1 else "one seed, so seeds were not varied"
    on = f"({less}{seeds}, {gain.n:,} rows)"
    return {
        "gain": f"{' '.join(who)} worth {of} over {over} {on}",
        "harm": f"{who[0]} cost {of} against {over} {on}",
        "no gain within noise": f"no gain within noise: {of} over {over} {on}",
        "no interval": f"{of} over {over}, without an interval {on}",
    }[gain.verdict]


def primary(record: RunRecord) -> str:
    """The metric that stands for quality; empty where no arm has any."""
    scored = next((variant.quality for variant in record.variants if variant.quality), None)
    if scored is not None:
        return table.primary(scored)[0]
    return next((name for arm in _all(record, "") for one in arm.replicates for name in one.metrics), "")


def arms(record: RunRecord) -> list[Arm]:
    """Variants with their replicates, then controls; nothing where no seed and no control is there to compare."""
    found = _all(record, primary(record))
    return found if record.controls or any(len(arm.replicates) > 1 for arm in found) else []


def title(record: RunRecord) -> str:
    return "What the teacher was worth" if record.controls else "What another seed changes"


def about(record: RunRecord) -> str:
    """What was compared, and what the intervals hold for."""
    if not record.controls:
        return "The same training with other seeds: initialization, order of the rows, dropout."
    varied = any("seeds" in gain.resampled for control in record.controls for gain in control.gains.values())
    holds = "other seeds and other test rows" if varied else "other test rows; seeds were not varied"
    return (
        "The student was trained again without its teacher, on the same budget and with the same seeds. Gains are the "
        f"student minus the control, seed by seed on the same rows; their 95% intervals hold for {holds}."
    )


def in_a_line(record: RunRecord) -> str:
    """Mean and deviation of all arms, `accuracy over 3 seeds: student.torch 86.4% ± 0.3, …`; empty for single seeds."""
    metric = primary(record)
    several = {arm.name: list(arm.scores(metric).values()) for arm in arms(record) if len(arm.scores(metric)) > 1}
    if not several:
        return ""
    told = [f"{name} {score_over_seeds(metric, values)}" for name, values in several.items()]
    return f"{metric} over {max(map(len, several.values()))} seeds: {', '.join(told)}"


def score_over_seeds(metric: str, values: Sequence[float]) -> str:
    """`86.4% ± 0.3`: mean and standard deviation (over n - 1), of shares in percentage points; one value by itself."""
    return table.score(metric, fmean(values)) + (f" ± {_deviation(metric, values)}" if len(values) > 1 else "")


def grid(record: RunRecord) -> Grid:
    """A line an arm: mean, deviation, every seed's score, and the student's gain over it."""
    metric, found = primary(record), arms(record)
    seeds = sorted({seed for arm in found for seed in arm.scores(metric)})
    rows: list[Row] = []
    for arm in found:
        scores = arm.scores(metric)
        values = list(scores.values())
        rows.append(
            [
                Cell(arm.name, arm.about),
                table.score(metric, fmean(values)) if values else table.MISSING,
                _deviation(metric, values) if len(values) > 1 else table.MISSING,
                *(table.score(metric, scores[seed]) if seed in scores else table.MISSING for seed in seeds),
                *([_gain(metric, arm.gain)] if record.controls else []),
            ]
        )
    over = ["gain over it"] if record.controls else []
    head: list[str | Cell] = ["arm", Cell("mean", metric), "sd", *(f"seed {seed}" for seed in seeds), *over]
    return Grid(f"{metric} of every seed", head, rows)


def all_gains(record: RunRecord) -> Grid:
    """The student's gain in every metric."""
    rows: list[Row] = [
        [control.name, metric, _gain(metric, gain), gain.verdict, str(gain.seeds), f"{gain.n:,}"]
        for control in record.controls
        for metric, gain in control.gains.items()
    ]
    return Grid("Gains in all metrics", ["over", "metric", "gain", "verdict", "seeds", "rows"], rows)


def _all(record: RunRecord, metric: str) -> list[Arm]:
    return [
        *(Arm(variant.name, variant.replicates) for variant in record.variants if variant.replicates),
        *(Arm(it.name, it.replicates, True, it.description, it.gains.get(metric)) for it in record.controls),
    ]


def _gain(metric: str, gain: Gain | None) -> Cell:
    if gain is None:
        return Cell(table.MISSING)
    return Cell(table.change(metric, gain.value), table.change_interval(metric, gain.ci95))


def _deviation(metric: str, values: Sequence[float]) -> str:
    return f"{100 * stdev(values):.1f}" if table.is_share(metric) else f"{stdev(values):.3f}"


def _spelled(metric: str, value: float, ci95: tuple[float, float] | None) -> tuple[str, str]:
    """A signed number and ` [low, high]`, with a decimal more where an end that is not 0 would read as 0."""
    scale, decimals = (100, 1) if table.is_share(metric) else (1, 3)
    ends = [scale * end for end in ci95 or ()]
    if any(end and abs(end) < 0.5 / 10**decimals for end in ends):
        decimals += 1
    interval = ", ".join(table.signed(end, decimals).removeprefix("+") for end in ends)
    return table.signed(scale * value, decimals), f" [{interval}]" if ends else ""
