"""`dry_run=true`: the stages that a run would go through, which of them the store holds, and what the others take.

Looks and writes nothing; only what a key is made of is read: the data, and the configs and files of checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdc import stages, walk
from kdc.data.load import load_splits
from kdc.estimate import Cost, Estimator
from kdc.stages import Data, Step, World
from kdc.store import Published

if TYPE_CHECKING:
    from rich.table import Table

    from kdc.config import RunConfig


@dataclass(frozen=True)
class Line:
    """One stage of the plan; a stage that is never stored has no key."""

    name: str
    key: str | None
    cached: bool
    cost: Cost


def plan(config: RunConfig, world: World) -> list[Line]:
    """Every stage of the run, in order, but attributions: of which rows they are is not known before."""
    data, first = _look_at_data(config, world)
    lines = [first]
    estimator = Estimator(data)

    def look(label: str, make: Callable[[], Step]) -> Published:
        step = make()
        seen = world.look(step)
        lines.append(Line(label, seen.key, seen.cached, estimator.step(step, seen)))
        return seen

    points, arms = walk.models(config, data, world, look)
    variants = [walk.export(point, runtime, data, world, look) for point, runtime in walk.cells(config, points)[0]]
    for variant in variants:
        walk.predictions(variant, data, look)
    for name, other in walk.perturbed(data, config.report.robustness, config.seed):
        for variant in variants:
            walk.predictions(variant, other, look, on=name)
    for own in walk.replicates(arms, variants, data, world, look).values():
        for variant in own:
            walk.predictions(variant, data, look)
    lines.append(Line("latency", None, cached=False, cost=estimator.latency(variants, config.bench)))
    return lines


def _look_at_data(config: RunConfig, world: World) -> tuple[Data, Line]:
    started = time.perf_counter()
    step = stages.data_step(config.dataset, config.data_dir, config.seed, config.report.slices)
    seen = world.look(step) if step is not None else None
    if seen is not None and seen.cached:
        splits, _ = stages.read_data(seen)
    else:
        slices = config.report.slices
        splits, _ = load_splits(config.dataset, data_dir=config.data_dir, seed=config.seed, keep=slices)
    cost = Cost(time.perf_counter() - started, 0.0)
    data = stages.described(config.dataset, splits)
    return data, Line("data", seen.key if seen else None, seen.cached if seen else False, cost)


def table(lines: list[Line]) -> Table:
    """The plan as a table, with what is left to do summed up."""
    from rich import box
    from rich.table import Table

    to_do = [line for line in lines if not line.cached]
    minutes = sum(line.cost.seconds for line in to_do) / 60
    peak = max((line.cost.peak_bytes for line in to_do), default=0.0)
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True, caption="minutes and memory are estimated")
    found.add_column("stage", f"{len(to_do)} of {len(lines)} to do", overflow="fold")
    found.add_column("key", no_wrap=True, min_width=8)
    found.add_column("state", no_wrap=True, min_width=max(len(_state(line)) for line in lines))
    found.add_column("minutes", _minutes(minutes), justify="right", no_wrap=True, min_width=7)
    found.add_column("peak GB", _gigabytes(peak), justify="right", no_wrap=True, min_width=7)
    for line in lines:
        cost = ("", "") if line.cached else (_minutes(line.cost.seconds / 60), _gigabytes(line.cost.peak_bytes))
        found.add_row(line.name, (line.key or "")[:8], _state(line), *cost, style="dim" if line.cached else "")
    return found


def _state(line: Line) -> str:
    return "cached" if line.cached else "to do" if line.key else "always new"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f}" if size else ""


def _minutes(minutes: float) -> str:
    return f"{minutes:.1f}" if minutes >= 0.1 else "< 0.1"
