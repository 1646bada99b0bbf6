"""The runs of a sweep side by side, each by what it ships: what tells them apart, and which ones nothing beats."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc.errors import KdcError
from kdc.record import RunRecord, Variant
from kdc.report import table
from kdc.report.charts import pareto
from kdc.report.console import plain_table
from kdc.report.table import Cell
from kdc.report.verdict import verdict
from kdc.shipped import shipped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FRONT = "●"


@dataclass(frozen=True)
class Ranked:
    """A cell with the number that it is sorted by; None where it is sorted by its text."""

    cell: Cell
    value: float | None = None


@dataclass(frozen=True)
class Entry:
    """A run: the folder's name, the settings that tell it from the others, its place in the picture if it has one."""

    folder: str
    record: RunRecord
    settings: dict[str, str]
    point: pareto.Point | None
    front: bool

    @property
    def final(self) -> Variant | None:
        return shipped(self.record) if self.record.run.status == "ok" else None


def read_sweep(folder: Path) -> dict[str, RunRecord]:
    """The record of every run in a folder of runs, by the runs' folder names, in the order of their numbers."""
    found = sorted(folder.glob("*/record.json"), key=lambda file: _natural(file.parent.name))
    if not found:
        raise KdcError(f"there is no record of a run in {folder}", "name the folder of a run or of a sweep")
    return {file.parent.name: RunRecord.load(file) for file in found}


def leaderboard(records: Mapping[str, RunRecord]) -> list[Entry]:
    """Every run, the best quality first; runs that came to nothing stand last."""
    on = common_scale(records.values())
    settings = _settings(list(records.values()))
    points = {}
    for (folder, record), name in zip(records.items(), _short_names(list(records)), strict=True):
        ships = shipped(record) if record.run.status == "ok" else None
        points[folder] = pareto.point(ships, on, name) if on and ships else None
    placed = [point for point in points.values() if point is not None]
    best = pareto.front(placed, higher_is_better=on.higher_is_better) if on else []
    entries = [
        Entry(folder, record, own, points[folder], points[folder] in best)
        for (folder, record), own in zip(records.items(), settings, strict=True)
    ]
    sign = 1 if on and not on.higher_is_better else -1
    return sorted(entries, key=lambda entry: sign * entry.point.quality if entry.point else float("inf"))


def common_scale(records: Any) -> pareto.Scale | None:
    """The metric and the workload that the runs are ranked by: those of the first run that has both."""
    return next((on for record in records if (on := pareto.scale(record)) is not None), None)


def headers(entries: Sequence[Entry]) -> list[str]:
    on = common_scale(entry.record for entry in entries)
    metric = on.metric if on else "quality"
    return ["run", *keys(entries), "status", metric, "kept", "size", "p50 ms", "speed-up", "front"]


def keys(entries: Sequence[Entry]) -> list[str]:
    """The settings that differ between the runs."""
    return list(dict.fromkeys(key for entry in entries for key in entry.settings))


def rows(entries: Sequence[Entry]) -> list[list[Ranked]]:
    """In the order of `headers`."""
    names = keys(entries)
    on = common_scale(entry.record for entry in entries)
    return [
        [
            Ranked(Cell(entry.folder)),
            *(Ranked(Cell(entry.settings.get(key, ""))) for key in names),
            Ranked(Cell(entry.record.run.status)),
            *_figures(entry, on),
            Ranked(Cell(FRONT if entry.front else ""), 0.0 if entry.front else 1.0),
        ]
        for entry in entries
    ]


def _figures(entry: Entry, on: pareto.Scale | None) -> list[Ranked]:
    nothing = Ranked(Cell(table.MISSING))
    variant, found = entry.final, [nothing] * 5
    if variant is None or on is None:
        return found
    if variant.quality and (metric := variant.quality.metrics.get(on.metric)):
        shown = Cell(table.score(on.metric, metric.value), table.score_interval(on.metric, metric.ci95))
        found[0] = Ranked(shown, metric.value)
    if variant.quality and (retained := variant.quality.retained) is not None:
        found[1] = Ranked(Cell(f"{retained:.1%}"), retained)
    if variant.artifact:
        found[2] = Ranked(Cell(table.size(variant.artifact.bytes)), variant.artifact.bytes)
    if latency := table.latency_at(variant, on.workload):
        found[3] = Ranked(Cell(table.significant(latency.p50_ms)), latency.p50_ms)
        if faster := table.versus(latency, entry.record.baseline):
            found[4] = Ranked(Cell(table.times(faster.ratio), table.times_interval(faster.ci95)), faster.ratio)
    return found


