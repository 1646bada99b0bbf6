"""The shipped experiments on public data with a real pretrained encoder, cut down to seconds by `dataset.limit`."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdc.config import compose, to_run_config
from kdc.record import RunRecord
from tests import runs

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdc.timing.time_variants", runs.untimed)
    monkeypatch.setattr("kdc.measure.size._compressed", lambda file, start: 1)  # hundreds of megabytes, else


def run(experiment: str, data: Path, folder: Path, *overrides: str) -> RunRecord:
    words = [f"experiment={experiment}", f"data_dir={data}", f"cache_dir={folder / 'cache'}", *overrides]
    record = runs.run(to_run_config(compose(words)), folder / "out")
    assert record.run.status == "ok"
    return record


def short(minilm: Path) -> tuple[str, ...]:
    return (f"teacher.path={minilm}", "teacher.epochs=1", "train.epochs=1")


def score(record: RunRecord, variant: str, metric: str) -> float:
    quality = record.variant(variant).quality
    assert quality is not None
    return quality.metrics[metric].value


def test_sst2_to_three_layers_in_int8(shared_data: Path, minilm: Path, tmp_path: Path) -> None:
    words = ("dataset.limit=40", "runtime=onnxruntime")
    record = run("sst2_minilm", shared_data, tmp_path, *short(minilm), *words)
    assert record.dataset
    assert record.dataset.labels == ["negative", "positive"]
    student = next(stage for stage in record.stages if stage.name == "student")
    assert student.notes == ["student layers from the teacher's: 0<-1, 1<-3, 2<-5"]
    teacher, small = record.variant("teacher.torch"), record.variant("student+int8.onnxruntime")
    assert teacher.parameters
    assert teacher.parameters.total == 22_713_216 + 385 * 2  # the encoder with its pooler, and the new head
    assert small.macs
    assert small.macs.int8 >= 0.95 * small.macs.eligible > 0
    assert teacher.artifact
    assert small.artifact
    assert small.artifact.bytes < teacher.artifact.bytes / 4.5
    assert small.quality
    assert small.quality.n == 40
    assert 0 < small.quality.agreement["argmax"] <= 1


def test_mrpc_reads_both_texts(shared_data: Path, minilm: Path, tmp_path: Path) -> None:
    words = ("dataset.limit=16", "runtime=torch", "compress=none")
    record = run("mrpc_minilm", shared_data, tmp_path, *short(minilm), *words)
    assert [v.name for v in record.variants] == ["teacher.torch", "student.torch"]
    assert 0 < score(record, "student.torch", "f1") <= 1
    quality = record.variant("student.torch").quality
    assert quality
    assert [name for name, metric in quality.metrics.items() if metric.primary] == ["accuracy"]


def test_banking77_has_77_classes(shared_data: Path, minilm: Path, tmp_path: Path) -> None:
    words = ("dataset.limit=77", "runtime=torch", "compress=none")
    record = run("banking77_minilm", shared_data, tmp_path, *short(minilm), *words)
    assert record.dataset
    assert len(record.dataset.labels) == 77
    assert {"accuracy", "f1_macro"} <= {name for v in record.variants if v.quality for name in v.quality.metrics}


def test_mnist(shared_data: Path, tmp_path: Path) -> None:
    words = ("dataset.limit=3000", "teacher.epochs=6", "train.epochs=6", "runtime=onnxruntime")
    record = run("mnist_mlp", shared_data, tmp_path, *words)
    assert score(record, "teacher.torch", "accuracy") > 0.85
    assert score(record, "student+int8.onnxruntime", "accuracy") > 0.8
    parameters = {v.stage: v.parameters.total for v in record.variants if v.parameters}
    teacher, student = 784 * 256 + 256 * 128 + 128 * 10 + 394, 784 * 128 + 128 * 64 + 64 * 10 + 202
    assert parameters == {"teacher": teacher, "student": student, "student+int8": student}


def test_mnist_without_half_of_the_channels(shared_data: Path, tmp_path: Path) -> None:
    record = run("mnist_cnn", shared_data, tmp_path, "dataset.limit=3000", "teacher.epochs=6")

    def weights(first: int, second: int) -> int:
        """Of two convolutions with their batch norms, and two linears."""
        convolutions = 9 * first + 3 * first + 9 * first * second + 3 * second
        return convolutions + (49 * second * 128 + 128) + (128 * 10 + 10)

    parameters = {v.stage: v.parameters.total for v in record.variants if v.parameters}
    pruned = "teacher+prune_channels"
    half = weights(16, 32)
    assert parameters == {"teacher": weights(32, 64), pruned: half, f"{pruned}+int8_static": half}
    assert score(record, "teacher.torch", "accuracy") > 0.9
    assert score(record, f"{pruned}.onnxruntime", "accuracy") > 0.9
    assert score(record, f"{pruned}+int8_static.onnxruntime", "accuracy") > 0.9
