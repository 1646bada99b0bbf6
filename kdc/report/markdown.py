"""report.md: a record as a screen of Markdown, verdict first. Rendered from the record alone; report.html has more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from kdc.files import write_atomically
from kdc.record import Comparison, RunRecord, Variant
from kdc.report import summary, table
from kdc.report.loading import loading_snippet
from kdc.report.table import Cell
from kdc.report.verdict import verdict

WORST_GROUPS, SURE = 3, 0.05


def write_markdown(record: RunRecord, path: Path) -> None:
    write_atomically(path, markdown(record))


def markdown(record: RunRecord) -> str:
    sections = [
        f"# {record.run.name or record.run.id}\n\n**{verdict(record)}**",
        _variants(record),
        _changes(record),
        _latency(record),
        _without_kdc(record),
        _setup(record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _variants(record: RunRecord) -> str:
    if not record.variants:
        return ""
    against = f" Speed-up and size are against {record.baseline}." if record.baseline else ""
    said = (
        "Quality, size and latency are those of the exported files, loaded again in the runtime named; size counts all "
        f"files that ship. Brackets hold 95% intervals.{against}"
    )
    notes = "\n".join(f"- {note}" for note in record.notes)
    parts = ["## Variants", grid(flat(table.headers(record)), map(flat, table.rows(record))), said, notes]
    return "\n\n".join(part for part in parts if part)


def _changes(record: RunRecord) -> str:
    """What the last variant changed, row by row: the averages above do not tell."""
    final = record.variants[-1] if record.variants else None
    if final is None or not final.comparisons:
        return ""
    return f"## What {final.name} changed\n\n" + "\n".join(_told(final, each) for each in final.comparisons)


def _told(variant: Variant, comparison: Comparison) -> str:
    """One line: the primary metric, rows that changed sides, and the groups that lost, corrected for their number."""
    name = summary.compared_metric(variant, comparison)
    difference, churn = comparison.metrics[name], comparison.churn
    interval = table.change_interval(name, difference.ci95)
    line = (
        f"- against {comparison.against}: {name} {table.change(name, difference.value)}"
        f"{f' ({interval})' if interval else ''}; of {churn.n:,} rows {churn.right_to_wrong:,} went from right to "
        f"wrong, {churn.wrong_to_right:,} from wrong to right"
    )
    sure = [g for g in comparison.groups if g.difference.p_adjusted is not None and g.difference.p_adjusted < SURE]
    lost = [group for group in sure if group.difference.value < 0]
    lost.sort(key=lambda group: group.difference.value)
    groups = [f"{g.by} {g.group} {table.change('recall', g.difference.value)}" for g in lost[:WORST_GROUPS]]
    return line + (f"; most lost: {', '.join(groups)}" if groups else "")


def _latency(record: RunRecord) -> str:
    head, body = table.latency_grid(record)
    return "\n\n".join(["## Latency", grid(flat(head), map(flat, body)), table.how_timed(record)]) if body else ""


def _without_kdc(record: RunRecord) -> str:
    final = next((variant for variant in reversed(record.variants) if variant.artifact), None)
    if final is None or not (code := loading_snippet(final)):
        return ""
    return f"## Use it without kdc\n\n```python\n{code}```"


def _setup(record: RunRecord) -> str:
    facts = "\n".join(f"- {name}: {value}" for name, value in summary.facts(record).items())
    return f"## Setup\n\n{facts}\n\nTraining, stages, latency distributions and flipped examples are in report.html."


def flat(cells: Iterable[Cell]) -> list[str]:
    """Cells as the texts of one line, smaller print in brackets."""
    return [f"{cell.main} ({cell.detail})" if cell.detail else cell.main for cell in cells]


def grid(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table; bars and line breaks in its cells do not break it."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(_safe(cell) for cell in line) + " |" for line in lines)


def _safe(cell: str) -> str:
    return " ".join(cell.split("\n")).replace("|", "\\|")
