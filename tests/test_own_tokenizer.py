"""Whole runs of students of another kind than their teacher, which read texts in pieces of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdc import dry_run
from kdc.screen import Screen
from kdc.stages import World
from kdc.store import Store
from tests import runs

pytestmark = pytest.mark.slow

STUDENTS = {
    "bilstm": ("student.architecture.hidden_size=8", "student.architecture.num_hidden_layers=2"),
    "textcnn": ("student.architecture.filters=8",),
}


def pieces(artifact: Path) -> int:
    return len(json.loads((artifact / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])


@pytest.mark.parametrize("student", STUDENTS)
def test_a_run_ships_the_student_with_its_own_tokenizer(
    student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdc.timing.time_variants", runs.untimed)
    small = ("student.vocab_size=60", "student.architecture.embedding_size=16", *STUDENTS[student])
    config = runs.config(
        runs.write_csv(tmp_path / "train.csv", 400), tmp_path / "cache", f"student={student}", *small, "compress=int8",
        "train.learning_rate=1e-2", "train.epochs=6",
    )  # fmt: skip
    planned = dry_run.plan(config, World(Store(config.cache_dir), Screen()))
    record = runs.run(config, tmp_path / "out")
    assert [stage.key for stage in record.stages] == [line.key or "" for line in planned]
    artifacts = tmp_path / "out" / "artifacts"
    assert pieces(artifacts / "student.onnxruntime") == pieces(artifacts / "student+int8.onnxruntime") == 60
    assert pieces(artifacts / "teacher.onnxruntime") > 60
    found = {variant.name: variant for variant in record.variants}
    before, after = found["student.onnxruntime"], found["student+int8.onnxruntime"]
    assert (before.precision, after.precision) == ("fp32", "int8")
    assert before.artifact is not None
    assert after.artifact is not None
    assert after.artifact.bytes < before.artifact.bytes
    assert after.quality is not None
    assert after.quality.metrics["accuracy"].value > 0.7, "it learned which words are good"
