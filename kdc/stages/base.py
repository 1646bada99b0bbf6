"""What a cacheable step of a run is, and what all of them share.

A step knows its key from its inputs' keys before any of it is computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdc import distributed
from kdc.data.examples import Examples, Splits
from kdc.errors import KdcError
from kdc.manifest import stage_key
from kdc.measure import machine_lock
from kdc.models.settings import Needs
from kdc.models.spec import ModelConfig
from kdc.screen import Screen
from kdc.store import Published, Store
from kdc.tasks.base import Task

MODEL, ARTIFACT, SUMMARY, PLAN, OUTPUTS = "model", "artifact", "stage.json", "plan.json", "outputs.npz"


@dataclass(frozen=True)
class Step:
    """One stage: its name, what its key is made of, and how its files come about.

    `build(folder, scratch)` writes the files. Where several processes train together, `join(scratch)` is the part that
    the others have in it; a step without one is rank 0's alone. `model` is what its model is made from, if it makes
    one.
    """

    name: str
    parts: Mapping[str, Any]
    build: Callable[[Path, Path], None]
    version: int = 1
    join: Callable[[Path], None] | None = None
    model: ModelConfig | None = None


@dataclass(frozen=True)
class World:
    """What every step shares and none depends on: where things are kept and shown."""

    store: Store
    screen: Screen
    plugins: Sequence[str] = ()
    tracking: Path | None = None
    """Where trackers write; a training of no run tracks into its scratch."""

    def run(self, step: Step) -> Published:
        """Build the step unless the store has it. Building shares the machine: nothing is timed meanwhile.

        Of several processes rank 0 alone uses the store; it tells the others whether to join in, and what came of it.
        """
        if distributed.rank() > 0:
            return self._follow(step)

        def build(folder: Path, scratch: Path) -> None:
            with machine_lock.training(self.screen.say):
                if step.join is not None:
                    distributed.broadcast(scratch)
                step.build(folder, scratch)

        published = self.store.stage(step.name, self._parts(step), build, version=step.version, notify=self.screen.say)
        distributed.broadcast(published)
        return published

    def _follow(self, step: Step) -> Published:
        told = distributed.broadcast()
        if isinstance(told, Path):
            assert step.join is not None
            step.join(told)
            told = distributed.broadcast()
        published: Published = told
        return published

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
class Transfer:
    """Rows that students learn from in the place of train, some or all without a label; None: not made yet."""

    key: str
    rows: Examples | None


@dataclass(frozen=True)
class Data:
    """The splits with all that models need to know of them."""

    task: Task
    splits: Splits
    metric: str
    max_length: int
    image_size: int | None
    transfer: Transfer | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.splits["train"].labels

    @property
    def lesson(self) -> Examples:
        """The rows that students learn from."""
        return self.transfer.rows if self.transfer is not None and self.transfer.rows else self.splits["train"]

    @property
    def needs(self) -> Needs:
        return Needs(self.task, self.splits["train"], self.max_length, self.image_size)

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
    """Content hashes of the files of these modules; of a package, of all its sources, but not of what they import."""
    hashes: dict[str, str] = {}
    for module in modules:
        spec = find_spec(module)
        folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
        files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
        if not files and spec and spec.origin:
            files = [Path(spec.origin)]
        if not files:
            raise KdcError(f"plugins: '{module}' has no source file", "give a module or package of Python files")
        hashes |= {f"{module}/{number}/{file.name}": sha256(file) for number, file in enumerate(files)}
    return hashes


def summary(published: Published) -> dict[str, Any]:
    """What a step noted beside its files."""
    return json.loads((published.path / SUMMARY).read_text(encoding="utf-8"))


def note(folder: Path, **content: Any) -> None:
    (folder / SUMMARY).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
