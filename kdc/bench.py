"""The bench: models of any origin opened, tried, timed in common rounds, and put into a record."""

from __future__ import annotations

import textwrap
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kdc import machine
from kdc.data.base import RawTable
from kdc.data.columns import to_splits
from kdc.data.examples import Examples
from kdc.data.files import Files
from kdc.data.formats import read_table
from kdc.errors import KdcError, did_you_mean
from kdc.export.artifact import Artifact
from kdc.export.foreign import take_in
from kdc.measure.latency import how_timed, time_variants
from kdc.measure.noise import known_floor
from kdc.measure.rounds import Contender
from kdc.measure.settings import BenchConfig
from kdc.measure.size import artifact_size
from kdc.measure.workloads import Workload, grid, spelled
from kdc.record import Run, RunRecord, Variant
from kdc.report.verdict import verdict
from kdc.screen import Screen
from kdc.store import default_root


@dataclass(frozen=True)
class Entrant:
    """What was named on the command line, opened; `rows` are for timing end to end."""

    path: Path
    artifact: Artifact
    workloads: list[Workload]
    rows: Examples | None
    plugins: tuple[str, ...]

    def contender(self, *, against: tuple[str, ...]) -> Contender:
        return Contender(self.artifact.folder, self.rows, against, self.plugins)


def enter(
    name: str, path: Path, bench: BenchConfig, *, scratch: Path, data: Path | None, plugins: Sequence[str]
) -> Entrant:
    """Open what is at `path`, to be timed on rows of the file `data` as well where there is one.

    What kdc did not write is taken into `scratch` and tried at every length, before minutes are spent on others.
    """
    artifact = take_in(path, scratch, plugins)
    threads = bench.threads or machine.threads()
    workloads, notes = grid(artifact, bench, threads)
    if not workloads:
        raise KdcError(f"{name} can run nothing of the bench: {'; '.join(notes)}", "choose with --length what it can")
    if artifact.folder != path:
        _try(name, artifact, workloads)
    return Entrant(path, artifact, workloads, read_rows(data, artifact, name) if data else None, tuple(plugins))


def _try(name: str, artifact: Artifact, workloads: Sequence[Workload]) -> None:
    trying, remedy = "load", "export it again, for the version that is installed"
    try:
        session = artifact.session(threads=workloads[0]["threads"])
        for workload in {workload.get("length", 1): workload for workload in reversed(workloads)}.values():
            trying, remedy = f"run at {spelled(workload)}", "choose what it can run with --batch and --length"
            session.run(session.example_batch(batch=workload["batch"], length=workload.get("length", 1)))
    except KdcError:
        raise
    except Exception as error:  # every runtime has exceptions of its own
        reason = textwrap.shorten(str(error).replace(str(artifact.folder), name), 200, placeholder=" ...")
        raise KdcError(f"{name} does not {trying} ({type(error).__name__}: {reason})", remedy) from error


def read_rows(path: Path, artifact: Artifact, name: str) -> Examples:
    """The columns that the artifact reads, from a table file or a text a line."""
    if "text" not in artifact.inputs:
        raise KdcError(f"--data holds texts, and {name} reads none", "leave --data out")
    if not path.is_file():
        raise KdcError(f"--data: there is no file {path}")
    columns = read_table(path, Files())
    if missing := [column for column in artifact.inputs if column not in columns]:
        raise KdcError(
            f"--data: {path} has no column '{missing[0]}', which {name} reads (it has {', '.join(columns)})",
            f"call one '{missing[0]}'",
        )
    raw = RawTable({column: columns[column] for column in artifact.inputs}, ((str(path), len(columns["text"])),))
    splits, _ = to_splits({"rows": raw}, {}, None, needed=artifact.inputs)
    return splits["rows"]


def chosen_baseline(entrants: Mapping[str, Entrant], named: str | None) -> str:
    """The name that the others are held against, on which each of them shares a workload."""
    name = named or next(iter(entrants))
    if name not in entrants:
        raise KdcError(f"--baseline: none is called '{name}'", did_you_mean(name, entrants))
    for other, entrant in entrants.items():
        if not any(workload in entrants[name].workloads for workload in entrant.workloads):
            said = [", ".join(map(spelled, entrants[which].workloads)) for which in (other, name)]
            raise KdcError(
                f"{other} and {name} have no workload in common: {said[0]} against {said[1]}",
                "choose with --batch and --length what both can run",
            )
    return name


def bench_record(
    entrants: Mapping[str, Entrant], bench: BenchConfig, *, baseline: str | None, command: str, screen: Screen
) -> RunRecord:
    """Time all of them together, held against `baseline` (the first): a record with a variant for each."""
    baseline = chosen_baseline(entrants, baseline)
    floor = known_floor(default_root())  # a damaged one is refused now, not after minutes of timing
    started, began = datetime.now(UTC), time.perf_counter()
    contenders = {name: entrant.contender(against=(baseline,)) for name, entrant in entrants.items()}
    with screen.bar("time the artifacts", "processes") as advance:
        timings = time_variants(contenders, bench, progress=advance, notify=screen.say)
    seconds = time.perf_counter() - began
    record = RunRecord(
        run=Run(
            id=uuid.uuid4().hex[:12],
            name="bench",
            command=command,
            status="ok",
            started_at=started.isoformat(timespec="seconds"),
            wall_seconds=round(seconds, 3),
        ),
        environment=machine.environment(),
        config={"bench": bench.model_dump(mode="json")},
        variants=[
            Variant(
                name=name,
                stage=name,
                runtime=entrant.artifact.runtime.name,
                precision=entrant.artifact.precision,
                artifact=artifact_size(entrant.artifact.folder, path=str(entrant.path)),
                latency=timings[name].latency,
                memory=timings[name].memory,
                load_seconds=timings[name].load_seconds,
                first_call_ms=timings[name].first_call_ms,
            )
            for name, entrant in entrants.items()
        ],
        baseline=baseline,
        timing=how_timed(timings.values(), bench, seconds=seconds, floor=floor),
        notes=[f"{name}: {note}" for name, timing in timings.items() for note in timing.notes],
    )
    record.verdict = verdict(record)
    return record
