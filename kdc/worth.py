"""What the teacher was worth: the student and its controls from every seed, exported, and measured as what ships is."""

from __future__ import annotations

from collections.abc import Sequence

from kdc import stages, walk
from kdc.arrangement import HARD, SCRATCH, STUDENT, Arm, Enter
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
    """Fill in the student's replicates and the controls."""
    exported = walk.replicates(arms, variants, data, world, enter)
    scored = {name: [_scores(variant, data, enter) for variant in own] for name, own in exported.items()}
    for arm in arms:
        replicates = [
            Replicate(seed=seed, metrics=dict(own.values), key=model.key)
            for (seed, model), own in zip(arm.models, scored[arm.name], strict=True)
        ]
        if arm.name == STUDENT:
            shown = next(variant for variant in variants if variant.point.name == STUDENT)
            record.variant(shown.name).replicates = replicates
            continue
        record.controls.append(
            Control(
                name=arm.name,
                description=ABOUT[arm.name],
                parameters=Count(**stages.summary(exported[arm.name][0].artifact)["parameters"]),
                replicates=replicates,
                gains={
                    metric: gain(data.task, metric, scored[STUDENT], scored[arm.name])
                    for metric in data.task.metrics
                    if metric in scored[STUDENT][0].values
                },
            )
        )


def _scores(variant: Variant, data: Data, enter: Enter) -> Scores:
    outputs = stages.read_outputs(walk.predictions(variant, data, enter))
    return score_rows(data.task, outputs, data.splits["test"])
