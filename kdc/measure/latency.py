"""How fast artifacts are: rounds of fresh processes, summed up as they stand in the record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from kdc import machine
from kdc.measure.noise import NoiseFloor
from kdc.measure.rounds import LIMIT_SECONDS, Contender, Progress, Rounds, timed_rounds
from kdc.measure.settings import BenchConfig
from kdc.measure.statistics import paired_ratio, percentile
from kdc.measure.workloads import Workload, spelled
from kdc.record import Latency, Memory, Timing, Versus

UNSTEADY = 1 / 3
"""Said of a workload when this share of its processes never became steady: a single one moves no median."""


@dataclass
class VariantTiming:
    """What the workers of one variant said, ready for its place in the record."""

    latency: list[Latency]
    memory: Memory | None = None
    load_seconds: float | None = None
    first_call_ms: float | None = None
    """Of the first workload alone: what comes after it finds the process warm."""
    processes: int = 0
    """How many it was timed in; none where it was dropped."""
    notes: list[str] = field(default_factory=list)


def time_variants(
    contenders: Mapping[str, Contender],
    bench: BenchConfig,
    *,
    progress: Progress = lambda done, total, now: None,
    notify: Callable[[str], None] = print,
    worker_seconds: float = LIMIT_SECONDS,
) -> dict[str, VariantTiming]:
    """Time every contender in `bench.rounds` common rounds and hold each against those that it names.

    The machine is held from the first worker to the last. A contender whose worker fails, dies or takes longer than
    `worker_seconds` must not cost the others their timing: it has no latency then, and a note says why. KdcError where
    the others would have nothing left to be held against.
    """
    with timed_rounds(contenders, bench, progress=progress, notify=notify, worker_seconds=worker_seconds) as rounds:
        rounds.more(bench.rounds, dropping=True)
    for name in rounds.dropped:
        notify(f"{name}: {rounds.notes[name][-1]}")
    timings = {name: _summary(rounds, name) for name in contenders}
    for name, contender in contenders.items():
        for latency in timings[name].latency:
            latency.versus = _versus(rounds, name, latency.workload, contender.against)
    return timings


def how_timed(
    timings: Iterable[VariantTiming], bench: BenchConfig, *, seconds: float, floor: NoiseFloor | None
) -> Timing:
    """What the record says about timing that took `seconds` in all, on a machine of the known noise `floor`."""
    return Timing(
        rounds=bench.rounds,
        processes=sum(timing.processes for timing in timings),
        wall_seconds=round(seconds, 3),
        machine=machine.fingerprint(),
        noise_floor=floor.floor if floor else None,
    )


def _summary(rounds: Rounds, name: str) -> VariantTiming:
    if name in rounds.dropped:
        return VariantTiming([], notes=rounds.notes[name])
    answers = rounds.answers[name]
    calls = [answer["first_call_ms"] for answer in answers if answer["first_call_ms"] is not None]
    return VariantTiming(
        [_latency(rounds, name, workload) for workload in rounds.workloads[name]],
        processes=len(answers),
        memory=_memory(answers),
        load_seconds=float(median(answer["load_seconds"] for answer in answers)),
        first_call_ms=float(median(calls)) if calls else None,
        notes=[*rounds.notes[name], *_unsteady(rounds, name)],
    )


def _latency(rounds: Rounds, name: str, workload: Workload) -> Latency:
    timed = rounds.timed(name, workload)
    samples = [[round(ms, 5) for ms in process["samples"]] for process in timed]
    pooled = [ms for process in samples for ms in process]
    joules = [process["joules"] for process in timed if process["joules"] is not None]
    return Latency(
        workload=workload,
        p50_ms=median(pooled),
        p90_ms=percentile(pooled, 90),
        p99_ms=percentile(pooled, 99),
        throughput=1000 * workload["batch"] * len(pooled) / sum(pooled),
        samples=samples,
        joules=float(median(joules)) if joules else None,
    )


def _memory(answers: Sequence[Mapping[str, Any]]) -> Memory:
    """The median process, number by number."""
    seen = {name: [answer[name] for answer in answers if answer[name] is not None] for name in Memory.model_fields}
    return Memory(**{name: int(median(values)) for name, values in seen.items() if values})


def _unsteady(rounds: Rounds, name: str) -> list[str]:
    said = []
    for workload in rounds.workloads[name]:
        restless = sum(not process["steady"] for process in rounds.timed(name, workload))
        if restless > UNSTEADY * rounds.count:
            said.append(f"{spelled(workload)} ({restless} of {rounds.count} processes)")
    return [f"not steady after its warm-up at: {'; '.join(said)}"] if said else []


def _versus(rounds: Rounds, name: str, workload: Workload, against: Sequence[str]) -> list[Versus]:
    own = rounds.medians(name, workload)
    found = []
    for other in against:
        if other != name and workload in rounds.workloads[other]:
            ratio, interval = paired_ratio(rounds.medians(other, workload), own)
            found.append(Versus(against=other, ratio=ratio, ci95=interval))
    return found
