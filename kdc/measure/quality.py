"""Quality of an artifact, read off its own predictions: every metric with an interval, held against the teacher's.

Says nothing about time; `latency` does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdc.data.examples import Examples
from kdc.errors import KdcError, did_you_mean
from kdc.export.base import Arrays
from kdc.measure.statistics import bootstrap_intervals
from kdc.record import MetricValue, Quality
from kdc.tasks.base import Task


def measure_quality(
    task: Task,
    outputs: Arrays,
    examples: Examples,
    *,
    split: str,
    primary: str | None = None,
    against: tuple[Quality, Arrays] | None = None,
) -> Quality:
    """Every metric of `task` on what an artifact put out for `examples`.

    `primary` is the metric that `retained` compares (the task's first by default). `against` holds the teacher's
    quality and outputs on the same examples; without it there is no `retained` and no `agreement`.
    """
    _refuse_not_finite(outputs)
    values = task.score(outputs, examples)
    primary = primary or next(name for name in task.metrics if name in values)
    if primary not in values:
        raise KdcError(f"{task.name} has no metric '{primary}' on this data", did_you_mean(primary, values))
    intervals = bootstrap_intervals(lambda draws: task.rescore(outputs, examples, draws), len(examples))
    quality = Quality(
        split=split,
        n=len(examples),
        metrics={
            name: MetricValue(
                value=value,
                ci95=intervals.get(name),
                higher_is_better=task.metrics[name],
                primary=name == primary,
            )
            for name, value in values.items()
        },
    )
    if against is not None:
        teacher, teacher_outputs = against
        reference = teacher.metrics[primary].value
        own, theirs = (task.answers(o, examples.labels) for o in (outputs, teacher_outputs))
        quality.retained = values[primary] / reference if reference else None
        quality.agreement = {"argmax": float(np.mean([a == b for a, b in zip(own, theirs, strict=True)]))}
    return quality


def save_predictions(path: Path, task: Task, outputs: Arrays, examples: Examples) -> None:
    """One row an example as parquet: `id`, `label`, `prediction`, `correct` and each output as a list.

    `id` is the example's content hash, so that rows can be joined between variants and runs without the data itself.
    """
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "id": pa.array(examples.ids),
        "label": pa.array([str(truth) for truth in task.truth(examples)]),
        "prediction": pa.array([str(answer) for answer in task.answers(outputs, examples.labels)]),
        "correct": pa.array(task.hits(outputs, examples) == 1.0),
        **{name: pa.array(list(values.reshape(len(examples), -1))) for name, values in outputs.items()},
    }
    parquet.write_table(pa.table(columns), path, compression="zstd")


def _refuse_not_finite(outputs: Arrays) -> None:
    for name, values in outputs.items():
        wrong = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if wrong.any():
            raise KdcError(
                f"the artifact returns {name} that are not finite on {wrong.sum()} of {len(values)} examples "
                f"(the first is row {int(wrong.argmax())})",
                "its numbers would mean nothing; try another precision",
                exit_code=1,
            )
