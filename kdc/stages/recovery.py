"""The step of a recovery: what a pass left of a model goes on learning from the teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdc.distill.settings import DistillConfig
from kdc.stages.base import MODEL, Data, Step, World
from kdc.stages.students import Pupil, lesson_parts, teachers_answers
from kdc.stages.training import Models, Teaching, model_step


def recovery_step(pupil: Pupil, distill: DistillConfig, data: Data, world: World) -> Step:
    """The pupil's `origin`, trained as the pupil is told to, its zeros and shapes kept: a folder with `model/`."""
    settings = pupil.train.at_rate_for(from_scratch=False)
    parts = {"start": pupil.origin.key, **lesson_parts(pupil, settings, distill, data)}

    def model(scratch: Path) -> tuple[Models, dict[str, Any]]:
        from transformers import set_seed

        from kdc.models.build import load_model

        set_seed(pupil.seed)
        built = load_model(pupil.origin.path / MODEL, data.task)
        source = teachers_answers(pupil, distill, data)
        lesson = Teaching(data, pupil.terms, source, pupil.outlines, tuple(distill.audit), keeps_zeros=True)
        return {MODEL: built}, lesson.teach(built, settings, pupil.seed, scratch, world, pupil.role)

    return model_step("recovery", None, parts, model, trains=True)
