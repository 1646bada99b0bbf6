"""Which pass works on which architecture: all that must is here, and every pair is tried.

A pass that works is applied, saved and loaded, exported and held against the model; one that does not is refused in one
line. Whoever makes a pair work, or lets one go, has to say so in `WORKS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdc.compress.base import BUILTIN, PASSES
from kdc.compress.calibration import Calibration
from kdc.compress.int8 import Int8
from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.export.base import RUNTIMES
from kdc.export.verified import export_verified
from kdc.models.build import Built, load_model, save_model
from tests import tiny
from tests.compress import models

pytestmark = pytest.mark.slow

TEXTS = {"bert", "distilbert", "gpt2"}
PICTURES = {"resnet", "vit"}
EVERY = TEXTS | PICTURES
TRANSFORMERS = EVERY - {"resnet"}
ENCODERS = {"bert", "distilbert"}
WORKS: dict[str, set[str]] = {
    "prune": EVERY,
    "prune_ffn": TRANSFORMERS,
    "prune_heads": TRANSFORMERS,
    "prune_width": TRANSFORMERS,
    "prune_layers": TRANSFORMERS,
    "prune_channels": {"resnet"},
    "mask_search": TRANSFORMERS,
    "svd": TRANSFORMERS,
    "share": TRANSFORMERS,
    "vocabulary": TEXTS,
    "merge": EVERY,
    "first_token": ENCODERS,
    "fold_batch_norm": {"resnet"},
    "int8": EVERY,
    "int8_static": EVERY,
    "int8_weights": EVERY,
    "int4_weights": EVERY,
    "cluster": EVERY,
    "bf16": EVERY,
    "fp16": EVERY,
    "mixed_precision": EVERY,
    "accuracy_control": EVERY,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "merge": {"paths": ["the same"], "method": "uniform"},
    "accuracy_control": {"max_drop": 0.9},
    "prune_width": {"ratio": 0.25},
    "svd": {"ratio": 0.3},
    "mixed_precision": {"ratio": 0.5},
}


def made(architecture: str) -> tuple[Built, Calibration]:
    if architecture in TEXTS:
        built, rows, task = models.texts(architecture, layers=2), models.ROWS, tiny.task()
    else:
        built, rows, task = models.pictures(architecture, layers=2), models.PICTURES, tiny.task("image-classification")
    return built, Calibration(task, built.encoder, rows, rows, "accuracy", [built])


def compressed(name: str, architecture: str, folder: Path) -> None:
    built, rows = made(architecture)
    step = PASSES[name].model_validate({"name": name, **SETTINGS.get(name, {})})
    plan = Int8(name="int8").apply(built.model, PrecisionPlan()).plan if step.edits_plan else PrecisionPlan()
    done = step.apply(built.model, plan, rows)
    changed = Built(done.model, done.encoder or built.encoder, new_head=False)
    (folder / "model").mkdir()
    (folder / "artifact").mkdir()
    save_model(changed, folder / "model")
    again = load_model(folder / "model", rows.task)
    with torch.no_grad():
        torch.testing.assert_close(dict(again.model.named_parameters()), dict(done.model.named_parameters()))
    in_torch = step.changes_weights or name in ("bf16", "fp16")  # what is faster to make, where no cell needs the other
    runtime = "torch" if in_torch else "onnxruntime"
    seen = export_verified(again, done.plan, RUNTIMES[runtime](name=runtime), rows.task, rows.rows, folder / "artifact")
    assert seen["fidelity"]["agreement"] >= 0.95


@pytest.mark.parametrize("architecture", sorted(EVERY))
@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_a_pass_works_or_is_refused(name: str, architecture: str, tmp_path: Path) -> None:
    if architecture in WORKS[name]:
        compressed(name, architecture, tmp_path)
    else:
        with pytest.raises(KdcError, match=f"compress.{name}"):
            compressed(name, architecture, tmp_path)


def test_every_pass_has_its_row() -> None:
    assert set(WORKS) == set(BUILTIN), "plugins of other tests may stand in the registry"
    assert all(WORKS.values())
