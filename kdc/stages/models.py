"""The steps that make models: teacher, its signals, student. Nothing but the key's parts reaches a `build`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kdc.distill.settings import TrainConfig
from kdc.distill.terms.base import Term, teacher_signals
from kdc.errors import KdcError
from kdc.export.base import Arrays
from kdc.models.spec import ModelConfig, StudentConfig, TeacherConfig
from kdc.stages.base import MODEL, Data, Step, World, made, note, packages, sha256
from kdc.store import Published
from kdc.tasks.base import Task


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
        parts["training"] = _training_parts(settings, data, seed)

    def build(folder: Path, scratch: Path) -> None:
        from kdc.distill.terms.logits import HardLabels
        from kdc.models.build import build_model, save_model

        _seed(seed)
        built = build_model(config, "teacher", _needs(data))
        if built.new_head and not trains:
            raise KdcError("teacher.path: the files lack the weights of the head", "train one: teacher.train=always")
        record = None
        if trains:
            terms: dict[str, Term] = {"hard": HardLabels(name="hard")}
            record = _train(built, data, terms, settings, seed, scratch, world, "teacher")
        save_model(built, made(folder / MODEL))
        note(folder, train=record, notes=built.notes)

    return Step("teacher", parts, build)


def checkpoint_identity(config: ModelConfig, role: str, task: Task) -> tuple[Any, bool]:
    """What identifies the weights a model starts from, and whether they have a head for this task."""
    if config.path is None:
        return None, False
    from kdc.hub import NEEDED, model_folder
    from kdc.models.build import checkpoint_labels

    folder, commit = model_folder(config.path, config.revision, f"{role}.path")
    identity: Any = {"hub": config.path, "commit": commit}
    if commit is None:
        files = sorted({file for pattern in NEEDED for file in folder.glob(pattern)})
        identity = {file.name: sha256(file) for file in files}
    return identity, bool(checkpoint_labels(folder, task))


def signals_step(teacher: Published, terms: Mapping[str, Term], data: Data, world: World) -> Step:
    """What the terms need to know of the teacher on every training row, found again by content."""
    from kdc.distill.signals import content_key

    train, names = data.splits["train"], teacher_signals(terms.values())
    parts = {
        "teacher": teacher.key,
        "rows": content_key(train),
        "signals": names,
        "packages": packages("torch", "transformers", "tokenizers"),
    }

    def build(folder: Path, scratch: Path) -> None:
        from kdc.distill.signals import compute_signals
        from kdc.models.build import load_model

        built = load_model(teacher.path / MODEL, data.task)
        done = 0
        with world.screen.bar(f"teacher {', '.join(names)}", "rows") as advance:

            def advanced(rows: int) -> None:
                nonlocal done
                done += rows
                advance(done, len(train), "")

            compute_signals(built, data.task, train, folder, names, advance=advanced)

    return Step("signals", parts, build)


def student_step(
    config: StudentConfig,
    teacher: Published,
    signals: Published | None,
    data: Data,
    terms: Mapping[str, Term],
    train: TrainConfig,
    seed: int,
    world: World,
) -> Step:
    """The student, trained on the terms: a folder with `model/`."""
    settings = train.at_rate_for(from_scratch=config.from_scratch)
    identity, _ = checkpoint_identity(config, "student", data.task)
    parts = {
        "model": config.model_dump(mode="json", exclude={"name", "path"}),
        "checkpoint": identity,
        "teacher": teacher.key,
        "signals": signals.key if signals else None,
        "terms": [term.model_dump(mode="json") for term in terms.values()],
        "data": data.shape,
        "training": _training_parts(settings, data, seed),
        "packages": packages("torch", "transformers", "tokenizers"),
    }

    def build(folder: Path, scratch: Path) -> None:
        from kdc.distill.signals import read_signals
        from kdc.models.build import build_model, load_model, save_model

        _seed(seed)
        built = build_model(config, "student", _needs(data), teacher=load_model(teacher.path / MODEL, data.task))
        for line in built.notes:
            world.screen.say(line)
        said = read_signals(signals.path, data.splits["train"]) if signals else {}
        record = _train(built, data, terms, settings, seed, scratch, world, "student", said)
        save_model(built, made(folder / MODEL))
        note(folder, train=record, notes=built.notes)

    return Step("student", parts, build)


def _training_parts(settings: TrainConfig, data: Data, seed: int) -> dict[str, Any]:
    from kdc.distill.trainer import precision_used

    return {
        "settings": settings.model_dump(mode="json", exclude={"name", "checkpoint_seconds"}),
        "precision": precision_used(settings),
        "train": data.fingerprints["train"],
        "validation": data.fingerprints["validation"],
        "metric": data.metric,
        "seed": seed,
        "accelerate": version("accelerate"),
    }


def _train(
    built: Any,
    data: Data,
    terms: Mapping[str, Term],
    settings: TrainConfig,
    seed: int,
    scratch: Path,
    world: World,
    title: str,
    signals: Arrays | None = None,
) -> dict[str, Any]:
    from kdc.distill.trainer import Lesson, train

    lesson = Lesson(data.task, data.splits["train"], data.splits["validation"], data.metric, signals or {})
    with world.screen.bar(f"train the {title}") as advance:
        record = train(built, lesson, terms, settings, seed=seed, scratch=scratch, progress=advance)
    return record.model_dump(mode="json")


def _needs(data: Data) -> Any:
    from kdc.models.build import Needs

    return Needs(data.task, data.splits["train"], data.max_length, data.image_size)


def _seed(seed: int) -> None:
    from transformers import set_seed

    set_seed(seed)
