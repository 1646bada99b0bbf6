"""What the steps that train have in common: the lesson, what of a training goes into a key, and how models are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc.distill.settings import TrainConfig
from kdc.distill.terms.base import Term
from kdc.models.spec import ModelConfig
from kdc.stages.base import MODEL, Data, Step, World, made, note, sha256
from kdc.tasks.base import Task

if TYPE_CHECKING:
    from kdc.distill.signals import Source
    from kdc.models.build import Built
    from kdc.models.taps import Outline

Models = Mapping[str, "Built"]
"""Models by the folder of a stage that they go to."""
NOT_IN_KEY = {"name", "checkpoint_seconds", "trackers"}
"""Settings of training that change no weight."""


@dataclass(frozen=True)
class Teaching:
    """What is taught, before the training loop and torch are there."""

    data: Data
    terms: Mapping[str, Term]
    source: Source | None = None
    outlines: tuple[Outline, Outline] | None = None
    audit_at: tuple[float, ...] = ()
    peers: Mapping[str, Built] = field(default_factory=dict)
    keeps_zeros: bool = False

    def teach(
        self, built: Built, settings: TrainConfig, seed: int, scratch: Path, world: World, title: str
    ) -> dict[str, Any]:
        from kdc.distill.loop import Lesson
        from kdc.distill.trackers import reporting
        from kdc.distill.trainer import train

        splits = self.data.splits
        lesson = Lesson(
            self.data.task, self.data.lesson, splits["validation"], self.data.metric,
            self.source, self.outlines, self.peers, name=title,
        )  # fmt: skip
        tracking = world.tracking or scratch / "tracking"
        with reporting(settings.trackers, tracking, title), world.screen.bar(f"train the {title}") as advance:
            record = train(
                built, lesson, self.terms, settings,
                seed=seed, scratch=scratch, progress=advance, audit_at=self.audit_at, keeps_zeros=self.keeps_zeros,
            )  # fmt: skip
        return record.model_dump(mode="json")


def model_step(
    name: str,
    config: ModelConfig | None,
    parts: Mapping[str, Any],
    models: Callable[[Path], tuple[Models, Any]],
    *,
    trains: bool,
) -> Step:
    """A step that saves what `models` makes; where it trains, the other processes of the run make it along."""

    def build(folder: Path, scratch: Path) -> None:
        from kdc.models.build import save_model

        found, record = models(scratch)
        for place, built in found.items():
            save_model(built, made(folder / place))
        note(folder, train=record, notes=found[MODEL].notes)

    def join(scratch: Path) -> None:
        models(scratch)

    return Step(name, parts, build, version=2, join=join if trains else None, model=config)


def training_parts(settings: TrainConfig, data: Data, seed: int) -> dict[str, Any]:
    from kdc.distill.loop import precision_used
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
