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

LEFT = frozenset({"variant", "runtime"})


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
    """One row a variant, in 80 columns: the passes stand below the model, an interval below its number."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True, header_style="bold")
    for header in _merged(headers(record)):
        table.add_column(_styled(header), justify="left" if header.main in LEFT else "right", overflow="fold")
    for row in rows(record):
        table.add_row(*(_styled(cell) for cell in _merged(row)))
    return table


def _merged(row: list[Cell]) -> list[Cell]:
    name, runtime, precision, *numbers = row
    model, *passes = name.main.split("+")
    return [Cell(model, "\n".join(f"+{step}" for step in passes)), Cell(runtime.main, precision.main), *numbers]


def _styled(cell: Cell) -> Text:
    from rich.text import Text

    text = Text(cell.main)
    return text.append(f"\n{cell.detail}", style="dim") if cell.detail else text
