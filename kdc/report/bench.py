"""What `kdc bench` prints: what each artifact is and costs to load, and how fast each one is on every workload."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdc.measure.workloads import spelled
from kdc.record import Latency, RunRecord, Variant
from kdc.report import table
from kdc.report.console import plain_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_bench(record: RunRecord, console: Console) -> None:
    from rich.text import Text

    console.print(_artifacts(record))
    console.print()
    console.print(_latencies(record))
    if len(record.variants) > 1 and record.verdict:
        console.print(Text(record.verdict, style="bold"))
    for note in record.notes:
        console.print(Text(f"note: {note}", style="dim"))


def _artifacts(record: RunRecord) -> Table:
    from rich.text import Text

    shown = plain_table(("artifact", "runtime", "size", "load s", "first ms", "memory"), left=range(2))
    for variant in record.variants:
        shown.add_row(
            Text(variant.name),
            f"{variant.runtime} {variant.precision}",
            table.size(variant.artifact.bytes) if variant.artifact else table.MISSING,
            _number(variant.load_seconds),
            _number(variant.first_call_ms),
            table.size(variant.memory.peak_rss_bytes) if variant.memory else table.MISSING,
        )
    return shown


def _latencies(record: RunRecord) -> Table:
    """Under each workload those that ran it; percentiles only where the samples were enough for any."""
    from rich.text import Text

    every = [latency for variant in record.variants for latency in variant.latency]
    percentiles = [name for name in ("p90", "p99") if any(getattr(latency, f"{name}_ms") for latency in every)]
    head = ("workload", "p50 ms", "speed-up", *(f"{name} ms" for name in percentiles), "per second")
    shown = plain_table(head, left=range(1))
    for workload in table.workloads(record):
        shown.add_row(Text(spelled(workload), style="bold"))
        for variant in record.variants:
            if latency := table.latency_at(variant, workload):
                shown.add_row(
                    Text(f"  {variant.name}"),
                    table.significant(latency.p50_ms),
                    _pace(record, variant, latency),
                    *(_number(getattr(latency, f"{name}_ms")) for name in percentiles),
                    table.significant(latency.throughput),
                )
    return shown


def _pace(record: RunRecord, variant: Variant, latency: Latency) -> str:
    if len(record.variants) > 1 and variant.name == record.baseline:
        return "baseline"
    faster = table.versus(latency, record.baseline)
    if faster is None:
        return table.MISSING
    interval = table.times_interval(faster.ci95)
    return f"{table.times(faster.ratio)} ({interval})" if interval else table.times(faster.ratio)


def _number(value: float | None) -> str:
    return table.MISSING if value is None else table.significant(value)
