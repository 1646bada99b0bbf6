"""What the teacher says about every training row, computed once and found again by the rows' content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.export.base import Arrays
from kdc.export.modules import graph_callables
from kdc.models.build import Built
from kdc.tasks.base import Task
from kdc.tasks.inference import predict_rows

BATCH_SIZE = 128
IDS = "ids.npy"


def content_key(examples: Examples) -> str:
    """Hash of the set of row contents: rows in another order, or a row twice, make no difference."""
    digest = hashlib.sha256()
    for row in sorted(set(examples.ids)):
        digest.update(row.encode())
    return digest.hexdigest()


def compute_signals(
    teacher: Built,
    task: Task,
    examples: Examples,
    folder: Path,
    names: Sequence[str],
    *,
    advance: Callable[[int], Any],
) -> None:
    """Write `ids.npy` (sorted content hashes) and `<name>.npy` (float32 `[rows, ...]`) for all distinct rows."""
    first = dict(zip(reversed(examples.ids), range(len(examples) - 1, -1, -1), strict=True))
    ids = np.array(sorted(first))
    distinct = examples.select([first[row] for row in ids])
    graphs = graph_callables(task.graphs(teacher.model.eval(), teacher.encoder, distinct.select([0, 0])))
    encoded = teacher.encoder.encode(distinct)
    has = task.predict(graphs, teacher.encoder.collate(encoded[:1]))
    if missing := [name for name in names if name not in has]:
        raise KdcError(
            f"loss.terms: the teacher has no {missing[0]} that could be cached, only {', '.join(has)}",
            "switch off the term that reads it: loss.terms.TERM=null",
        )
    outputs = predict_rows(task, graphs, teacher.encoder, encoded, batch_size=BATCH_SIZE, advance=advance)
    np.save(folder / IDS, ids)
    for name in names:
        np.save(folder / f"{name}.npy", outputs[name].astype(np.float32))


def read_signals(folder: Path, examples: Examples) -> Arrays:
    """What the teacher said about these rows, in their order, by name: `logits` `[rows, classes]`."""
    ids = np.load(folder / IDS)
    wanted = np.array(examples.ids)
    found = np.searchsorted(ids, wanted)
    if not np.array_equal(ids[np.minimum(found, len(ids) - 1)], wanted):
        raise LookupError("the teacher's cached signals do not cover these rows")
    files = [file for file in sorted(folder.glob("*.npy")) if file.name != IDS]
    return {file.stem: np.asarray(np.load(file, mmap_mode="r")[found]) for file in files}
