"""What a variant's outputs on the test rows come to, computed once for its metrics and for all comparisons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.export.base import Arrays
from kdc.measure.bootstrap import percentile_interval, resampled
from kdc.record import MetricValue
from kdc.tasks.base import Task


@dataclass(frozen=True)
class Scores:
    """One variant on `[rows]` test rows."""

    outputs: Arrays
    answers: list[Any]
    hits: np.ndarray
    """Quality row by row, float `[rows]`."""
    confidences: np.ndarray | None
    """How sure the variant is of each answer, `[rows]`; None for tasks that do not say."""
    values: dict[str, float]
    """Every metric on all rows."""
    resampled: dict[str, np.ndarray]
    """Every metric on resampled rows, `[resamples]`: the same rows for every variant."""


def score_rows(task: Task, outputs: Arrays, examples: Examples) -> Scores:
    """Score what an artifact put out for `examples`. Numbers that mean nothing are refused (KdcError, exit code 1)."""
    for name, array in outputs.items():
        wrong = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        if wrong.any():
            raise KdcError(
                f"the artifact returns {name} that are not finite on {wrong.sum()} of {len(array)} examples "
                f"(the first is row {int(wrong.argmax())})",
                "its numbers would mean nothing; try another precision",
                exit_code=1,
            )
    values = task.score(outputs, examples)
    if undefined := [name for name, value in values.items() if not math.isfinite(value)]:
        raise KdcError(
            f"{task.name}: {undefined[0]} is {values[undefined[0]]} on the {len(examples):,} test rows",
            "the rows do not define it; give more of them, or rows of every class",
            exit_code=1,
        )
    return Scores(
        outputs=outputs,
        answers=task.answers(outputs, examples.labels),
        hits=task.hits(outputs, examples),
        confidences=task.confidences(outputs),
        values=values,
        resampled=resampled(lambda draws: task.rescore(outputs, examples, draws), len(examples)),
    )


def metric_value(task: Task, scores: Scores, name: str, *, primary: bool) -> MetricValue:
    """A metric with its interval."""
    return MetricValue(
        value=scores.values[name],
        ci95=percentile_interval(scores.resampled.get(name)),
        higher_is_better=task.metrics[name],
        primary=primary,
    )
