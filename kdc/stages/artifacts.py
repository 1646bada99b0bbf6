"""The steps after training: passes that change weights, export, predictions of the exported files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdc.compress.base import Pass
from kdc.compress.plan import PrecisionPlan
from kdc.export.base import Runtime
from kdc.stages.base import ARTIFACT, MODEL, OUTPUTS, Data, Step, World, made, note, packages
from kdc.store import Published


def pass_step(step: Pass, before: Published, plan: PrecisionPlan, data: Data) -> Step:
    """A pass that changes weights: the model after it, as a folder with `model/`."""

    def build(folder: Path, scratch: Path) -> None:
        from dataclasses import replace

        from kdc.models.build import load_model, save_model

        built = load_model(before.path / MODEL, data.task)
        model, _ = step.apply(built.model, plan)
        save_model(replace(built, model=model), made(folder / MODEL))
        note(folder, train=None, notes=[])

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
            built, plan, runtime, data.task, data.splits["validation"], made(folder / ARTIFACT), world.plugins
        )
        note(folder, **seen)

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
