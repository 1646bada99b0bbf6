"""The steps of teachers: the model, and what it says about the rows that students learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdc.distill.settings import TrainConfig
from kdc.errors import KdcError
from kdc.models.spec import TeacherConfig
from kdc.stages.base import MODEL, Data, Step, World, packages
from kdc.stages.training import (
    Models,
    Teaching,
    checkpoint_identity,
    model_step,
    training_parts,
)
from kdc.store import Published


def teacher_step(config: TeacherConfig, data: Data, train: TrainConfig, seed: int, world: World) -> Step:
    """The teacher, fine-tuned where its head is new: a folder with `model/`."""
    identity, has_head = checkpoint_identity(config, "teacher", data.task)
    trains = config.train == "always" or (config.train == "auto" and not has_head)
    if not trains and not has_head:
        raise KdcError("teacher.train=never: the checkpoint has no head for this task", "use teacher.train=auto")
    own = {key: getattr(config, key) for key in ("epochs", "batch_size", "learning_rate")}
    settings = train.model_copy(update={key: value for key, value in own.items() if value is not None})
    settings = settings.at_rate_for(from_scratch=config.from_scratch)
    parts: dict[str, Any] = {
        "model": config.model_dump(mode="json", exclude={"name", "path", "epochs", "batch_size", "learning_rate"}),
        "checkpoint": identity,
        "data": data.shape,
        "packages": packages("torch", "transformers", "tokenizers"),
    }
    if trains:
        parts["training"] = training_parts(settings, data, seed)

    def model(scratch: Path) -> tuple[Models, dict[str, Any] | None]:
        from transformers import set_seed

        from kdc.distill.terms.logits import HardLabels
        from kdc.models.build import build_model

        set_seed(seed)
        built = build_model(config, "teacher", data.needs)
        if built.new_head and not trains:
            raise KdcError("teacher.path: the files lack the weights of the head", "train one: teacher.train=always")
        if not trains:
            return {MODEL: built}, None
        lesson = Teaching(data, {"hard": HardLabels(name="hard")})
        return {MODEL: built}, lesson.teach(built, settings, seed, scratch, world, "teacher")

    return model_step("teacher", config, parts, model, trains=trains)


def signals_step(
    teacher: Published, wanted: Mapping[str, Sequence[int]], data: Data, world: World, *, top_k: int | None = None
) -> Step:
    """What the teacher says about every training row, found again by the rows' content."""
    from kdc.distill.signals import content_key

    rows = data.lesson
    parts = {
        "teacher": teacher.key,
        "rows": content_key(rows),
        "wanted": {signal: list(layers) for signal, layers in wanted.items()},
        "top_k": top_k,
        "packages": packages("torch", "transformers", "tokenizers"),
    }

    def build(folder: Path, scratch: Path) -> None:
        from kdc.distill.signals import compute_signals
        from kdc.models.build import load_model

        built = load_model(teacher.path / MODEL, data.task)
        done = 0
        with world.screen.bar(f"teacher {', '.join(wanted)}", "rows") as advance:

            def advanced(count: int) -> None:
                nonlocal done
                done += count
                advance(done, len(rows), "")

            compute_signals(built, rows, folder, wanted, advance=advanced, top_k=top_k)

    return Step("signals", parts, build, version=3)
