"""Rounds of fresh processes, so that drift of the machine meets all contenders alike; more can be had at any time.

A round starts one worker for every contender, in an order that rotates from round to round (two contenders: ABBA).
What is compared is compared within rounds. How a worker is started is `processes`, what it does is `worker`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from kdc import machine
from kdc.data.examples import Examples
from kdc.data.rows import spread, write_rows
from kdc.errors import KdcError
from kdc.measure import machine_lock
from kdc.measure.settings import BenchConfig
from kdc.measure.workloads import Workload, end_to_end, grid
from kdc.processes import run_worker

Progress = Callable[[int, int, str], None]
"""Called before each worker with: workers finished, workers in all, what is timed now."""


LIMIT_SECONDS = 900.0
"""A worker that runs longer than this hangs: an ordinary one takes seconds."""
SMALLER = "bench.batches, bench.lengths and bench.rows can be smaller"


@dataclass(frozen=True)
class Contender:
    """The files in `path`, to be timed on the bench's grid and on real `rows` end to end.

    `against` names the contenders that a summary holds this one against.
    """

    path: Path
    rows: Examples | None = None
    against: tuple[str, ...] = ()
    plugins: Sequence[str] = ()


class Rounds:
    """Contenders, their workloads, and what their workers have answered so far: one answer a round, by name.

    What was `dropped` has no answers and no workloads; its `notes` say why.
    """

    def __init__(
        self,
        contenders: Mapping[str, Contender],
        bench: BenchConfig,
        *,
        scratch: Path,
        progress: Progress = lambda done, total, now: None,
        worker_seconds: float = LIMIT_SECONDS,
    ) -> None:
        self.workloads: dict[str, list[Workload]] = {}
        self.notes: dict[str, list[str]] = {}
        self.answers: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
        self.dropped: list[str] = []
        held_against = {other for name, each in contenders.items() for other in each.against if other != name}
        self._needed = held_against or set(contenders)
        self._progress, self._worker_seconds = progress, worker_seconds
        self._jobs = {
            name: self._job(name, contender, bench, scratch / f"{number}.npz")
            for number, (name, contender) in enumerate(contenders.items())
        }

    def _job(self, name: str, contender: Contender, bench: BenchConfig, rows_file: Path) -> dict[str, Any]:
        from kdc.export.artifact import Artifact

        threads = bench.threads or machine.threads()
        artifact = Artifact.open(contender.path, contender.plugins)
        cells, self.notes[name] = grid(artifact, bench, threads)
        rows = spread(contender.rows or Examples({}), bench.rows)
        if len(rows) and artifact.task is None:
            self.notes[name].append("not timed end to end: nothing says how its inputs are made from rows")
            rows = Examples({})
        if len(rows):
            write_rows(rows_file, rows)
        self.workloads[name] = [*cells, *([end_to_end(len(rows), threads)] if len(rows) else [])]
        return {
            "artifact": str(contender.path),
            "plugins": list(contender.plugins),
            "threads": threads,
            "workloads": cells,
            "calls": bench.calls,
            "seconds": bench.seconds,
            "rows": str(rows_file) if len(rows) else None,
        }

    @property
    def count(self) -> int:
        """Rounds so far."""
        return min(len(answers) for answers in self.answers.values())

    def more(self, rounds: int, *, dropping: bool = False) -> None:
        """Run further rounds; KdcError if a worker fails, dies or hangs.

        With `dropping`, a contender whose worker does is left out instead, for as long as one is left of those that
        others are held against (where none is, one of all).
        """
        names, first = list(self._jobs), self.count
        schedule = [name for round_ in range(first, first + rounds) for name in rotated(names, round_)]
        for done, name in enumerate(schedule):
            if name in self.dropped:
                continue
            self._progress(done, len(schedule), name)
            try:
                answer = run_worker(
                    self._jobs[name], name=f"timing {name}", module="kdc.measure.worker", smaller=SMALLER,
                    seconds=self._worker_seconds,
                )  # fmt: skip
            except KdcError as error:
                if not dropping or self._needed <= {*self.dropped, name}:
                    raise
                self._drop(name, error)
            else:
                self.answers[name].append(answer)

    def _drop(self, name: str, error: KdcError) -> None:
        """What it answered in earlier rounds goes too: the others' medians are over rounds that it was not in."""
        del self._jobs[name], self.answers[name]
        self.dropped.append(name)
        self.workloads[name] = []
        self.notes[name].append(f"NOT TIMED: {str(error).removeprefix(f'timing {name}: ')}")

    def timed(self, name: str, workload: Workload) -> list[dict[str, Any]]:
        """What each round's worker said of one workload: `samples` in milliseconds, `steady`, `joules` a call."""
        place = self.workloads[name].index(workload)
        return [answer["timed"][place] for answer in self.answers[name]]

    def medians(self, name: str, workload: Workload) -> np.ndarray:
        """The median call of each round's process in milliseconds, `[rounds]`."""
        return np.array([median(timed["samples"]) for timed in self.timed(name, workload)])

    def log_ratios(self, baseline: str, candidate: str, workload: Workload) -> np.ndarray:
        """d_r = ln(candidate / baseline) of the medians in each round, `[rounds]`: above 0 the candidate is slower."""
        return np.log(self.medians(candidate, workload) / self.medians(baseline, workload))


@contextmanager
def timed_rounds(
    contenders: Mapping[str, Contender],
    bench: BenchConfig,
    *,
    progress: Progress = lambda done, total, now: None,
    notify: Callable[[str], None] = print,
    worker_seconds: float = LIMIT_SECONDS,
) -> Iterator[Rounds]:
    """Rounds to be run within the block, which has the machine to itself.

    What cannot be opened is refused before the machine is waited for.
    """
    with tempfile.TemporaryDirectory(prefix="kdc-rows-") as scratch:
        rounds = Rounds(contenders, bench, scratch=Path(scratch), progress=progress, worker_seconds=worker_seconds)
        with machine_lock.timing(notify):
            yield rounds


def rotated(names: Sequence[str], round_: int) -> list[str]:
    """The order of a round: every name once, each round starting one further on."""
    start = round_ % len(names)
    return [*names[start:], *names[:start]]
