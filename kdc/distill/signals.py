"""What the teacher says about every training row, computed once and found again by the rows' content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdc.data.examples import Examples
from kdc.export.modules import graph_callables
from kdc.models.build import Built
from kdc.tasks.base import Task
from kdc.tasks.inference import predict_rows

BATCH_SIZE = 128


def content_key(examples: Examples) -> str:
    """Hash of the set of row contents: rows in another order, or a row twice, make no difference."""
    digest = hashlib.sha256()
    for row in sorted(set(examples.ids)):
        digest.update(row.encode())
    return digest.hexdigest()


def compute_logits(
    teacher: Built, task: Task, examples: Examples, folder: Path, *, advance: Callable[[int], Any]
) -> None:
    """Write `ids.npy` (sorted content hashes) and `logits.npy` (float32 `[rows, classes]`) for all distinct rows."""
    first = dict(zip(reversed(examples.ids), range(len(examples) - 1, -1, -1), strict=True))
    ids = np.array(sorted(first))
    distinct = examples.select([first[row] for row in ids])
    graphs = graph_callables(task.graphs(teacher.model.eval(), teacher.encoder, distinct.select([0, 0])))
    encoded = teacher.encoder.encode(distinct)
    outputs = predict_rows(task, graphs, teacher.encoder, encoded, batch_size=BATCH_SIZE, advance=advance)
    np.save(folder / "ids.npy", ids)
    np.save(folder / "logits.npy", outputs["logits"].astype(np.float32))


def read_logits(folder: Path, examples: Examples) -> np.ndarray:
    """The teacher's logits of these rows, in their order: `[rows, classes]`."""
    ids, logits = np.load(folder / "ids.npy"), np.load(folder / "logits.npy", mmap_mode="r")
    wanted = np.array(examples.ids)
    found = np.searchsorted(ids, wanted)
    if not np.array_equal(ids[np.minimum(found, len(ids) - 1)], wanted):
        raise LookupError("the teacher's cached logits do not cover these rows")
    return np.asarray(logits[found])
