"""report.md: a record as a screen of Markdown, verdict first. Rendered from the record alone; report.html has more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from kdc.files import write_atomically
from kdc.record import Comparison, RunRecord, Variant
from kdc.report import gain, ledger, summary, table
from kdc.report.audit import audit, unheard
from kdc.report.loading import loadable, loading_snippet
from kdc.report.summary import Grid
from kdc.report.table import Cell
from kdc.report.verdict import verdict
from kdc.shipped import shipped

WORST_GROUPS, SURE = 3, 0.05


def write_markdown(record: RunRecord, path: Path) -> None:
    write_atomically(path, markdown(record))


def markdown(record: RunRecord) -> str:
    sections = [
        f"# {record.run.name or record.run.id}\n\n**{verdict(record)}**",
        _variants(record),
        _ledger(record),
        _gain(record),
        _changes(record),
        _audit(record),
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


def _ledger(record: RunRecord) -> str:
    told = "\n".join(f"- {line}" for line in ledger.told(record))
    return f"## Step by step\n\n{told}\n\n{_cells(ledger.ledger(record))}" if told else ""


def _gain(record: RunRecord) -> str:
    if not gain.arms(record):
        return ""
    told = "\n".join(f"- {line}" for line in gain.gain_verdict(record))
    parts = [f"## {gain.title(record)}", told, _cells(gain.grid(record)), gain.about(record)]
    return "\n\n".join(part for part in parts if part)


def _audit(record: RunRecord) -> str:
    """Which terms of a loss do the teaching; nothing of stages that have one term only."""
    parts = ["## Terms of the loss"]
    for stage in record.stages:
        found = audit(stage)
        if len(found.rows) > 1:
            told = "\n".join(f"- **warning**: {line}" for line in unheard(stage))
            parts += [part for part in (f"{found.caption}:", _cells(found), told) if part]
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _changes(record: RunRecord) -> str:
    """What the variant that ships changed, row by row: the averages above do not tell."""
    final = shipped(record)
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
    final = loadable(record)
    if final is None or not (code := loading_snippet(final)):
        return ""
    return f"## Use it without kdc\n\n```python\n{code}```"


def _setup(record: RunRecord) -> str:
    facts = "\n".join(f"- {name}: {value}" for name, value in summary.facts(record).items())
    return f"## Setup\n\n{facts}\n\nTraining, stages, latency distributions and flipped examples are in report.html."


def flat(cells: Iterable[str | Cell]) -> list[str]:
    """Cells as the texts of one line, smaller print in brackets."""
    return [c if isinstance(c, str) else f"{c.main} ({c.detail})" if c.detail else c.main for c in cells]


def _cells(it: Grid) -> str:
    return grid(flat(it.head), map(flat, it.rows))


def grid(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table; bars and line breaks in its cells do not break it."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(_safe(cell) for cell in line) + " |" for line in lines)


def _safe(cell: str) -> str:
    return " ".join(cell.split("\n")).replace("|", "\\|")
