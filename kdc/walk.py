"""The order of a run's cacheable stages: models, artifacts, predictions, each made from those before it.

The pipeline enters every step for real, a dry run only looks at it: `enter(label, make)` is what either does with one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kdc import stages
from kdc.arrangement import STUDENT, Arm, Arrangement, Enter, Point
from kdc.compress.base import Pass
from kdc.export.base import RUNTIMES, Runtime
from kdc.measure.robustness import perturb
from kdc.record import Role
from kdc.stages import Data, World
from kdc.store import Published

if TYPE_CHECKING:
    from kdc.config import RunConfig

BASELINE_RUNTIME = "torch"


@dataclass(frozen=True)
class Variant:
    """A point in a runtime, exported."""

    name: str
    point: Point
    runtime: Runtime
    artifact: Published


def models(config: RunConfig, data: Data, world: World, enter: Enter) -> tuple[list[Point], list[Arm]]:
    """Every model of the run, one point for every pass after the last; and the arms that tell a teacher's worth."""
    arrangement = Arrangement(config, data, world, enter)
    points = arrangement.models()
    arms = arrangement.arms()
    for key, chosen in config.compress.items():
        points.append(_apply(key, chosen.resolved(), points[-1], arrangement))
    return points, arms


def _apply(key: str, chosen: Pass, before: Point, run: Arrangement) -> Point:
    model, plan, rounds = before.model, before.plan, chosen.in_rounds()
    for number, step in enumerate(rounds, 1):
        label = f"{key} {number}/{len(rounds)}" if len(rounds) > 1 else key
        model, plan = _cut(label, step, model, plan, run, whole=before.model if number > 1 else None)
    return Point(f"{before.name}+{key}", model, plan, chosen.precision or before.precision, (before.name,))


def _cut(
    label: str, step: Pass, model: Published, plan: Published | None, run: Arrangement, *, whole: Published | None
) -> tuple[Published, Published]:
    """The stages that hold the model and the plan after one pass, and its recovery if it has one."""
    rows = stages.Seen(run.labelled, run.data, run.config.seed)
    done = run.enter(f"compress {label}", lambda: stages.compress_step(step, model, plan, rows, whole))
    changed = done if step.changes_weights else model
    if step.recovery is None:
        return changed, done
    return run.recover(label, step.recovery, changed, plan=done if step.precision else None), done


def cells(config: RunConfig, points: Sequence[Point]) -> tuple[list[tuple[Point, Runtime]], list[str]]:
    """What is exported: every point in every chosen runtime that has its precision, and notes on those left out.

    The teacher in torch comes first, always: it is the baseline.
    """
    chosen = sorted(config.runtime.values(), key=lambda runtime: runtime.name != BASELINE_RUNTIME)
    found: list[tuple[Point, Runtime]] = []
    notes = []
    if chosen[0].name != BASELINE_RUNTIME:
        found.append((points[0], RUNTIMES[BASELINE_RUNTIME].model_validate({"name": BASELINE_RUNTIME})))
    for point in points:
        for runtime in chosen:
            if point.precision in runtime.precisions:
                found.append((point, runtime))
            else:
                notes.append(f"{point.name}: {runtime.name} has no {point.precision}, so not there")
    return found, notes


def export(point: Point, runtime: Runtime, data: Data, world: World, enter: Enter) -> Variant:
    name = f"{point.name}.{runtime.name}"
    artifact = enter(f"export {name}", lambda: stages.export_step(runtime, point.model, point.plan, data, world))
    return Variant(name, point, runtime, artifact)


def replicates(
    arms: Sequence[Arm], variants: Sequence[Variant], data: Data, world: World, enter: Enter
) -> dict[str, list[Variant]]:
    """Every arm's models, exported in the runtime of the student's first variant: what is compared is what ships."""
    if not arms:
        return {}
    runtime = next(variant.runtime for variant in variants if variant.point.name == STUDENT)
    return {
        arm.name: [
            export(Point(f"{arm.name}, seed {seed}", model), runtime, data, world, enter) for seed, model in arm.models
        ]
        for arm in arms
    }


def predictions(variant: Variant, data: Data, enter: Enter, *, on: str = "") -> Published:
    """What the artifact puts out for the test rows; `on` says what was done to them."""
    label = f"predict {variant.name} {on}".rstrip()
    return enter(label, lambda: stages.predictions_step(variant.artifact, data, "test"))


def perturbed(data: Data, names: Sequence[str], seed: int) -> Iterator[tuple[str, Data]]:
    """The data with other test rows, once for each perturbation."""
    for name in names:
        rows = perturb(data.splits["test"], name, seed=seed)
        fingerprints = {**data.fingerprints, "test": rows.fingerprint}
        yield name, replace(data, splits={**data.splits, "test": rows}, fingerprints=fingerprints)


def compared(variant: Variant, variants: Sequence[Variant]) -> list[tuple[Role, Variant]]:
    """What a variant is held against: the baseline teacher, the step before in its own runtime, else in torch, and
    itself in the first runtime.

    One comparison where some are the same, none for the baseline.
    """
    baseline = variants[0]
    if variant is baseline:
        return []
    found = {(other.point.name, other.runtime.name): other for other in variants}
    steps = [(parent, name) for parent in variant.point.parents for name in (variant.runtime.name, BASELINE_RUNTIME)]
    before = next((found[step] for step in steps if step in found), baseline)
    first = next(other for other in variants if other.point.name == variant.point.name)
    pairs: dict[str, tuple[Role, Variant]] = {baseline.name: ("teacher", baseline)}
    pairs.setdefault(before.name, ("before", before))
    if first is not variant:
        pairs.setdefault(first.name, ("runtime", first))
    return list(pairs.values())
