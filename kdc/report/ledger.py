"""Step by step: what each pass cost and gained against the step before it, in the same runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kdc.record import RunRecord, Variant, Versus
from kdc.report import table
from kdc.report.summary import Grid, compared_metric
from kdc.report.table import Cell
from kdc.report.verdict import UNCLEAR

ALIKE = 0.01
"""Files that differ by less in size are as large as one another."""


@dataclass(frozen=True)
class Step:
    """A variant and the one that it was made of, both in one runtime."""

    before: Variant
    after: Variant
    speed: Versus | None


def steps(record: RunRecord) -> list[Step]:
    """Every variant whose parent was exported to its runtime too; training a student is a step as well."""
    wanted = table.first_workload(record)
    return [
        Step(before, after, table.versus(table.latency_at(after, wanted), before.name))
        for after in record.variants
        for before in record.variants
        if before.stage in after.parents[:1] and before.runtime == after.runtime
    ]


def ledger(record: RunRecord) -> Grid:
    """Counts before and after each step, with what it did to quality and speed."""
    head = ["step", "runtime", "parameters", "non-zero", "MACs", "size", "zipped", "quality", "speed"]
    caption = "Each step against the one before it, in the same runtime: ratios above 1 are smaller and faster"
    return Grid(caption, head, [_row(step) for step in steps(record)])


def told(record: RunRecord) -> list[str]:
    """One line a step: what it gained, and in so many words where it gained nothing."""
    return [f"{step.after.name} against {step.before.name}: {', '.join(_told(step))}" for step in steps(record)]


def _row(step: Step) -> list[str | Cell]:
    before, after = step.before, step.after
    counts = [
        _ratio(one.parameters.total if one.parameters else None for one in (before, after)),
        _ratio(one.parameters.nonzero if one.parameters else None for one in (before, after)),
        _ratio(one.macs.total if one.macs else None for one in (before, after)),
        _ratio(one.artifact.bytes if one.artifact else None for one in (before, after)),
        _ratio(one.artifact.gzip_bytes if one.artifact else None for one in (before, after)),
    ]
    speed = Cell(table.times(step.speed.ratio), table.times_interval(step.speed.ci95)) if step.speed else Cell("-")
    return [table.model_name(after), after.runtime, *counts, _quality(step), speed]


def _ratio(pair: Iterator[int | None]) -> Cell:
    before, after = pair
    if before is None or after is None:
        return Cell(table.MISSING)
    return Cell(table.count(after), table.times(before / after) if after else "")


def _quality(step: Step) -> Cell:
    for it in step.after.comparisons:
        if it.against == step.before.name:
            name = compared_metric(step.after, it)
            difference = it.metrics[name]
            return Cell(table.change(name, difference.value), table.change_interval(name, difference.ci95))
    return Cell(table.MISSING)


def _told(step: Step) -> Iterator[str]:
    quality = _quality(step)
    if quality.main != table.MISSING:
        yield f"{quality.main}{f' ({quality.detail})' if quality.detail else ''}"
    if step.speed is not None:
        yield _speed(step.speed)
    one, other = step.before.artifact, step.after.artifact
    if one is not None and other is not None:
        yield _size(one.bytes / other.bytes)
        if one.gzip_bytes and abs(one.bytes / other.bytes - one.gzip_bytes / other.gzip_bytes) > 10 * ALIKE:
            yield f"{table.times(one.gzip_bytes / other.gzip_bytes)} smaller zipped"


def _speed(speed: Versus) -> str:
    low, high = speed.ci95 or (speed.ratio / UNCLEAR, speed.ratio * UNCLEAR)
    interval = f" ({table.times_interval(speed.ci95)})" if speed.ci95 else ""
    if low > 1:
        return f"{table.times(speed.ratio)} faster{interval}"
    if high < 1:
        return f"**slower**: {table.times(speed.ratio)}{interval}"
    return f"no faster within noise: {table.times(speed.ratio)}{interval}"


def _size(ratio: float) -> str:
    if ratio > 1 + ALIKE:
        return f"{table.times(ratio)} smaller"
    return f"**bigger**: {table.times(1 / ratio)} the size" if ratio < 1 - ALIKE else "no smaller"
