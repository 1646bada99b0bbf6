"""Artifacts in processes of their own: the same answers, from the files alone, and one line if they end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kdc.compress.plan import PrecisionPlan
from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.export import apart
from kdc.export.apart import predict_apart, run_apart
from kdc.export.artifact import Artifact
from kdc.export.base import RUNTIMES, Graph
from kdc.export.modules import graph_callables
from kdc.export.onnxruntime import OnnxRuntime
from kdc.export.verified import export_verified
from kdc.processes import worker_environment
from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.apart]
ROWS = tiny.sentences(12)
PROBE = """
import json, sys
from kdc.export.apart import run_job
run_job(json.load(sys.stdin))
print([name for name in ("torch", "transformers", "datasets", "pandas", "pyarrow") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    tiny.artifact(folder, tiny.built_bert(ROWS), ROWS, runtime="onnxruntime")
    return folder


def test_it_answers_what_it_answers_here(folder: Path) -> None:
    artifact = Artifact.open(folder)
    session = artifact.session()
    np.testing.assert_allclose(predict_apart(artifact, ROWS)["logits"], session.predict(ROWS)["logits"], atol=1e-6)
    rows = session.encoder.encode(ROWS)
    batches = [session.encoder.collate(rows[:1]), session.encoder.collate(rows[1:])]
    for said, batch in zip(run_apart(artifact, batches), batches, strict=True):
        np.testing.assert_allclose(said["logits"], session.run(batch)["logits"], atol=1e-6)


def test_many_batches_come_back_in_their_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "run_worker", lambda job, **_: apart.run_job(job))
    session = Artifact.open(folder).session()
    batches = [session.encoder.collate([row]) for row in session.encoder.encode(ROWS)]
    said = run_apart(session.artifact, batches)
    np.testing.assert_allclose(
        np.concatenate([one["logits"] for one in said]), session.predict(ROWS)["logits"], atol=1e-5
    )


def test_it_imports_nothing_that_serving_does_not(folder: Path, tmp_path: Path) -> None:
    apart.write_rows(tmp_path / "rows.npz", ROWS)
    job = {
        "artifact": str(folder),
        "plugins": [],
        "rows": str(tmp_path / "rows.npz"),
        "outputs": str(tmp_path / "o.npz"),
    }
    ended = subprocess.run(
        [sys.executable, "-P", "-c", PROBE],
        input=json.dumps(job), capture_output=True, text=True, env=worker_environment(1), check=True,
    )  # fmt: skip
    assert ended.stdout == "[]\n"


def test_one_that_cannot_be_loaded_is_told_in_a_line(folder: Path, tmp_path: Path) -> None:
    artifact = Artifact.open(folder)
    gone = Artifact(tmp_path / "gone", artifact.task, artifact.runtime, "fp32", (), (), ())
    with pytest.raises(KdcError, match=r"^what onnxruntime answers: .*gone is no kdc artifact: it has no kdc.json"):
        predict_apart(gone, ROWS)
    (tmp_path / "broken").mkdir()
    for file in folder.iterdir():
        (tmp_path / "broken" / file.name).write_bytes(b"" if file.suffix == ".onnx" else file.read_bytes())
    with pytest.raises(KdcError, match=r"^what onnxruntime answers: the process ended with exit code 1: \S") as caught:
        predict_apart(Artifact.open(tmp_path / "broken"), ROWS)
    assert caught.value.exit_code == 1


def test_what_only_this_process_makes_right_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files hold another model; here, and here alone, loading them gives the right one."""
    built, runtime = tiny.built_bert(ROWS), RUNTIMES["onnxruntime"](name="onnxruntime")
    right = graph_callables(tiny.task().graphs(built.model, built.encoder, ROWS.select([0, 1])))
    lower, bias = OnnxRuntime.lower, built.model.classifier.bias.data

    def wrong(self: OnnxRuntime, graphs: Sequence[Graph], plan: PrecisionPlan, folder: Path) -> None:
        shift = bias.new_tensor([3.0, -3.0])
        bias.add_(shift)
        lower(self, graphs, plan, folder)
        bias.sub_(shift)

    monkeypatch.setattr(OnnxRuntime, "lower", wrong)
    monkeypatch.setattr(OnnxRuntime, "load", lambda *_, **__: right)
    with pytest.raises(KdcError, match=r"export to onnxruntime \(fp32\) does not compute what the model computes"):
        export_verified(built, PrecisionPlan(), runtime, tiny.task(), ROWS, tmp_path)
    monkeypatch.setattr(apart, "run_worker", lambda job, **_: apart.run_job(job))
    (tmp_path / "here").mkdir()
    export_verified(built, PrecisionPlan(), runtime, tiny.task(), ROWS, tmp_path / "here")


def test_pictures_go_along(tmp_path: Path) -> None:
    pictures = tiny.pictures(5)
    artifact = tiny.artifact(tmp_path, tiny.built_net(pictures, "cnn"), pictures, runtime="onnxruntime")
    unlabelled = Examples({"image": pictures["image"]})
    np.testing.assert_allclose(
        predict_apart(artifact, unlabelled)["logits"], artifact.session().predict(pictures)["logits"], atol=1e-6
    )
