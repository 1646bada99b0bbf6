"""Rows on their way to another process: an .npz without pickles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from kdc.data.examples import Examples

TEXTS, STACK = "texts", "stack"


def write_rows(path: Path, examples: Examples) -> None:
    """The columns that models read; labels and the rest stay here.

    Texts of a column are one entry, arrays of one shape as well; arrays that differ are an entry each.
    """
    entries: dict[str, np.ndarray] = {}
    for column in examples.inputs:
        values = list(examples[column])
        if values and isinstance(values[0], str):
            entries[f"{column}.{TEXTS}"] = np.frombuffer(json.dumps(values).encode(), np.uint8)
        elif len({(array.shape, array.dtype) for array in map(np.asarray, values)}) == 1:
            entries[f"{column}.{STACK}"] = np.stack(values)
        else:
            entries |= {f"{column}.{number}": np.asarray(value) for number, value in enumerate(values)}
    np.savez(path, allow_pickle=False, **entries)


def read_rows(path: Path) -> Examples:
    columns: dict[str, list[object]] = {}
    with np.load(path, allow_pickle=False) as entries:
        for entry in entries.files:
            column, _, kind = entry.rpartition(".")
            value = entries[entry]
            if kind == TEXTS:
                columns[column] = json.loads(value.tobytes())
            elif kind == STACK:
                columns[column] = list(value)
            else:
                columns.setdefault(column, []).append(value)
    return Examples(columns)


def spread(examples: Examples, rows: int) -> Examples:
    """At most `rows` rows, evenly spaced, so that data sorted by length or label are met as a whole."""
    return examples.select(np.linspace(0, len(examples) - 1, num=min(rows, len(examples))).round().astype(int))
