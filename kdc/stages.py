"""The cacheable steps of a run. A step knows its key from its inputs' keys before any of it is computed.

Each function below makes one `Step` from exactly what goes into the step's key, and nothing else reaches its `build`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from kdc.compress.base import Pass
from kdc.compress.plan import PrecisionPlan
from kdc.data.config import DatasetConfig
from kdc.data.examples import Splits
from kdc.data.load import DataReport, data_identity, load_splits
from kdc.distill.settings import TrainConfig
from kdc.distill.terms.base import Term
from kdc.errors import KdcError
from kdc.export.base import Runtime
from kdc.manifest import stage_key
from kdc.measure import machine_lock
from kdc.models.spec import ModelConfig, StudentConfig, TeacherConfig
from kdc.screen import Screen
from kdc.store import Published, Store
from kdc.tasks.base import TASKS, Task

MODEL, ARTIFACT, SUMMARY, OUTPUTS = "model", "artifact", "stage.json", "outputs.npz"


@dataclass(frozen=True)
class Step:
    """One stage: its name, what its key is made of, and how its files come about."""

    name: str
    parts: Mapping[str, Any]
    build: Callable[[Path, Path], None]
    version: int = 1
    title: str = ""


@dataclass(frozen=True)
class World:
    """What every step shares and none depends on: where things are kept and shown."""

    store: Store
    screen: Screen
    plugins: Sequence[str] = ()

    def run(self, step: Step) -> Published:
        return self.store.stage(step.name, self._parts(step), step.build, version=step.version, notify=self.screen.say)

    def look(self, step: Step) -> Published:
        """The stage if the store has it, else what it will be: its key, and no files yet. Writes nothing."""
        parts = self._parts(step)
        if (found := self.store.peek(step.name, parts, version=step.version)) is not None:
            return found
        key = stage_key(step.name, step.version, parts)
        return Published(step.name, key, Path(), cached=False, seconds=0.0, built_seconds=0.0)

    def _parts(self, step: Step) -> Mapping[str, Any]:
        """What plugins hold may have a part in any step, so a change in them makes all steps new."""
        return {**step.parts, "plugins": plugin_hashes(self.plugins)} if self.plugins else step.parts


@dataclass(frozen=True)
class Data:
    """The splits with all that models need to know of them."""

    task: Task
    splits: Splits
    metric: str
    max_length: int
    image_size: int | None
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.splits["train"].labels

    @property
    def shape(self) -> dict[str, Any]:
        """The part of a key that every model depends on."""
        return {
            "task": self.task.name,
            "labels": list(self.labels),
            "max_length": self.max_length,
            "image_size": self.image_size,
        }


def packages(*names: str) -> dict[str, str]:
    return {name: version(name) for name in names}


def plugin_hashes(modules: Sequence[str]) -> dict[str, str]:
    """Content hashes of the files of these modules; of a package, of all its sources."""
    hashes: dict[str, str] = {}
    for module in modules:
        spec = find_spec(module)
        origin = Path(spec.origin) if spec and spec.origin else None
        if origin is None:
            continue
        files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
        hashes |= {f"{module}/{file.relative_to(origin.parent).as_posix()}": _sha256(file) for file in files}
    return hashes


def summary(published: Published) -> dict[str, Any]:
    """What a step noted beside its files."""
    return json.loads((published.path / SUMMARY).read_text(encoding="utf-8"))


def _note(folder: Path, **content: Any) -> None:
    (folder / SUMMARY).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# Data


def data_step(config: DatasetConfig, data_dir: Path | None, seed: int) -> Step | None:
    """The splits in the store; None where their source cannot be identified without reading it."""
    from kdc.data.saved import save_splits

    identity = data_identity(config, data_dir)
    if identity is None:
        return None

    def build(folder: Path, scratch: Path) -> None:
        splits, report = load_splits(config, data_dir=data_dir, seed=seed)
        save_splits(splits, folder)
        _note(folder, report=asdict(report))

    return Step("data", {"dataset": config, "source": identity, "seed": seed}, build)


def read_data(published: Published) -> tuple[Splits, DataReport]:
    from kdc.data.saved import read_splits

    return read_splits(published.path), DataReport(**summary(published)["report"])


def described(config: DatasetConfig, splits: Splits) -> Data:
    """The splits with what models need to know of them; refuses those that the task cannot learn from."""
    task = TASKS[config.task]()
    task.check(splits)
    metric = config.metric or next(iter(task.metrics))
    fingerprints = {split: examples.fingerprint for split, examples in splits.items()}
    return Data(task, splits, metric, config.max_length, config.image_size, fingerprints)


# Teacher


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
        record = None
        if trains:
            terms: dict[str, Term] = {"hard": HardLabels(name="hard")}
            record = _train(built, data, terms, settings, seed, scratch, world, "teacher")
        save_model(built, _made(folder / MODEL))
        _note(folder, train=record, notes=built.notes)

    return Step("teacher", parts, build, title="fine-tune the teacher" if trains else "take the teacher as it is")


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
        identity = {file.name: _sha256(file) for file in files}
    return identity, bool(checkpoint_labels(folder, task))


# Signals and student


def signals_step(teacher: Published, data: Data, world: World) -> Step:
    """The teacher's logits on every training row, found again by content."""
    from kdc.distill.signals import content_key

    train = data.splits["train"]
    parts = {
        "teacher": teacher.key,
        "rows": content_key(train),
        "signal": "logits",
        "packages": packages("torch", "transformers", "tokenizers"),
    }

    def build(folder: Path, scratch: Path) -> None:
        from kdc.distill.signals import compute_logits
        from kdc.models.build import load_model

        built = load_model(teacher.path / MODEL, data.task)
        done = 0
        with machine_lock.training(world.screen.say), world.screen.bar("teacher logits", "rows") as advance:

            def advanced(rows: int) -> None:
                nonlocal done
                done += rows
                advance(done, len(train), "")

            compute_logits(built, data.task, train, folder, advance=advanced)

    return Step("signals", parts, build, title="cache the teacher's logits")


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
        from kdc.distill.signals import read_logits
        from kdc.models.build import build_model, load_model, save_model

        _seed(seed)
        built = build_model(config, "student", _needs(data), teacher=load_model(teacher.path / MODEL, data.task))
        for note in built.notes:
            world.screen.say(note)
        logits = read_logits(signals.path, data.splits["train"]) if signals else None
        record = _train(built, data, terms, settings, seed, scratch, world, "student", logits)
        save_model(built, _made(folder / MODEL))
        _note(folder, train=record, notes=built.notes)

    return Step("student", parts, build, title="distill the student")


