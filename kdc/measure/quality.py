"""Quality of an artifact, read off its own predictions: every metric with an interval, held against the teacher's.

Says nothing about time; `latency` does. What a variant broke is `comparison`'s.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdc.data.examples import Examples
from kdc.errors import KdcError, did_you_mean
from kdc.measure.calibration import calibration
from kdc.measure.flips import told
from kdc.measure.scores import Scores, metric_value
from kdc.record import Quality
from kdc.tasks.base import Task


def measure_quality(task: Task, scores: Scores, *, split: str, primary: str, teacher: Scores | None = None) -> Quality:
    """Every metric of `task` on one variant's rows, and its calibration where the task knows confidences.

    `primary` is the metric that `retained` compares. `teacher` is the teacher on the same rows; without it there is no
    `retained` and no `agreement`.
    """
    if primary not in scores.values:
        raise KdcError(f"{task.name} has no metric '{primary}' on this data", did_you_mean(primary, scores.values))
    quality = Quality(
        split=split,
        n=len(scores.hits),
        metrics={name: metric_value(task, scores, name, primary=name == primary) for name in scores.values},
        calibration=None if scores.confidences is None else calibration(scores.confidences, scores.hits),
    )
    if teacher is not None:
        reference = teacher.values[primary]
        quality.retained = scores.values[primary] / reference if reference else None
        same = [own == other for own, other in zip(scores.answers, teacher.answers, strict=True)]
        quality.agreement = {"argmax": float(np.mean(same))}
    return quality


def save_predictions(path: Path, task: Task, scores: Scores, examples: Examples, *, show: bool) -> None:
    """One row an example as parquet: `id`, `label`, `prediction`, `correct` and each output as a list.

    `id` is the example's content hash, so that rows can be joined between variants and runs without the data itself.
    Answers that may repeat a user's row are held back unless `show`.
    """
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "id": pa.array(examples.ids),
        "label": pa.array([told(truth, examples.labels, show=show) for truth in task.truth(examples)]),
        "prediction": pa.array([told(answer, examples.labels, show=show) for answer in scores.answers]),
        "correct": pa.array(scores.hits == 1.0),
        **{name: pa.array(list(values.reshape(len(examples), -1))) for name, values in scores.outputs.items()},
    }
    parquet.write_table(pa.table(columns), path, compression="zstd")
