"""Predictions of two runs, joined row by row: what each answered to the same examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.export.base import Arrays

OWN = ("id", "label", "prediction", "correct")
"""The columns of a predictions file that are no outputs of the model."""


@dataclass(frozen=True)
class Answers:
    """What one variant answered on `[rows]` test rows."""

    ids: list[str]
    truth: list[str]
    answers: list[str]
    right: np.ndarray
    """bool `[rows]`"""
    outputs: Arrays

    def select(self, rows: Sequence[int]) -> Answers:
        picked = np.asarray(rows)
        return Answers(
            ids=[self.ids[row] for row in rows],
            truth=[self.truth[row] for row in rows],
            answers=[self.answers[row] for row in rows],
            right=self.right[picked],
            outputs={name: values[picked] for name, values in self.outputs.items()},
        )

    def examples(self, labels: Sequence[str]) -> Examples:
        """The rows as far as metrics read them; KeyError where the truth is no label of a closed set."""
        index = {label: i for i, label in enumerate(labels)}
        return Examples({"label": np.array([index[truth] for truth in self.truth], dtype=np.int64)}, tuple(labels))


def read_answers(path: Path) -> Answers:
    """The file that a run wrote for one variant."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        ids, truth, answers, right = (table[name].to_pylist() for name in OWN)
        outputs = {name: np.stack(table[name].to_numpy()) for name in table.column_names if name not in OWN}
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise KdcError(f"{path} is no predictions file ({type(error).__name__})", "run it again") from error
    return Answers(ids, truth, answers, np.array(right, dtype=bool), outputs)


def joined(own: Answers, other: Answers, *, baseline: str) -> Answers:
    """`other` in the row order of `own`; KdcError on `baseline` where the rows are not the same ones.

    Rows of equal content have equal ids, and are taken in their order.
    """
    places = {key: row for row, key in enumerate(_keys(other.ids))}
    keys = _keys(own.ids)
    common = sum(key in places for key in keys)
    if common < len(keys) or common < len(places):
        raise KdcError(
            f"{baseline} was tested on other rows: {common:,} of its {len(places):,} are among the {len(keys):,} here",
            "compare runs with the same test split, or save a new baseline",
        )
    ordered = other.select([places[key] for key in keys])
    if relabelled := sum(a != b for a, b in zip(own.truth, ordered.truth, strict=True)):
        raise KdcError(
            f"{baseline} was tested with other labels on {relabelled:,} of {len(keys):,} rows", "save a new baseline"
        )
    return ordered


def _keys(ids: Sequence[str]) -> list[tuple[str, int]]:
    seen: Counter[str] = Counter()
    keys = []
    for each in ids:
        keys.append((each, seen[each]))
        seen[each] += 1
    return keys
