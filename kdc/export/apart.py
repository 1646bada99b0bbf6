"""An artifact in a process of its own, which has of the model nothing but the files that ship.

`python -m kdc.export.apart` reads one JSON job on stdin, and writes what the artifact puts out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdc import machine
from kdc.data.examples import Examples
from kdc.data.rows import read_rows, write_rows
from kdc.export.artifact import Artifact
from kdc.export.base import Arrays
from kdc.job import serve
from kdc.processes import run_worker

SMALLER = "dataset.max_length can be smaller"


def predict_apart(artifact: Artifact, rows: Examples) -> Arrays:
    """The artifact's outputs for every row, in the rows' order."""
    with tempfile.TemporaryDirectory(prefix="kdc-apart-") as scratch:
        write_rows(Path(scratch, "rows.npz"), rows)
        return _asked(artifact, rows=Path(scratch, "rows.npz"))


def run_apart(artifact: Artifact, batches: Sequence[Arrays]) -> list[Arrays]:
    """What the artifact puts out for each of these padded batches."""
    with tempfile.TemporaryDirectory(prefix="kdc-apart-") as scratch:
        np.savez(Path(scratch, "batches.npz"), allow_pickle=False, **_joined(batches))
        return _split(_asked(artifact, batches=Path(scratch, "batches.npz")))


def _asked(artifact: Artifact, **inputs: Path) -> Arrays:
    [(kind, path)] = inputs.items()
    outputs = path.with_name("outputs.npz")
    job = {
        "artifact": str(artifact.folder),
        "plugins": list(artifact.plugins),
        "threads": machine.threads(),
        kind: str(path),
        "outputs": str(outputs),
    }
    run_worker(job, name=f"what {artifact.runtime.name} answers", module=__name__, smaller=SMALLER)
    with np.load(outputs, allow_pickle=False) as arrays:
        return dict(arrays)


def run_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Load `job["artifact"]`, run its `rows` or its `batches` (paths of .npz), and write `outputs`."""
    session = Artifact.open(Path(job["artifact"]), job["plugins"]).session()
    if "rows" in job:
        said = session.predict(read_rows(Path(job["rows"])))
    else:
        with np.load(job["batches"], allow_pickle=False) as arrays:
            said = _joined([session.run(batch) for batch in _split(dict(arrays))])
    np.savez(job["outputs"], allow_pickle=False, **said)
    return {}


def _joined(batches: Sequence[Arrays]) -> Arrays:
    """All their arrays, with the batch's number before the name."""
    return {f"{number}.{name}": array for number, batch in enumerate(batches) for name, array in batch.items()}


def _split(arrays: Arrays) -> list[Arrays]:
    """What `_joined` joined."""
    found: list[Arrays] = []
    for key, array in arrays.items():
        number, _, name = key.partition(".")
        found += [{} for _ in range(int(number) + 1 - len(found))]
        found[int(number)][name] = array
    return found


if __name__ == "__main__":
    serve(run_job)
