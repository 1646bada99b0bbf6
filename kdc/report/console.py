"""What a run prints at its end: the table of variants, the verdicts, and where the report is. How tables look."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdc.record import RunRecord
from kdc.report import gain
from kdc.report.audit import all_unheard
from kdc.report.table import Cell, headers, rows
from kdc.report.verdict import verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


def print_report(record: RunRecord, console: Console, *, report: Path | None = None) -> None:
    """`report` is the file to point to; paths are printed unstyled so that terminals can open them."""
    from rich.text import Text

    if record.variants:
        console.print(variants_table(record))
    failed = record.run.status == "failed"
    console.print(Text(verdict(record), style="bold red" if failed else "bold"))
    for line in (*gain.gain_verdict(record), gain.in_a_line(record)):
        if line:
            console.print(Text(line))
    for line in all_unheard(record):
        console.print(Text(f"warning: {line}", style="yellow"))
    for note in record.notes:
        console.print(Text(f"note: {note}", style="dim"))
    if report is not None:
        console.print(Text(f"report: {report}"), soft_wrap=True)


def plain_table(head: Sequence[str | Text], *, left: Container[int]) -> Table:
    """No rows yet, in the look that all results share; columns whose number is not in `left` hold numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True, header_style="bold")
    for number, name in enumerate(head):
        shown = Text(name) if isinstance(name, str) else name
        table.add_column(shown, justify="left" if number in left else "right", overflow="fold")
    return table


def variants_table(record: RunRecord) -> Table:
    """One row a variant, in 80 columns: the passes stand below the model, an interval below its number."""
    table = plain_table([_styled(header) for header in _merged(headers(record))], left=range(2))
    table.columns[1].no_wrap = True  # names of passes can break, where both have no room
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
