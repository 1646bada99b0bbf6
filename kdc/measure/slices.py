"""Parts of the test rows that are looked at by themselves: classes, ranges of length, values of the data's columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.tasks.base import Encoder, Task

FEW_NUMBERS, MOST_VALUES = 12, 50
"""Columns of more different numbers are cut into ranges. More values would cut too thin and may be users' texts, as
may few where most stand in one row only: their names would carry them into every output."""


@dataclass(frozen=True)
class Slice:
    """Rows that have something in common: `group` of what they are cut `by`."""

    by: str
    group: str
    rows: np.ndarray


def cut(task: Task, examples: Examples, columns: Sequence[str]) -> list[Slice]:
    """The task's own groups (classes), quartiles of length where rows are texts, and `columns` of the data.

    Columns of many numbers are cut at their quartiles, others by value. What leaves all rows in one group is left out.
    """
    cuts = {by: _by_value(by, groups) for by, groups in task.groups(examples).items()}
    if texts := [examples[name] for name in ("text", "text_pair") if name in examples]:
        lengths = np.array([sum(map(len, row)) for row in zip(*texts, strict=True)], dtype=np.float64)
        cuts["length"] = _quartiles("length", lengths, " characters")
    for column in columns:
        if column in cuts:
            raise KdcError(
                f"report.slices: rows are cut by '{column}' already",
                "leave it out, or call the column otherwise in the data",
            )
        cuts[column] = _by_column(column, examples.extras[column])
    return [part for parts in cuts.values() if len(parts) > 1 for part in parts]


def cut_by_pieces(own: Encoder, other: Encoder, examples: Examples) -> list[Slice]:
    """Texts that two tokenizers cut alike and those that they do not; nothing where that is all rows or none."""
    from kdc.tasks.text import TextEncoder

    if not (isinstance(own, TextEncoder) and isinstance(other, TextEncoder)) or own.vocabulary == other.vocabulary:
        return []
    pairs = zip(own.encode(examples), other.encode(examples), strict=True)
    alike = ["as before" if own.pieces(one) == other.pieces(two) else "otherwise" for one, two in pairs]
    parts = _by_value("cut into pieces", alike)
    return parts if len(parts) > 1 else []


def _by_column(column: str, values: Sequence[str]) -> list[Slice]:
    rows_of = Counter(values)
    alone = sum(rows == 1 for rows in rows_of.values())
    thin = len(rows_of) > MOST_VALUES or alone > len(rows_of) / 2
    if (thin or len(rows_of) > FEW_NUMBERS) and (numbers := _numbers(values)) is not None:
        return _quartiles(column, numbers)
    if thin:
        raise KdcError(
            f"report.slices: column '{column}' has {len(rows_of):,} values in {len(values):,} test rows, "
            f"{alone:,} of them in one row only",
            f"name columns of numbers, or of at most {MOST_VALUES} values that rows share",
        )
    return _by_value(column, values)


def _numbers(values: Sequence[str]) -> np.ndarray | None:
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _by_value(by: str, values: Sequence[str]) -> list[Slice]:
    names, number = np.unique(np.asarray(values, dtype=object).astype(str), return_inverse=True)
    return [Slice(by, str(name) or "(empty)", np.flatnonzero(number == i)) for i, name in enumerate(names)]


def _quartiles(by: str, values: np.ndarray, unit: str = "") -> list[Slice]:
    """Rows between the quartiles of `values` `[rows]`; equal values stay together."""
    number = np.searchsorted(np.quantile(values, [0.25, 0.5, 0.75]), values, side="left")
    return [
        Slice(by, f"{values[rows].min():g}–{values[rows].max():g}{unit}", rows)
        for i in range(4)
        if len(rows := np.flatnonzero(number == i))
    ]
