"""The steps that make models: teachers, their signals, whoever learns from them.

Nothing but the key's parts reaches a `build`, but for what changes no result (progress bars, trackers).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc.distill.settings import DistillConfig, TrainConfig
from kdc.distill.terms.base import Term
from kdc.errors import KdcError
from kdc.models.spec import ModelConfig, StudentConfig, TeacherConfig
from kdc.stages.base import MODEL, Data, Step, World, made, note, packages, sha256
from kdc.store import Published
from kdc.tasks.base import Task

if TYPE_CHECKING:
    from kdc.distill.signals import Source
    from kdc.models.build import Built
    from kdc.models.taps import Outline

PEERS = "peers"
Models = Mapping[str, "Built"]
"""Models by the folder of a stage that they go to."""
Wanted = Mapping[str, Sequence[int]]
NOT_IN_KEY = {"name", "checkpoint_seconds", "trackers"}
"""Settings of training that change no weight."""


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

    def model(scratch: Path) -> tuple[Models, dict[str, Any] | None]:
        from kdc.distill.terms.logits import HardLabels
        from kdc.models.build import build_model

        _seed(seed)
        built = build_model(config, "teacher", _needs(data))
        if built.new_head and not trains:
            raise KdcError("teacher.path: the files lack the weights of the head", "train one: teacher.train=always")
        if not trains:
            return {MODEL: built}, None
        lesson = _Lesson(data, {"hard": HardLabels(name="hard")})
        return {MODEL: built}, lesson.teach(built, settings, seed, scratch, world, "teacher")

    return _model_step("teacher", config, parts, model, trains=trains)


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


def signals_step(teacher: Published, wanted: Wanted, data: Data, world: World, *, top_k: int | None = None) -> Step:
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

    return Step("signals", parts, build, version=2)


@dataclass(frozen=True)
class Taught:
    """A teacher as its student sees it; `signals` are its answers where they were cached, else it is asked anew."""

    name: str
    model: Published
    signals: Published | None = None


@dataclass(frozen=True)
class Pupil:
    """Who learns: its model, from what it starts, and what it is told.

    `origin` is the model whose layers or tokenizer it takes; `fresh` draws its weights anew, whatever it starts from.
    `peers` learn along with it, and take the place of teachers.
    """

    role: str
    config: StudentConfig
    origin: Published
    terms: Mapping[str, Term]
    train: TrainConfig
    seed: int
    teachers: Sequence[Taught] = ()
    wanted: Wanted | None = None
    outlines: tuple[Outline, Outline] | None = None
    fresh: bool = False
    peers: Mapping[str, StudentConfig] = field(default_factory=dict)


def peer_step(cohort: Published, name: str, config: StudentConfig, origin: Published) -> Step:
    """One of those that learned with a student, as a model of its own."""

    def build(folder: Path, scratch: Path) -> None:
        shutil.copytree(cohort.path / PEERS / name, folder / MODEL)

    return Step("peer", {"cohort": cohort.key, "name": name, "origin": origin.key}, build, model=config)


def student_step(pupil: Pupil, distill: DistillConfig, data: Data, world: World) -> Step:
    """A student, trained on its terms: a folder with `model/`."""
    config = pupil.config
    settings = pupil.train.at_rate_for(from_scratch=config.from_scratch or pupil.fresh)
    identity, _ = checkpoint_identity(config, "student", data.task)
    parts = {
        "model": config.model_dump(mode="json", exclude={"name", "path"}),
        "checkpoint": identity,
        "origin": pupil.origin.key,
        "fresh": pupil.fresh,
        "peers": {name: peer.model_dump(mode="json") for name, peer in pupil.peers.items()},
        "teachers": {
            taught.name: {"model": taught.model.key, "signals": taught.signals.key if taught.signals else None}
            for taught in pupil.teachers
        },
        "wanted": {signal: list(layers) for signal, layers in (pupil.wanted or {}).items()},
        "combine": _combination(pupil, distill),
        "terms": [term.model_dump(mode="json") for term in pupil.terms.values()],
        "audit": distill.audit,
        "data": data.shape,
        "training": _training_parts(settings, data, pupil.seed),
        "packages": packages("torch", "transformers", "tokenizers"),
    }

    def model(scratch: Path) -> tuple[Models, dict[str, Any]]:
        from kdc.models.build import build_model, load_model, redrawn

        _seed(pupil.seed)
        origin = load_model(pupil.origin.path / MODEL, data.task)
        built = build_model(config, "student", _needs(data), teacher=origin)
        if pupil.fresh:
            built = redrawn(built)
        for line in built.notes:
            world.screen.say(line)
        peers = {name: build_model(peer, "student", _needs(data), teacher=origin) for name, peer in pupil.peers.items()}
        source = _source(pupil, distill, data)
        lesson = _Lesson(data, pupil.terms, source, pupil.outlines, tuple(distill.audit), peers)
        record = lesson.teach(built, settings, pupil.seed, scratch, world, pupil.role)
        return {MODEL: built, **{f"{PEERS}/{name}": peer for name, peer in peers.items()}}, record

    return _model_step("student", config, parts, model, trains=True)


@dataclass(frozen=True)
class _Lesson:
    """What is taught, before the training loop and torch are there."""

    data: Data
    terms: Mapping[str, Term]
    source: Source | None = None
    outlines: tuple[Outline, Outline] | None = None
    audit_at: tuple[float, ...] = ()
    peers: Mapping[str, Built] = field(default_factory=dict)

    def teach(
        self, built: Built, settings: TrainConfig, seed: int, scratch: Path, world: World, title: str
    ) -> dict[str, Any]:
        from kdc.distill.trainer import Lesson, train

        splits = self.data.splits
        lesson = Lesson(
            self.data.task, self.data.lesson, splits["validation"], self.data.metric,
            self.source, self.outlines, self.peers,
        )  # fmt: skip
        with world.screen.bar(f"train the {title}") as advance:
            record = train(
                built, lesson, self.terms, settings,
                seed=seed, scratch=scratch, progress=advance, audit_at=self.audit_at,
            )  # fmt: skip
        return record.model_dump(mode="json")


def _model_step(
    name: str,
    config: ModelConfig,
    parts: Mapping[str, Any],
    models: Callable[[Path], tuple[Models, Any]],
    *,
    trains: bool,
) -> Step:
    """A step that saves what `models` makes; where it trains, the other processes of the run make it along."""

    def build(folder: Path, scratch: Path) -> None:
        from kdc.distill.audit import warnings
        from kdc.models.build import save_model

        found, record = models(scratch)
        for place, built in found.items():
            save_model(built, made(folder / place))
        told = warnings(record.get("audit", [])) if record else []
        note(folder, train=record, notes=[*found[MODEL].notes, *told])

    def join(scratch: Path) -> None:
        models(scratch)

    return Step(name, parts, build, version=2, join=join if trains else None, model=config)


def _source(pupil: Pupil, distill: DistillConfig, data: Data) -> Source | None:
    """Whatever the pupil's teachers say, as one."""
    if not pupil.teachers:
        return None
    from kdc.distill.ensemble import Ensemble
    from kdc.distill.signals import CachedSignals, OnlineSignals
    from kdc.models.build import load_model

    assert pupil.wanted is not None
    rows = data.lesson
    sources: dict[str, Source] = {}
    for taught in pupil.teachers:
        if taught.signals is not None:
            sources[taught.name] = CachedSignals(taught.signals.path, rows)
        else:
            teacher = load_model(taught.model.path / MODEL, data.task)
            sources[taught.name] = OnlineSignals(teacher, teacher.encoder.encode(rows), pupil.wanted)
    if len(sources) == 1:
        return next(iter(sources.values()))
    return Ensemble(sources, combine=distill.combine, weights=distill.teacher_weights)


def _combination(pupil: Pupil, distill: DistillConfig) -> dict[str, Any] | None:
    if len(pupil.teachers) < 2:
        return None
    return {"how": distill.combine, "weights": distill.teacher_weights}


def _training_parts(settings: TrainConfig, data: Data, seed: int) -> dict[str, Any]:
    from kdc.distill.trainer import precision_used
    from kdc.distributed import world_size

    return {
        "settings": settings.model_dump(mode="json", exclude=NOT_IN_KEY),
        "precision": precision_used(settings),
        "processes": world_size(),
        "train": data.transfer.key if data.transfer is not None else data.fingerprints["train"],
        "validation": data.fingerprints["validation"],
        "metric": data.metric,
        "seed": seed,
        "accelerate": version("accelerate"),
    }


def _needs(data: Data) -> Any:
    from kdc.models.build import Needs

    return Needs(data.task, data.splits["train"], data.max_length, data.image_size)


def _seed(seed: int) -> None:
    from transformers import set_seed

    set_seed(seed)
