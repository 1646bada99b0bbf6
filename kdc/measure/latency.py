"""How fast artifacts are: every variant in fresh processes, in rounds, so that drift of the machine meets all alike.

A round starts each variant once, in an order that rotates from round to round; ratios are taken within rounds. The
parent sleeps while a worker runs, and holds the machine's timing lock from the first worker to the last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from kdc import machine
from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.measure import machine_lock
from kdc.measure.rows import spread, write_rows
from kdc.measure.settings import BenchConfig
from kdc.measure.statistics import paired_ratio, percentile
from kdc.record import Latency, Memory, Versus

Workload = dict[str, Any]
Progress = Callable[[int, int, str], None]
"""Called before each worker with: workers finished, workers in all, what is timed now."""


@dataclass
class VariantTiming:
    """What the workers of one variant said, ready for its place in the record."""

    latency: list[Latency]
    memory: Memory
    load_seconds: float
    first_call_ms: float | None
    notes: list[str] = field(default_factory=list)


def time_variants(
    artifacts: Mapping[str, Path],
    bench: BenchConfig,
    *,
    rows: Examples,
    baselines: Sequence[str],
    plugins: Sequence[str] = (),
    progress: Progress = lambda done, total, now: None,
    notify: Callable[[str], None] = print,
    worker_seconds: float = 900.0,
) -> dict[str, VariantTiming]:
    """Time every artifact on the grid of `bench` and on real `rows` end to end.

    Each variant is held against every one of `baselines` (names among `artifacts`). A worker that dies or takes longer
    than `worker_seconds` is a KdcError.
    """
    threads = bench.threads or machine.threads()
    grids = {name: _grid(folder, bench, threads, plugins) for name, folder in artifacts.items()}
    timed_rows = spread(rows, bench.rows)
    schedule = [name for order in rotations(list(artifacts), bench.rounds) for name in order]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in artifacts}
    with machine_lock.timing(notify), tempfile.TemporaryDirectory(prefix="kdc-rows-") as scratch:
        rows_file = Path(scratch, "rows.npz")
        if len(timed_rows):
            write_rows(rows_file, timed_rows)
        for done, name in enumerate(schedule):
            progress(done, len(schedule), name)
            job = {
                "artifact": str(artifacts[name]),
                "plugins": list(plugins),
                "threads": threads,
                "workloads": grids[name][0],
                "calls": bench.calls,
                "seconds": bench.seconds,
                "rows": str(rows_file) if len(timed_rows) else None,
            }
            results[name].append(_run_worker(job, name, worker_seconds))

    answers = {"rows": len(timed_rows), "batch": 1, "end_to_end": True, "threads": threads}
    end_to_end = [answers] if len(timed_rows) else []
    timings = {
        name: _summary(results[name], [*grid, *end_to_end], notes, name=name) for name, (grid, notes) in grids.items()
    }
    for name, timing in timings.items():
        _compare(timing, {other: timings[other] for other in baselines if other != name})
    return timings


def rotations(names: Sequence[str], rounds: int) -> list[list[str]]:
    """The order of each round: every name once, each round starting one further on."""
    return [[*names[r % len(names) :], *names[: r % len(names)]] for r in range(rounds)]


def worker_environment(threads: int) -> dict[str, str]:
    """This process' environment with the threads of the numeric libraries set and its import path handed on."""
    pinned = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS")
    return {
        **machine.unshared_environment(),
        **dict.fromkeys(pinned, str(threads)),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path),
    }


def _grid(folder: Path, bench: BenchConfig, threads: int, plugins: Sequence[str]) -> tuple[list[Workload], list[str]]:
    """The batch x length workloads that this artifact can run, and notes on those it cannot."""
    from kdc.export.artifact import Artifact

    signatures = Artifact.open(folder, plugins).signatures
    if not any("length" in port.axes for signature in signatures for port in signature.inputs):
        return [{"batch": batch, "threads": threads} for batch in bench.batches], []
    limit = min((s.limits["length"] for s in signatures if "length" in s.limits), default=max(bench.lengths))
    skipped = [str(length) for length in bench.lengths if length > limit]
    notes = [f"not timed at length {', '.join(skipped)}: the model takes at most {limit}"] if skipped else []
    lengths = [length for length in bench.lengths if length <= limit]
    grid = [{"batch": batch, "length": length} for batch in bench.batches for length in lengths]
    return [{**workload, "threads": threads} for workload in grid], notes


def _run_worker(job: Mapping[str, Any], name: str, seconds: float) -> dict[str, Any]:
    # -P: the folder that kdc happens to be started in is no place to import from.
    command = [sys.executable, "-P", "-m", "kdc.measure.worker"]
    environment = worker_environment(job["threads"])
    try:
        worker = subprocess.run(
            command,
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise KdcError(
            f"timing {name}: the process was still running after {seconds:g} s and was stopped",
            "time less (bench.lengths, bench.batches, bench.rows) or free the machine",
            exit_code=1,
        ) from error
    if worker.returncode:
        said = worker.stderr.strip().splitlines()
        ended = f"signal {-worker.returncode}" if worker.returncode < 0 else f"exit code {worker.returncode}"
        remedy = "out of memory? bench.batches and bench.lengths can be smaller" if worker.returncode == -9 else ""
        raise KdcError(
            f"timing {name}: the process ended with {ended}{': ' + said[-1] if said else ''}", remedy, exit_code=1
        )
    answer: dict[str, Any] = json.loads(worker.stdout.strip().splitlines()[-1])
    return answer


def _summary(
    results: Sequence[Mapping[str, Any]], workloads: Sequence[Workload], notes: Sequence[str], *, name: str
) -> VariantTiming:
    latency = []
    unsteady = []
    for i, workload in enumerate(workloads):
        samples = [[round(ms, 5) for ms in result["timed"][i]["samples"]] for result in results]
        pooled = [ms for process in samples for ms in process]
        if not all(result["timed"][i]["steady"] for result in results):
            unsteady.append(", ".join(f"{key} {value}" for key, value in workload.items()))
        latency.append(
            Latency(
                workload=workload,
                p50_ms=median(pooled),
                p90_ms=percentile(pooled, 90),
                p99_ms=percentile(pooled, 99),
                throughput=1000 * workload["batch"] * len(pooled) / sum(pooled),
                samples=samples,
            )
        )
    warm = [f"{name} did not become steady in its warm-up at: {'; '.join(unsteady)}"] if unsteady else []
    middle = {key: median(result[key] for result in results) for key in results[0] if key.endswith("_bytes")}
    calls = [result["first_call_ms"] for result in results if result["first_call_ms"] is not None]
    return VariantTiming(
        latency,
        Memory(**{key: int(value) for key, value in middle.items()}),
        load_seconds=float(median(result["load_seconds"] for result in results)),
        first_call_ms=float(median(calls)) if calls else None,
        notes=[*(f"{name}: {note}" for note in notes), *warm],
    )


def _compare(own: VariantTiming, others: Mapping[str, VariantTiming]) -> None:
    for latency in own.latency:
        for against, timing in others.items():
            match = next((other for other in timing.latency if other.workload == latency.workload), None)
            if match is None:
                continue
            ratio, interval = paired_ratio(
                [median(process) for process in match.samples], [median(process) for process in latency.samples]
            )
            latency.versus.append(Versus(against=against, ratio=ratio, ci95=interval))
