"""The step of a recovery: what a pass left of a model goes on learning from the teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdc.distill.settings import DistillConfig
from kdc.stages.artifacts import read_plan
from kdc.stages.base import MODEL, Data, Step, World
from kdc.stages.students import Pupil, lesson_parts, teachers_answers
from kdc.stages.training import Models, Teaching, model_step
from kdc.store import Published


def recovery_step(pupil: Pupil, plan: Published | None, distill: DistillConfig, data: Data, world: World) -> Step:
    """The pupil's `origin`, trained as the pupil is told to, its zeros and shapes kept: a folder with `model/`.

    With a `plan` it learns while it computes in the precision that is planned.
    """
    settings = pupil.train.at_rate_for(from_scratch=False)
    parts = {
        "start": pupil.origin.key,
        "plan": plan.key if plan else None,
        **lesson_parts(pupil, settings, distill, data),
    }

    def model(scratch: Path) -> tuple[Models, dict[str, Any]]:
        from transformers import set_seed

        from kdc.compress.simulate import simulated
        from kdc.models.build import load_model

        set_seed(pupil.seed)
        built = load_model(pupil.origin.path / MODEL, data.task)
        source = teachers_answers(pupil, distill, data)
        lesson = Teaching(data, pupil.terms, source, pupil.outlines, tuple(distill.audit), keeps_zeros=True)
        with simulated(built.model, read_plan(plan)):
            return {MODEL: built}, lesson.teach(built, settings, pupil.seed, scratch, world, pupil.role)

    return model_step("recovery", None, parts, model, trains=True)