# Compression, export, predictions


def pass_step(step: Pass, before: Published, plan: PrecisionPlan, data: Data) -> Step:
    """A pass that changes weights: the model after it, as a folder with `model/`."""

    def build(folder: Path, scratch: Path) -> None:
        from dataclasses import replace

        from kdc.models.build import load_model, save_model

        built = load_model(before.path / MODEL, data.task)
        model, _ = step.apply(built.model, plan)
        save_model(replace(built, model=model), _made(folder / MODEL))
        _note(folder, train=None, notes=[])

    return Step(step.name, {"pass": step, "before": before.key, "plan": plan, "data": data.shape}, build)


def export_step(
    runtime: Runtime, model: Published, passes: Sequence[Pass], data: Data, label: str, world: World
) -> Step:
    """One variant's artifact, lowered, loaded again and held against the model: a folder with `artifact/`.

    `passes` are those that only plan precision; they are applied to the loaded model here.
    """
    parts = {
        "runtime": runtime,
        "model": model.key,
        "passes": [step.model_dump(mode="json") for step in passes],
        "data": data.shape,
        "checked_on": data.fingerprints["validation"],
        "packages": packages(*runtime.packages),
    }

    def build(folder: Path, scratch: Path) -> None:
        from kdc.export.verified import export_verified
        from kdc.models.build import load_model

        built = load_model(model.path / MODEL, data.task)
        plan = PrecisionPlan()
        for step in passes:
            _, plan = step.apply(built.model, plan)
        seen = export_verified(
            built, plan, runtime, data.task, data.splits["validation"], _made(folder / ARTIFACT), world.plugins
        )
        _note(folder, **seen)

    return Step("export", parts, build, title=f"export {label}")


def predictions_step(artifact: Published, data: Data, split: str, label: str) -> Step:
    """The artifact's own outputs on a split: `outputs.npz`."""

    def build(folder: Path, scratch: Path) -> None:
        from kdc.export.artifact import Artifact

        outputs = Artifact.open(artifact.path / ARTIFACT).session().predict(data.splits[split])
        np.savez(folder / OUTPUTS, allow_pickle=False, **outputs)

    parts = {"artifact": artifact.key, "rows": data.fingerprints[split]}
    return Step("predictions", parts, build, title=f"predict with {label}")


def read_outputs(predictions: Published) -> dict[str, np.ndarray]:
    with np.load(predictions.path / OUTPUTS) as outputs:
        return dict(outputs)


# Shared


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
    logits: np.ndarray | None = None,
) -> dict[str, Any]:
    from kdc.distill.trainer import Lesson, train

    lesson = Lesson(data.task, data.splits["train"], data.splits["validation"], data.metric, logits)
    with machine_lock.training(world.screen.say), world.screen.bar(f"train the {title}") as advance:
        record = train(built, lesson, terms, settings, seed=seed, scratch=scratch, progress=advance)
    return record.model_dump(mode="json")


def _needs(data: Data) -> Any:
    from kdc.models.build import Needs

    return Needs(data.task, data.splits["train"], data.max_length, data.image_size)


def _seed(seed: int) -> None:
    from transformers import set_seed

    set_seed(seed)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
