"""The process that is timed: `python -m kdc.measure.worker` reads one JSON job on stdin and prints one JSON line.

It loads one artifact as a serving process would and imports nothing that serving does not need. The parent has set the
thread counts of the numeric libraries in its environment, because they read them when they load.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from kdc.errors import KdcError

STEADY_WITHIN = 0.10
WARM_UP_CALLS = 100
FEWEST_CALLS = 5


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Load `job["artifact"]`, time its `workloads` and its `rows` end to end.

    A job holds: artifact, plugins, threads, workloads `[{batch, length?}]`, calls, seconds, rows (.npz or null).
    Returns load_seconds, first_call_ms, idle/loaded/peak_rss_bytes and a list `timed`, in the order of the workloads
    and then the rows: `{samples (milliseconds), steady}`.
    """
    _pin(job["threads"])
    idle, _ = _resident_bytes()

    started = time.perf_counter()
    from kdc.export.artifact import Artifact

    session = Artifact.open(Path(job["artifact"]), job["plugins"]).session(threads=job["threads"])
    load_seconds = time.perf_counter() - started
    loaded, _ = _resident_bytes()

    first_call: float | None = None
    timed = []
    # As timeit does: a collection would land in one call and not in the next.
    gc.collect()
    gc.disable()
    for workload in job["workloads"]:
        batch = session.example_batch(batch=workload["batch"], length=workload.get("length", 1))
        call = partial(session.run, batch)
        if first_call is None:
            first_call = milliseconds(call)
        steady = warm_up(call, seconds=job["seconds"])
        timed.append({"samples": time_calls(call, calls=job["calls"], seconds=job["seconds"]), "steady": steady})
    if job["rows"]:
        from kdc.measure.rows import read_rows

        rows = read_rows(Path(job["rows"]))
        calls = [partial(session.answers, rows.select([i])) for i in range(len(rows))]
        if first_call is None:
            first_call = milliseconds(calls[0])
        # No time limit here: stopping early would leave slow variants with other rows than fast ones.
        steady = warm_up(calls[0], seconds=job["seconds"])
        timed.append({"samples": [milliseconds(call) for call in calls], "steady": steady})
    return {
        "load_seconds": load_seconds,
        "first_call_ms": first_call,
        "idle_rss_bytes": idle,
        "loaded_rss_bytes": loaded,
        "peak_rss_bytes": _resident_bytes()[1],
        "timed": timed,
    }


def warm_up(call: Callable[[], object], *, seconds: float) -> bool:
    """Call until the median of the last 5 lies within 10% of the 5 before; whether that was reached.

    Gives up after `WARM_UP_CALLS`, or after `seconds` and at least 3 calls.
    """
    taken: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(taken) < WARM_UP_CALLS and (len(taken) < 3 or time.perf_counter() < deadline):
        taken.append(milliseconds(call))
        if len(taken) >= 10:
            before, last = median(taken[-10:-5]), median(taken[-5:])
            if abs(last - before) <= STEADY_WITHIN * before:
                return True
    return False


def time_calls(call: Callable[[], object], *, calls: int, seconds: float) -> list[float]:
    """Milliseconds of each of `calls` calls; fewer when `seconds` are over, but never under 5."""
    samples: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(samples) < calls and (len(samples) < FEWEST_CALLS or time.perf_counter() < deadline):
        samples.append(milliseconds(call))
    return samples


def milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started) / 1e6


def _pin(threads: int) -> None:
    """Keep this process on its first `threads` cores, where the system has such a thing."""
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(PermissionError):  # a container may forbid it; the thread counts still hold
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _resident_bytes() -> tuple[int, int]:
    """Memory of this process now and at its highest."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        if "VmHWM" in fields:
            return int(fields["VmRSS"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024
    import psutil

    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):
        return memory.rss, memory.peak_wset
    import resource

    # macOS counts bytes, the others kilobytes.
    return memory.rss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> int:
    try:
        result = run_job(json.load(sys.stdin))
    except KdcError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
