"""The steps after training: passes that change weights, export, predictions of the exported files, attributions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdc.compress.base import ALL_ROWS, Pass, Recovers
from kdc.compress.gradual import Gradual
from kdc.compress.plan import PrecisionPlan
from kdc.data.examples import Examples, joined
from kdc.export.base import Runtime
from kdc.models.spec import TeacherConfig
from kdc.stages.base import ARTIFACT, MODEL, OUTPUTS, PLAN, Data, Step, World, made, note, packages
from kdc.stages.training import checkpoint_identity
from kdc.store import Published

ATTRIBUTIONS = "attributions.json"


@dataclass(frozen=True)
class Seen:
    """What passes may look at: labelled rows by chance, or every row that a model learns from."""

    labelled: Data
    lesson: Data
    seed: int

    def rows(self, count: int) -> Examples:
        from kdc.compress.calibration import calibration_rows

        train = self.labelled.splits["train"]
        if count < ALL_ROWS or self.lesson.transfer is None:
            return calibration_rows(train, count, seed=self.seed)
        parts = (train, self.lesson.lesson)
        return joined(*(Examples({name: part[name] for name in part.inputs}, part.labels) for part in parts))

    def key(self, count: int) -> dict[str, Any]:
        train = self.labelled.fingerprints["train"]
        if count < ALL_ROWS:
            return {"rows": train, "seed": self.seed}
        return {"rows": [train, self.lesson.transfer.key if self.lesson.transfer else None]}


def compress_step(
    step: Pass, model: Published, plan: Published | None, seen: Seen, whole: Published | None = None
) -> Step:
    """One pass: the precision plan after it as `plan.json`, and `model/` if it changes weights.

    A later one of several rounds is told the `whole` model, of which its ratio is a share.
    """
    data = seen.labelled
    checkpoints = [TeacherConfig(name=step.name, path=path) for path in step.checkpoints]

    def build(folder: Path, scratch: Path) -> None:
        from kdc.compress.calibration import Calibration
        from kdc.models.build import build_model, load_model, save_model

        built, rows = load_model(model.path / MODEL, data.task), None
        if step.rows_to_see:
            judged = data.splits["validation"] if step.judges else None
            others = [build_model(other, f"compress.{step.name}", data.needs) for other in checkpoints]
            rows = Calibration(data.task, built.encoder, seen.rows(step.rows_to_see), judged, data.metric, others)
        now = step
        if whole is not None and isinstance(step, Gradual):
            now = step.of_whole(load_model(whole.path / MODEL, data.task).model)
        done = now.apply(built.model, read_plan(plan), rows)
        if step.changes_weights:
            changed = replace(built, model=done.model, encoder=done.encoder or built.encoder)
            save_model(changed, made(folder / MODEL))
        (folder / PLAN).write_text(done.plan.model_dump_json(indent=2) + "\n", encoding="utf-8")
        note(folder, notes=done.lines)

    parts: dict[str, Any] = {
        "pass": step.without_recovery() if isinstance(step, Recovers) else step,
        "model": model.key,
        "plan": plan.key if plan else None,
        "data": data.shape,
        "packages": packages("torch", "transformers", "tokenizers", *step.packages),
    }
    if step.rows_to_see:
        parts |= seen.key(step.rows_to_see)
    if whole is not None:
        parts |= {"whole": whole.key}
    if checkpoints:
        parts |= {"checkpoints": [checkpoint_identity(c, f"compress.{step.name}", data.task)[0] for c in checkpoints]}
    if step.judges:
        parts |= {"validation": data.fingerprints["validation"], "metric": data.metric}
    return Step("compress", parts, build, version=step.version)


def read_plan(compressed: Published | None) -> PrecisionPlan:
    """What `compress_step` planned; everything in float before any pass."""
    if compressed is None:
        return PrecisionPlan()
    return PrecisionPlan.model_validate_json((compressed.path / PLAN).read_text(encoding="utf-8"))


def export_step(runtime: Runtime, model: Published, plan: Published | None, data: Data, world: World) -> Step:
    """One variant's artifact, lowered, loaded again and held against the model: a folder with `artifact/`."""

    def build(folder: Path, scratch: Path) -> None:
        from kdc.export.verified import export_verified
        from kdc.models.build import load_model

        built = load_model(model.path / MODEL, data.task)
        rows, target = data.splits["validation"], made(folder / ARTIFACT)
        seen = export_verified(built, read_plan(plan), runtime, data.task, rows, target, world.plugins)
        note(folder, **seen)

    parts = {
        "runtime": runtime,
        "model": model.key,
        "plan": plan.key if plan else None,
        "data": data.shape,
        "checked_on": data.fingerprints["validation"],
        "packages": packages(*runtime.packages),
        "machine": runtime.machine(),
    }
    return Step("export", parts, build, version=7)


def predictions_step(artifact: Published, data: Data, split: str) -> Step:
    """What the artifact, in a process of its own, puts out on a split: `outputs.npz`."""

    def build(folder: Path, scratch: Path) -> None:
        from kdc.export.apart import predict_apart
        from kdc.export.artifact import Artifact

        outputs = predict_apart(Artifact.open(artifact.path / ARTIFACT), data.splits[split])
        np.savez(folder / OUTPUTS, allow_pickle=False, **outputs)

    parts = {"artifact": artifact.key, "rows": data.fingerprints[split]}
    return Step("predictions", parts, build)


def read_outputs(predictions: Published) -> dict[str, np.ndarray]:
    with np.load(predictions.path / OUTPUTS) as outputs:
        return dict(outputs)


def attributions_step(model: Published, data: Data, rows: Examples, answers: Sequence[str], method: str) -> Step:
    """What spoke for these answers to these rows in a model, in its own weights: `attributions.json`."""

    def build(folder: Path, scratch: Path) -> None:
        from kdc.measure.attribution import attribute
        from kdc.models.build import load_model

        found, notes = attribute(load_model(model.path / MODEL, data.task), data.task, rows, answers, method)
        note(folder, notes=notes)
        (folder / ATTRIBUTIONS).write_text(json.dumps(found) + "\n", encoding="utf-8")

    parts = {
        "model": model.key,
        "rows": rows.fingerprint,
        "answers": list(answers),
        "method": method,
        "packages": packages("torch", "transformers"),
    }
    return Step("attributions", parts, build, version=2)


def read_attributions(attributions: Published) -> list[list[tuple[str, float]]]:
    """Pieces of each row's input with their share."""
    rows = json.loads((attributions.path / ATTRIBUTIONS).read_text(encoding="utf-8"))
    return [[(piece, share) for piece, share in row] for row in rows]
