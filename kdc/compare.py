"""Runs side by side: settings that differ, quality on the same rows, size, and latency as far as it may be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from kdc.errors import KdcError
from kdc.gate.answers import joined, read_answers
from kdc.gate.change import paired_change
from kdc.gate.side import Side
from kdc.measure.statistics import paired_ratio
from kdc.record import Latency, RunRecord, Variant
from kdc.report import table
from kdc.report.console import plain_table
from kdc.report.table import Cell
from kdc.shipped import shipped

if TYPE_CHECKING:
    from rich.console import Console

ABSENT = object()
PLACES = frozenset({"name", "cache_dir", "optional_runtimes"})
"""Settings that say where, under what name and by which words a run was made, not what was made."""


@dataclass(frozen=True)
class Column:
    """A run in the comparison: `name` heads its column, `place` is what the user named."""

    name: str
    place: Path
    record: RunRecord


def columns(places: Sequence[Path]) -> list[Column]:
    """Every run under the shortest name that tells it from the others."""
    folders = [place if place.is_dir() else place.parent for place in places]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{number}: {name}" for number, name in enumerate(names, 1)]
    return [Column(name, place, RunRecord.load(place)) for name, place in zip(names, places, strict=True)]


def settings(runs: Sequence[Column]) -> list[list[str]]:
    """A line for each key of the configuration that is not the same in all runs: the key, then its values."""
    found = _differing([run.record.config for run in runs], "")
    return [[key, *map(_short, values)] for key, values in found if key not in PLACES]


def results(runs: Sequence[Column]) -> tuple[list[list[Cell]], list[str]]:
    """For each variant its quality, size and latency in every run, with the change against the first run; and notes.

    Variants go by their names; where different ones ship, these are compared too.
    """
    notes: dict[str, None] = {}
    rows = []
    for title, variants in _rows(runs):
        rows.append([Cell(title), Cell("quality"), *_qualities(runs, variants, notes)])
        rows.append([Cell(""), Cell("size"), *_sizes(variants)])
        rows.append([Cell(""), Cell("p50 ms"), *_latencies(runs, variants)])
    if not table.timed_together(run.record for run in runs):
        notes["latencies are those of the records: these runs were not timed together, so that no ratio is given"] = (
            None
        )
    return rows, list(notes)


def print_comparison(runs: Sequence[Column], console: Console) -> None:
    from rich.text import Text

    def show(head: Sequence[str], body: Sequence[Sequence[Cell]]) -> None:
        shown = plain_table(head, left=range(len(head) - len(runs)))
        for row in body:
            shown.add_row(*(Text(f"{c.main}\n{c.detail}" if c.detail else c.main) for c in row))
        console.print(shown)
        console.print()

    names = [run.name for run in runs]
    if differing := settings(runs):
        show(["setting", *names], [list(map(Cell, row)) for row in differing])
    else:
        console.print("The runs have the same configuration.\n")
    body, notes = results(runs)
    if body:
        show(["variant", "", *names], body)
    for run in runs:
        if run.record.run.status != "ok":
            notes.append(f"{run.name}: the run {_state(run.record)}")
    for note in notes:
        console.print(Text(f"note: {note}", style="dim"))


def _rows(runs: Sequence[Column]) -> list[tuple[str, list[Variant | None]]]:
    held = [{variant.name: variant for variant in run.record.variants} for run in runs]
    names = list(dict.fromkeys(name for variants in held for name in variants))
    found: list[tuple[str, list[Variant | None]]] = [(name, [own.get(name) for own in held]) for name in names]
    ships = [shipped(run.record) for run in runs]
    if len({variant.name for variant in ships if variant}) > 1:
        found.append(("what ships", ships))
    return found


def _qualities(runs: Sequence[Column], variants: Sequence[Variant | None], notes: dict[str, None]) -> list[Cell]:
    cells = []
    for run, variant in zip(runs, variants, strict=True):
        if variant is None or variant.quality is None:
            cells.append(Cell(table.MISSING))
            continue
        name, metric = table.primary(variant.quality)
        own, first = Cell(f"{name} {table.score(name, metric.value)}"), variants[0]
        compared = run is not runs[0] and first is not None and first.quality and name in first.quality.metrics
        cells.append(Cell(own.main, _change(name, runs[0], first, run, variant, notes)) if compared and first else own)
    return cells


def _change(name: str, first: Column, theirs: Variant, run: Column, own: Variant, notes: dict[str, None]) -> str:
    """The paired difference with its 95% interval; without predictions of the same rows, why there is none."""
    now, before = (
        Side(each.place, each.record, variant, each.place if each.place.is_dir() else None)
        for each, variant in ((run, own), (first, theirs))
    )
    if now.predictions is None or before.predictions is None:
        lacks = run if now.predictions is None else first
        notes[f"where {lacks.name} has no predictions there is no paired difference"] = None
        return ""
    try:
        answers = read_answers(now.predictions)
        others = joined(answers, read_answers(before.predictions), baseline=first.name)
        change = paired_change(name, now, before, answers, others, confidence=0.95)
    except KdcError as error:
        notes[f"no paired difference: {error.cause}"] = None
        return ""
    if change.identical:
        return f"all {change.rows:,} rows alike"
    interval = (change.low, change.high) if math.isfinite(change.low + change.high) else None
    if interval is None:
        return table.change(name, change.value)
    notes["intervals are of 95% each, not corrected for how many there are"] = None
    return f"{table.change(name, change.value)} ({table.change_interval(name, interval)})"


def _sizes(variants: Sequence[Variant | None]) -> list[Cell]:
    held = [variant.artifact if variant else None for variant in variants]
    first = held[0]
    return [
        Cell(table.MISSING)
        if own is None
        else Cell(table.size(own.bytes))
        if first is None or own is first
        else Cell(table.size(own.bytes), "same files")
        if own.sha256 == first.sha256
        else Cell(table.size(own.bytes), f"{table.signed(100 * (own.bytes / first.bytes - 1), 1)}%")
        for own in held
    ]


def _latencies(runs: Sequence[Column], variants: Sequence[Variant | None]) -> list[Cell]:
    """Medians at the first workload of the first run; ratios, by rounds, only where the runs were timed together."""
    wanted = next((found for run in runs if (found := table.first_workload(run.record))), None)
    held = [table.latency_at(variant, wanted) if variant else None for variant in variants]
    first = held[0]
    together = table.timed_together(run.record for run in runs)
    return [
        Cell(table.MISSING)
        if own is None
        else Cell(table.significant(own.p50_ms))
        if first is None or own is first or not together
        else Cell(table.significant(own.p50_ms), _pace(first, own))
        for own in held
    ]


def _pace(first: Latency, own: Latency) -> str:
    medians = [[median(process) for process in latency.samples] for latency in (first, own)]
    ratio, ci95 = paired_ratio(*medians)
    return f"{table.times(ratio)} as fast" + (f" ({table.times_interval(ci95)})" if ci95 else "")


def _differing(values: Sequence[Any], key: str) -> list[tuple[str, Sequence[Any]]]:
    if all(value == values[0] for value in values):
        return []
    if not all(isinstance(value, Mapping) for value in values):
        return [(key, values)]
    names = dict.fromkeys(name for value in values for name in value)
    return [
        line
        for name in names
        for line in _differing([value.get(name, ABSENT) for value in values], f"{key}.{name}" if key else name)
    ]


def _short(value: Any) -> str:
    """A value as an override would give it; of a whole section, what was chosen."""
    if value is ABSENT:
        return table.MISSING
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_short(held)}" for name, held in value.items())
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _state(record: RunRecord) -> str:
    return f"failed: {record.run.error}" if record.run.status == "failed" else "has not ended"
