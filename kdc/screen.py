"""What a run shows while it works: one line a finished stage, a progress bar with rate and remaining time meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_SECONDS = 30

Advance = Callable[[int, int, str], None]
"""`advance(done, total, detail)`: where the work stands, and what to show beside it."""


class Screen:
    """Lines and bars on stderr, so that stdout holds results only; the lines go to log.txt too if `logged`."""

    def __init__(self, console: Console | None = None, *, logged: bool = True) -> None:
        self.console = console or Console(stderr=True)
        self.logged = logged

    def say(self, line: str, *, style: str = "") -> None:
        if self.logged:
            logging.getLogger("kdc").info(line.strip())
        self.console.print(Text(line, style=style), soft_wrap=True)

    @contextmanager
    def bar(self, title: str, unit: str = "steps") -> Iterator[Advance]:
        """A bar that disappears when its work is done; where there is no terminal, a line every half minute."""
        if not self.console.is_terminal:
            yield self._lines(title, unit)
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            _Rate(unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", style="dim"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=None, visible=False, detail="")
            yield lambda done, total, detail: progress.update(
                task, completed=done, total=total, detail=detail, visible=True
            )

    def _lines(self, title: str, unit: str) -> Advance:
        started = said = time.monotonic()
        resumed_at: int | None = None

        def advance(done: int, total: int, detail: str) -> None:
            nonlocal said, resumed_at
            now = time.monotonic()
            resumed_at = done if resumed_at is None else resumed_at
            if done > resumed_at and now - said >= LINE_SECONDS:
                said = now
                rate = (done - resumed_at) / (now - started)
                left = (total - done) / rate / 60
                note = f", {detail}" if detail else ""
                self.say(f"  {title}: {done}/{total} {unit}, {rate:.1f}/s, {left:.1f} min left{note}", style="dim")

        return advance


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self.unit}/s" if task.speed else "", style="cyan")
