"""Real rows on their way to the process that is timed: an .npz without pickles, each row of each column an entry."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdc.data.examples import Examples


def write_rows(path: Path, examples: Examples) -> None:
    """The columns that models read; labels and the rest stay here."""
    entries = {
        f"{column}.{i}": np.asarray(value) for column in examples.inputs for i, value in enumerate(examples[column])
    }
    np.savez(path, allow_pickle=False, **entries)


def read_rows(path: Path) -> Examples:
    columns: dict[str, list[object]] = {}
    with np.load(path, allow_pickle=False) as entries:
        for entry in entries.files:
            value = entries[entry]
            columns.setdefault(entry.split(".")[0], []).append(value if value.ndim else str(value))
    return Examples(columns)


def spread(examples: Examples, rows: int) -> Examples:
    """At most `rows` rows, evenly spaced, so that data sorted by length or label are met as a whole."""
    return examples.select(np.linspace(0, len(examples) - 1, num=min(rows, len(examples))).round().astype(int))
