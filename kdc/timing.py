"""The latency of runs whose artifacts stand: one run's, or a whole sweep's in common rounds.

How artifacts are timed is the business of `measure`; here is which of them, and where what was seen belongs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdc.data.examples import Examples
from kdc.data.rows import spread
from kdc.measure.latency import VariantTiming, how_timed, time_variants
from kdc.measure.noise import NoiseFloor, known_floor
from kdc.measure.rounds import Contender
from kdc.record import RunRecord, Variant
from kdc.screen import Screen
from kdc.store import default_root

if TYPE_CHECKING:
    from kdc.config import RunConfig


@dataclass(frozen=True)
class Untimed:
    """A run that is finished but for its latency; `rows` are those to be timed end to end."""

    record: RunRecord
    folder: Path
    config: RunConfig
    rows: Examples

    @classmethod
    def of(cls, record: RunRecord, folder: Path, config: RunConfig, rows: Examples) -> Untimed:
        """Keeps no more of `rows` than will be timed: a sweep holds those of all its runs."""
        return cls(record, folder, config, spread(rows, config.bench.rows))


def time_runs(runs: Sequence[Untimed], screen: Screen) -> None:
    """Time all artifacts of `runs` and enter what was seen into their records.

    Runs with the same settings of `bench` share their rounds, so that the ratios between them are as good as those
    within one; an artifact that several of them have, byte by byte, is timed once.
    """
    floor = known_floor(default_root())  # a damaged one is refused now, not after minutes of timing
    benches: dict[str, list[Untimed]] = {}
    for run in runs:
        benches.setdefault(run.config.bench.model_dump_json(), []).append(run)
    for together in benches.values():
        _time_together(together, floor, screen)


def _time_together(runs: Sequence[Untimed], floor: NoiseFloor | None, screen: Screen) -> None:
    contenders, names = _contenders(runs)
    bench = runs[0].config.bench
    started = time.perf_counter()
    with screen.bar("time the artifacts", "processes") as advance:
        timings = time_variants(contenders, bench, progress=advance, notify=screen.say)
    seconds = time.perf_counter() - started
    for run, own in zip(runs, names, strict=True):
        for variant in run.record.variants:
            _enter(variant, timings[own[variant.name]], {name: variant for variant, name in own.items()})
            run.record.notes += [f"{variant.name}: {note}" for note in timings[own[variant.name]].notes]
        run.record.timing = how_timed(timings.values(), bench, seconds=seconds, floor=floor)
        if len(runs) > 1:
            run.record.timing.together = [other.record.run.id for other in runs]


def _contenders(runs: Sequence[Untimed]) -> tuple[dict[str, Contender], list[dict[str, str]]]:
    """What is timed, and for every run the contender of each of its variants.

    A variant is held against the teacher in every runtime of its own run, and against the step before in its own.
    """
    contenders: dict[str, Contender] = {}
    known: dict[tuple[object, ...], str] = {}
    names: list[dict[str, str]] = []
    for run in runs:
        own = {}
        for variant in run.record.variants:
            assert variant.artifact is not None
            name = f"{variant.name} of {run.folder.name}" if len(runs) > 1 else variant.name
            own[variant.name] = known.setdefault((variant.name, variant.artifact.sha256, *run.rows.ids), name)
        teachers = [own[variant.name] for variant in run.record.variants if variant.stage == "teacher"]
        for variant in run.record.variants:
            name = own[variant.name]
            before = contenders[name].against if name in contenders else ()
            steps = [
                own[other.name]
                for other in run.record.variants
                if other.stage in variant.parents and other.runtime == variant.runtime
            ]
            contenders[name] = Contender(
                run.folder / "artifacts" / variant.name,
                rows=run.rows,
                against=tuple(dict.fromkeys([*before, *teachers, *steps])),
                plugins=run.config.plugins,
            )
        names.append(own)
    return contenders, names


def _enter(variant: Variant, timing: VariantTiming, names: dict[str, str]) -> None:
    """`names` are the run's own variants by contender; ratios against those of other runs are left out."""
    variant.memory, variant.load_seconds = timing.memory, timing.load_seconds
    variant.first_call_ms = timing.first_call_ms
    variant.latency = [
        latency.model_copy(
            update={
                "versus": [
                    versus.model_copy(update={"against": names[versus.against]})
                    for versus in latency.versus
                    if versus.against in names
                ]
            }
        )
        for latency in timing.latency
    ]
