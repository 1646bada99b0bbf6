"""A dry run names the stages of the run that follows, with the same keys, and leaves nothing anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdc import dry_run
from kdc.cli.main import main
from kdc.config import RunConfig
from kdc.screen import Screen
from kdc.stages import World
from kdc.store import Store
from tests import runs

pytestmark = pytest.mark.slow

WORDS = ("compress=none", "runtime=torch")


def plan(config: RunConfig) -> list[dry_run.Line]:
    return dry_run.plan(config, World(Store(config.cache_dir), Screen()))


def test_the_plan_is_what_the_run_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = runs.config(runs.write_csv(tmp_path / "train.csv"), tmp_path / "cache", *WORDS)
    before = plan(config)
    assert not (tmp_path / "cache").exists()
    assert not any(line.cached for line in before)
    assert all(0 < line.cost.seconds < 60 for line in before)
    assert all(line.cost.peak_bytes < 4e9 for line in before)

    monkeypatch.setattr("kdc.timing.time_variants", runs.untimed)
    record = runs.run(config, tmp_path / "out")
    assert [stage.name for stage in record.stages] == [line.name for line in before]
    assert [stage.key for stage in record.stages] == [line.key or "" for line in before]

    stored = sorted((tmp_path / "cache").rglob("*"))
    after = plan(config)
    assert [line.key for line in after] == [line.key for line in before]
    assert [line.name for line in after if not line.cached] == ["latency"]
    assert sorted((tmp_path / "cache").rglob("*")) == stored


def test_a_damaged_stage_is_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = runs.config(runs.write_csv(tmp_path / "train.csv"), tmp_path / "cache", *WORDS)
    monkeypatch.setattr("kdc.timing.time_variants", runs.untimed)
    runs.run(config, tmp_path / "out")
    (weights,) = (tmp_path / "cache" / "stages" / "student").rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert [line.name for line in plan(config) if not line.cached] == ["student", "latency"]


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = runs.write_csv(tmp_path / "train.csv")
    monkeypatch.chdir(tmp_path)
    words = runs.words(train, tmp_path / "cache", "dry_run=true")
    assert main(["run", *words]) == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines() if line.strip()]
    assert lines[0] == ["stage", "key", "state", "minutes", "peak", "GB"]
    (student,) = (line for line in lines if line[0] == "student")
    assert len(student[1]) == 8
    assert student[2:4] == ["to", "do"]
    assert any(line[:4] == ["14", "of", "14", "to"] for line in lines), printed
    assert "estimated" in printed
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path != train] == []
    assert main(["run", "-m", *words, "seed=1,2"]) == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path != train] == []


def test_what_a_run_would_refuse_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "dry_run=true", "dataset=csv", f"dataset.files.train={tmp_path}/none.csv"]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert main(["run", "dry_run=true", "teacher=bert", f"cache_dir={tmp_path}"]) == 1
    assert "teacher.path" in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
