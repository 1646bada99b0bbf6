"""What ships, loaded by its runtime alone in a process that has no kdc: it answers as the compressed model does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdc.compress.base import PASSES
from kdc.compress.plan import PrecisionPlan
from kdc.compress.simulate import simulated
from kdc.export.base import RUNTIMES
from kdc.export.verified import export_verified
from kdc.models.build import Built
from kdc.models.rewrites import rewritten
from tests import tiny
from tests.compress import models

pytestmark = pytest.mark.slow

STEPS: Mapping[str, list[dict[str, Any]]] = {
    "float": [],
    "prune": [{"name": "prune", "ratio": 0.9}],
    "heads and neurons": [{"name": "prune_heads", "score": "l2"}, {"name": "prune_ffn", "score": "l2"}],
    "width": [{"name": "prune_width", "score": "l2", "ratio": 0.25}],
    "layers": [{"name": "prune_layers"}],
    "mask_search": [{"name": "mask_search"}],
    "svd": [{"name": "svd", "ratio": 0.3}],
    "share": [{"name": "share"}],
    "vocabulary and first_token": [{"name": "vocabulary", "coverage": 0.8}, {"name": "first_token"}],
    "int8": [{"name": "int8"}],
    "int8_static": [{"name": "int8_static"}],
    "int8_weights": [{"name": "int8_weights"}],
    "int4_weights": [{"name": "int4_weights"}],
    "cluster": [{"name": "cluster"}],
    "heads, svd and int8": [{"name": "prune_heads", "score": "l2"}, {"name": "svd", "ratio": 0.3}, {"name": "int8"}],
}
CHANGES_WEIGHTS = [
    name for name, steps in STEPS.items() if not any("int" in s["name"] or s["name"] == "cluster" for s in steps)
]
SERVE = """
import json, sys
sys.modules["kdc"] = None  # an import of it fails
import numpy as np

def onnxruntime(folder, feeds):
    import onnxruntime
    session = onnxruntime.InferenceSession(folder + "/forward.onnx")
    return session.run(["logits"], {port.name: feeds[port.name] for port in session.get_inputs()})[0]

def openvino(folder, feeds):
    import openvino
    model = openvino.Core().compile_model(folder + "/forward.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return model({port.any_name: feeds[port.any_name] for port in model.inputs})["logits"]

def torch(folder, feeds):
    import os, torch
    if os.path.exists(folder + "/forward.pt2"):
        names = [port["name"] for port in json.load(open(folder + "/kdc.json"))["signatures"][0]["inputs"]]
        module = torch.export.load(folder + "/forward.pt2").module()
        return module(*(torch.from_numpy(feeds[name]) for name in names))[0].detach().numpy()
    from transformers import AutoModelForSequenceClassification
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return model(**{name: torch.from_numpy(array) for name, array in feeds.items()}).logits.detach().numpy()

said = {}
for folder in sys.argv[2:]:
    feeds = dict(np.load(folder + ".npz"))
    said[folder] = globals()[sys.argv[1]](folder, feeds).tolist()
print(json.dumps(said))
"""


def compressed(steps: list[dict[str, Any]]) -> tuple[Built, PrecisionPlan]:
    built, plan = models.texts("bert", layers=2), PrecisionPlan()
    for settings in steps:
        step = PASSES[settings["name"]].model_validate(settings)
        done = step.apply(built.model, plan, models.calibration(built))
        built, plan = Built(done.model, done.encoder or built.encoder, new_head=False), done.plan
    return built, plan


def exported(steps: list[dict[str, Any]], runtime: str, folder: Path) -> np.ndarray:
    """An artifact in `folder` and inputs for it beside; returns what the compressed model says to those."""
    built, plan = compressed(steps)
    folder.mkdir()
    export_verified(built, plan, RUNTIMES[runtime](name=runtime), tiny.task(), models.ROWS, folder)
    feeds = models.batch(built, 12)
    np.savez(folder.with_name(f"{folder.name}.npz"), **{name: tensor.numpy() for name, tensor in feeds.items()})
    with torch.no_grad(), rewritten(built.model, plan.rewrites), simulated(built.model, plan):
        logits: np.ndarray = built.model(**feeds).logits.numpy()
    return logits


@pytest.mark.parametrize(
    ("runtime", "names"),
    [
        ("onnxruntime", list(STEPS)),
        ("openvino", ["float", "heads and neurons", "share", "vocabulary and first_token", "int8_static"]),
        ("torch", CHANGES_WEIGHTS),
    ],
)
def test_every_kind_of_artifact_answers_without_kdc(runtime: str, names: list[str], tmp_path: Path) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    folders = {name: tmp_path / str(number) for number, name in enumerate(names)}
    wanted = {name: exported(STEPS[name], runtime, folder) for name, folder in folders.items()}
    command = [sys.executable, "-c", SERVE, runtime, *map(str, folders.values())]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    for name, folder in folders.items():
        ours = np.array(said[str(folder)])
        rounded = name not in CHANGES_WEIGHTS  # a sum that falls the other way is a step of a scale, not an error
        np.testing.assert_allclose(
            ours, wanted[name], atol=0.05 * wanted[name].std() if rounded else 1e-4, err_msg=name
        )
        assert (ours.argmax(axis=1) == wanted[name].argmax(axis=1)).all(), name
    spread = [wanted[name].std() for name in names]
    assert min(spread) > 0.01, "all rows alike would be answered by anything"
