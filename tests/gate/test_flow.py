"""The gate on real runs of the pipeline: what does nothing passes, what breaks the student fails."""

from pathlib import Path

import pytest

from kdc.cli.main import main
from kdc.config import compose, to_run_config
from tests import runs

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A baseline bundle in `baseline`, of a run in `before`."""
    monkeypatch.setattr("kdc.timing.time_variants", runs.untimed)
    run(tmp_path, "before")
    assert main(["gate", str(tmp_path / "before"), "--save-baseline", str(tmp_path / "baseline")]) == 0
    return tmp_path


def run(place: Path, name: str, *overrides: str) -> None:
    words = ["experiment=digits_mlp", "teacher.epochs=3", "train.epochs=3", "compress=int8", f"cache_dir={place}/cache"]
    runs.run(to_run_config(compose([*words, *overrides])), place / name)


def gate(place: Path, name: str, *words: str) -> int:
    return main(["gate", str(place / name), "--baseline", str(place / "baseline"), *words])


def test_real_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(place, "same")
    capsys.readouterr()
    assert gate(place, "same", "--strict") == 0
    output = capsys.readouterr().out.replace("\n", " ")
    assert "student+int8.onnxruntime" in output
    assert "The gate passes" in output

    run(place, "broken", "train.learning_rate=1e-7")
    capsys.readouterr()
    assert gate(place, "broken", "--rules", "untimed") == 3
    output = capsys.readouterr().out.replace("\n", " ")
    assert "The gate fails (student+int8.onnxruntime): accuracy got worse by" in output

    # The student in float against itself in int8: the same weights, so half a point is allowed.
    run(place, "float", "compress=none")
    capsys.readouterr()
    gate(place, "float", "--rules", "untimed", "bytes=null")
    output = capsys.readouterr().out.replace("\n", " ")
    assert "0.50 pp" in output
    assert "student.onnxruntime against student+int8.onnxruntime" in output
