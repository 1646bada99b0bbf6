"""The process that is timed: `python -m kdc.measure.worker` reads one JSON job on stdin and prints one JSON line.

It loads one artifact as a serving process would and imports nothing that serving does not need. The parent has set the
thread counts of the numeric libraries in its environment, because they read them when they load.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kdc.job import serve
from kdc.measure.calls import Call, time_calls, warm_up
from kdc.measure.clocks import Clock, clock_for
from kdc.measure.energy import Meter, meter_for
from kdc.measure.memory import resident_bytes

if TYPE_CHECKING:
    from kdc.export.artifact import Session


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Load `job["artifact"]`, time its `workloads` and its `rows` end to end.

    A job holds: artifact, plugins, threads, workloads `[{batch, length?}]`, calls, seconds, rows (.npz or null).
    Returns load_seconds, first_call_ms (of the first workload only: the others find the process warm),
    idle/loaded/peak_rss_bytes, peak_gpu_bytes, and a list `timed`, in the order of the
    workloads and then the rows: `{samples (milliseconds), steady, joules (a call, or null)}`.
    """
    _pin(job["threads"])
    idle, _ = resident_bytes()

    started = time.perf_counter()
    from kdc.export.artifact import Artifact

    session = Artifact.open(Path(job["artifact"]), job["plugins"]).session(threads=job["threads"])
    load_seconds = time.perf_counter() - started
    loaded, _ = resident_bytes()

    processor = session.artifact.runtime.processor
    clock, meter = clock_for(processor), meter_for(processor)
    # As timeit does: a collection would land in one call and not in the next.
    gc.collect()
    gc.disable()
    measures = [*_grid(session, clock, job), *_rows(session, clock, job)]
    first_call = clock.milliseconds(measures[0].calls[0]) if measures else None
    timed = [_take(measure, clock, meter, seconds=job["seconds"]) for measure in measures]
    return {
        "load_seconds": load_seconds,
        "first_call_ms": first_call,
        "idle_rss_bytes": idle,
        "loaded_rss_bytes": loaded,
        "peak_rss_bytes": resident_bytes()[1],
        "peak_gpu_bytes": clock.peak_bytes(),
        "timed": timed,
    }


class _Measure(NamedTuple):
    calls: Sequence[Call]
    """What is warmed up: the first until it is steady, and then each of the others once."""
    samples: Callable[[], list[float]]
    """Takes the samples, in milliseconds."""


def _grid(session: Session, clock: Clock, job: dict[str, Any]) -> Iterator[_Measure]:
    for workload in job["workloads"]:
        batch = session.example_batch(batch=workload["batch"], length=workload.get("length", 1))
        call = partial(session.run, batch)
        yield _Measure([call], partial(time_calls, call, clock, calls=job["calls"], seconds=job["seconds"]))


def _rows(session: Session, clock: Clock, job: dict[str, Any]) -> Iterator[_Measure]:
    if job["rows"]:
        from kdc.data.rows import read_rows

        rows = read_rows(Path(job["rows"]))
        calls = [partial(session.answers, rows.select([i])) for i in range(len(rows))]
        # No time limit here: stopping early would leave slow variants with other rows than fast ones.
        yield _Measure(calls, lambda: [clock.milliseconds(call) for call in calls])


def _take(measure: _Measure, clock: Clock, meter: Meter | None, *, seconds: float) -> dict[str, Any]:
    steady = warm_up(measure.calls[0], clock, seconds=seconds)
    for call in measure.calls[1:]:  # rows have lengths of their own, and the first call of a length is a slow one
        clock.milliseconds(call)
    if meter:
        meter.start()
    samples = measure.samples()
    return {"samples": samples, "steady": steady, "joules": meter.joules() / len(samples) if meter else None}


def _pin(threads: int) -> None:
    """Keep this process on its first `threads` cores, where the system has such a thing."""
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(PermissionError):  # a container may forbid it; the thread counts still hold
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


if __name__ == "__main__":
    serve(run_job)
