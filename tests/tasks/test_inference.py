"""`predict_rows`: many rows in batches of like length, results in the rows' own order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from kdc.export.base import Arrays
from kdc.tasks.inference import predict_rows


class Numbers:
    """Rows are lists of numbers; an encoder as far as `predict_rows` looks."""

    def length(self, encoded: Mapping[str, Any]) -> int:
        return len(encoded["numbers"])

    def collate(self, encoded: Sequence[Mapping[str, Any]]) -> Arrays:
        widest = max(self.length(row) for row in encoded)
        return {"numbers": np.array([[*row["numbers"], *[0] * (widest - self.length(row))] for row in encoded])}


class Doubles:
    """A task as far as `predict_rows` looks: one output a row, one output a number."""

    def predict(self, graphs: Any, batch: Arrays) -> Arrays:
        return {"sum": batch["numbers"].sum(axis=1), "each": np.stack([batch["numbers"] * 2] * 3, axis=-1)}


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_rows_of_different_length_come_back_in_order_and_padded(batch_size: int) -> None:
    random = np.random.default_rng(0)
    rows = [{"numbers": random.integers(1, 9, size=n).tolist()} for n in random.integers(1, 12, size=25)]
    finished: list[int] = []
    outputs = predict_rows(Doubles(), {}, Numbers(), rows, batch_size=batch_size, advance=finished.append)  # type: ignore[arg-type]
    np.testing.assert_array_equal(outputs["sum"], [sum(row["numbers"]) for row in rows])
    longest = max(len(row["numbers"]) for row in rows)
    assert outputs["each"].shape == (25, longest, 3)
    for row, each in zip(rows, outputs["each"], strict=True):
        np.testing.assert_array_equal(each[: len(row["numbers"]), 0], 2 * np.array(row["numbers"]))
        assert not each[len(row["numbers"]) :].any()
    assert sum(finished) == 25
    assert max(finished) <= batch_size
