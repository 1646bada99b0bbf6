"""What became of a metric on the same rows, with bounds: the candidate's minus the baseline's, from predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdc.errors import KdcError
from kdc.gate.answers import Answers
from kdc.gate.side import Side
from kdc.measure.bootstrap import percentile_interval, resampled
from kdc.measure.paired import proportion_difference
from kdc.measure.statistics import Interval
from kdc.record import MetricValue
from kdc.report.table import score
from kdc.tasks.base import TASKS, Task

TWO_SIDED = 0.90
"""Both ends of this interval are one-sided 95% bounds."""
SAME = 1e-6
"""Values of a metric that differ by less come from the same answers."""


@dataclass(frozen=True)
class Change:
    """Candidate minus baseline, with its bounds; `churn` is the share of `rows` that moved."""

    value: float
    low: float
    high: float
    rows: int
    churn: float
    higher_is_better: bool
    identical: bool = False

    @property
    def harm(self) -> tuple[float, float, float]:
        """How much worse the candidate is: estimate, low, high."""
        return (-self.value, -self.high, -self.low) if self.higher_is_better else (self.value, self.low, self.high)

    @property
    def resolution(self) -> float:
        """The smallest margin that so many rows with so much churn can show to be kept, if there is no drop at all."""
        return (self.high - self.low) / 2


def paired_change(
    name: str, candidate: Side, baseline: Side, own: Answers, other: Answers, *, confidence: float = TWO_SIDED
) -> Change:
    """The change of metric `name` between answers to the same rows, in the same order.

    The share of right rows by Agresti and Min 2005, any other metric by the paired bootstrap; the bounds are the ends
    of a two-sided interval of `confidence`, by default one-sided 95% bounds. KdcError where the
    predictions are not those that the records tell of.
    """
    task = TASKS[str(candidate.task)]()
    now, before = metric(candidate, name), metric(baseline, name)
    rows = len(own.ids)
    moved = float(np.mean([a != b for a, b in zip(own.answers, other.answers, strict=True)]))
    bounds: Interval | None
    if name == task.hit_rate:
        lost, won = int(np.sum(other.right & ~own.right)), int(np.sum(own.right & ~other.right))
        found = float(own.right.mean()), float(other.right.mean())
        bounds, churn = proportion_difference(lost, won, rows, confidence=confidence), (lost + won) / rows
    else:
        scorers = _Scorer(task, name, candidate, own), _Scorer(task, name, baseline, other)
        everything = np.arange(rows)[None]
        found = float(scorers[0](everything)[0]), float(scorers[1](everything)[0])
        drawn = resampled(lambda draws: {name: scorers[0](draws) - scorers[1](draws)}, rows).get(name)
        bounds, churn = percentile_interval(drawn, confidence=confidence), moved
    for side, recorded, value in zip((candidate, baseline), (now.value, before.value), found, strict=True):
        if abs(recorded - value) > SAME:
            raise KdcError(
                f"{side.predictions} comes to {score(name, value)} {name}, its record to {score(name, recorded)}",
                "they do not belong together; run it again",
            )
    change = now.value - before.value
    if moved == 0 and change == 0:
        return Change(0.0, 0.0, 0.0, rows, 0.0, now.higher_is_better, identical=True)
    low, high = bounds or (-math.inf, math.inf)
    return Change(change, low, high, rows, churn, now.higher_is_better)


def metric(side: Side, name: str) -> MetricValue:
    """What the record says; KdcError where it does not, or says a number that decides nothing."""
    found = side.variant.quality.metrics.get(name) if side.variant.quality else None
    if found is None:
        raise KdcError(f"{side.variant.name} of {side.place} has no {name}", "save a baseline that has it")
    if not math.isfinite(found.value):
        raise KdcError(f"{name} is {found.value} in {side.place}", "it decides nothing; run it again")
    return found


class _Scorer:
    """One metric of one variant on resampled rows: row numbers `[draws, rows]` -> `[draws]`."""

    def __init__(self, task: Task, name: str, side: Side, answers: Answers) -> None:
        labels: Sequence[str] = side.record.dataset.labels if side.record.dataset else ()
        try:
            self._examples = answers.examples(labels)
        except KeyError as error:
            raise KdcError(f"{name} cannot be computed again from {side.predictions}", "leave its rule out") from error
        self._task, self._name, self._outputs = task, name, answers.outputs

    def __call__(self, draws: np.ndarray) -> np.ndarray:
        return self._task.rescore(self._outputs, self._examples, draws)[self._name]
