"""What the teacher was worth: the student and its controls from every seed, exported, and measured as what ships is."""

from __future__ import annotations

from collections.abc import Sequence

from kdc import stages, walk
from kdc.arrangement import HARD, SCRATCH, STUDENT, Arm, Enter, Point
from kdc.export.base import Runtime
from kdc.measure.gain import gain
from kdc.measure.scores import Scores, score_rows
from kdc.record import Control, Count, Replicate, RunRecord
from kdc.stages import Data, World
from kdc.walk import Variant

ABOUT = {
    HARD: "the student's initialization, trained on the labels alone for as many steps",
    SCRATCH: "weights drawn anew, so nothing of the teacher, trained on the labels alone for as many steps",
}


def measure_worth(
    record: RunRecord, arms: Sequence[Arm], variants: Sequence[Variant], data: Data, world: World, enter: Enter
) -> None:
    """Fill in the student's replicates and the controls, all in the runtime of the first variant of the student."""
    if not arms:
        return
    shown = next(variant for variant in variants if variant.point.name == STUDENT)
    scored = {arm.name: _scores(arm, shown.runtime, data, world, enter) for arm in arms}
    keys = {arm.name: [published.key for _, published in arm.replicates] for arm in arms}
    for arm in arms:
        replicates = [
            Replicate(seed=seed, metrics=dict(own.values), key=key)
            for (seed, _), (own, _), key in zip(arm.replicates, scored[arm.name], keys[arm.name], strict=True)
        ]
        if arm.name == STUDENT:
            record.variant(shown.name).replicates = replicates
            continue
        student, control = ([own for own, _ in scored[name]] for name in (STUDENT, arm.name))
        record.controls.append(
            Control(
                name=arm.name,
                description=ABOUT[arm.name],
                parameters=scored[arm.name][0][1],
                replicates=replicates,
                gains={metric: gain(data.task, metric, student, control) for metric in student[0].values},
            )
        )


def _scores(arm: Arm, runtime: Runtime, data: Data, world: World, enter: Enter) -> list[tuple[Scores, Count]]:
    """Of every replicate on the test rows, and how many parameters it has."""
    found = []
    for seed, published in arm.replicates:
        variant = walk.export(Point(f"{arm.name}, seed {seed}", published), runtime, data, world, enter)
        outputs = stages.read_outputs(walk.predictions(variant, data, enter))
        parameters = Count(**stages.summary(variant.artifact)["parameters"])
        found.append((score_rows(data.task, outputs, data.splits["test"]), parameters))
    return found