def said(entries: Sequence[Entry]) -> str:
    """What came of the sweep, in a few sentences."""
    done = [entry for entry in entries if entry.final]
    text = f"{len(entries)} runs, {len(done)} of them finished."
    if best := sorted((e.point for e in entries if e.front and e.point), key=lambda point: point.latency):
        text += f" In quality and latency nothing beats {', '.join(point.name for point in best)}."
    if not table.timed_together(entry.record for entry in done):
        text += (
            " The runs were not timed in the same rounds: small differences between their latencies may be the "
            "machine's, their speed-ups are each against a baseline of the same rounds."
        )
    return text


def failures(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Runs that did not end well, each with what its record says of that."""
    return [(entry.folder, verdict(entry.record)) for entry in entries if entry.record.run.status != "ok"]


def print_leaderboard(records: Mapping[str, RunRecord], console: Console, *, report: Path) -> None:
    """The table, what came of it, why runs failed in full (a column is too narrow for that), and where the page is."""
    from rich.text import Text

    entries = leaderboard(records)
    console.print(leaderboard_table(entries))
    console.print(Text(said(entries), style="bold"))
    for folder, why in failures(entries):
        console.print(Text(f"{folder}: {why}", style="red"))
    console.print(Text(f"report: {report}"), soft_wrap=True)


def leaderboard_table(entries: Sequence[Entry]) -> Table:
    """For the console's 80 columns: short names of runs and settings, and a status only where one failed."""
    from rich.text import Text

    settings = keys(entries)
    last = [key.rpartition(".")[2] for key in settings]
    head = ["run", *(last if len(set(last)) == len(last) else settings), *headers(entries)[1 + len(settings) :]]
    body = [[ranked.cell.main for ranked in row] for row in rows(entries)]
    for row, name in zip(body, _short_names([entry.folder for entry in entries]), strict=True):
        row[0] = name
    left = 2 + len(settings)
    if all(entry.record.run.status == "ok" for entry in entries):
        left -= 1
        for row in [head, *body]:
            del row[left]
    shown = plain_table(head, left=range(left))
    for row in body:
        shown.add_row(*map(Text, row))
    return shown


def _short_names(folders: Sequence[str]) -> list[str]:
    """`run 3` for `3-bert-layers` where all folders differ by their number alone."""
    parts = [folder.partition("-") for folder in folders]
    alike = len({rest for _, _, rest in parts}) == 1 and all(number.isdigit() for number, _, _ in parts)
    return [f"run {number}" for number, _, _ in parts] if alike else list(folders)


def _settings(records: Sequence[RunRecord]) -> list[dict[str, str]]:
    """For each run the overrides that not all share; one that a run lacks is read off its configuration."""
    words = [_overrides(record) for record in records]
    names = list(dict.fromkeys(key for own in words for key in own))
    found = [
        {key: own.get(key, _configured(record, key)) for key in names}
        for own, record in zip(words, records, strict=True)
    ]
    different = [key for key in names if len({own[key] for own in found}) > 1]
    return [{key: own[key] for key in different} for own in found]


def _overrides(record: RunRecord) -> dict[str, str]:
    pairs = (word.partition("=") for word in record.run.overrides if "=" in word)
    return {key.lstrip("+~"): _named(value[1:-1]) if value.startswith("[") else value for key, _, value in pairs}


def _configured(record: RunRecord, key: str) -> str:
    """A setting as an override would give it: a value, the name of what was chosen, or of several things."""
    value: Any = record.config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, dict) and "name" in value:
        return str(value["name"])
    if isinstance(value, dict | list):
        return _named(",".join(map(str, value)))
    return "" if value is None else str(value)


def _named(names: str) -> str:
    """What was chosen of a list, however it was written: `none`, `int8`, `[int8,bf16]`."""
    return f"[{names}]" if "," in names else names or "none"


def _natural(name: str) -> list[tuple[int, str]]:
    """`2-x` before `10-x`."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
