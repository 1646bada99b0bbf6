"""Run a task over many rows: batches of like length, results in the rows' own order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kdc.export.base import Arrays, Callables
from kdc.tasks.base import Encoded, Encoder, Task


def predict_rows(
    task: Task,
    graphs: Callables,
    encoder: Encoder,
    encoded: Encoded,
    *,
    batch_size: int = 32,
    advance: Callable[[int], Any] = lambda rows: None,
) -> Arrays:
    """The task's outputs for every row, first axis the rows. `advance` is told how many rows each batch finished."""
    order = np.argsort([encoder.length(row) for row in encoded], kind="stable")[::-1]
    parts: list[Arrays] = []
    for start in range(0, len(order), batch_size):
        picked = order[start : start + batch_size]
        parts.append(task.predict(graphs, encoder.collate([encoded[i] for i in picked])))
        advance(len(picked))
    back = np.argsort(order)
    return {name: _concatenate([part[name] for part in parts])[back] for name in parts[0]}


def _concatenate(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Along the rows; outputs as long as their inputs (a label a token) are padded to the longest with zeros."""
    trailing = [array.shape[1:] for array in arrays]
    if len(set(trailing)) == 1:
        return np.concatenate(arrays)
    largest = np.max(trailing, axis=0)
    padded = [
        np.pad(array, [(0, 0), *((0, int(want - have)) for want, have in zip(largest, array.shape[1:], strict=True))])
        for array in arrays
    ]
    return np.concatenate(padded)
