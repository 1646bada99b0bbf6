"""What a run prints at its end: the table of variants, the verdict, and where the report is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdc.record import RunRecord
from kdc.report.table import Cell, headers, rows
from kdc.report.verdict import verdict

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

TEXT_COLUMNS = 3


def print_report(record: RunRecord, console: Console, *, report: Path | None = None) -> None:
    """`report` is the file to point to; paths are printed unstyled so that terminals can open them."""
    from rich.text import Text

    if record.variants:
        console.print(variants_table(record))
    failed = record.run.status == "failed"
    console.print(Text(verdict(record), style="bold red" if failed else "bold"))
    for note in record.notes:
        console.print(Text(f"note: {note}", style="dim"))
    if report is not None:
        console.print(Text(f"report: {report}"), soft_wrap=True)


def variants_table(record: RunRecord) -> RenderableType:
    """One row a variant; intervals stand in small print below what they belong to, so that it fits 100 columns."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1))
    for i, header in enumerate(headers(record)):
        table.add_column(header, justify="left" if i < TEXT_COLUMNS else "right", overflow="fold")
    for row in rows(record):
        table.add_row(*(_styled(cell) for cell in row))
    return table


def _styled(cell: Cell) -> Text:
    from rich.text import Text

    text = Text(cell.main)
    return text.append(f"\n{cell.detail}", style="dim") if cell.detail else text
