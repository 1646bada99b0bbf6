"""Files that `kdc gate` cannot use: a record that holds no number, and a job summary that cannot be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdc.cli.main import main
from kdc.gate import latency
from tests.gates import answers, write_run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(*_: Any, **__: Any) -> None:
        pytest.fail("timed what cannot be judged")

    monkeypatch.setattr(latency, "timed_rounds", timed)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return write_run(tmp_path / "before", answers())


@pytest.fixture
def now(tmp_path: Path) -> Path:
    return write_run(tmp_path / "now", answers(wrong=210), weights=b"changed")


def refused(capsys: Capture, *words: object) -> str:
    """What the gate says on stderr, which is one line."""
    capsys.readouterr()
    assert main(["gate", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("which", ["before", "now"])
@pytest.mark.parametrize("written", ["NaN", "Infinity"])
def test_a_metric_that_is_no_number(which: str, written: str, before: Path, now: Path, capsys: Capture) -> None:
    """Written by hand: kdc writes a null there, which is refused as no number at all."""
    path = {"before": before, "now": now}[which] / "record.json"
    record = json.loads(path.read_text())
    record["variants"][0]["quality"]["metrics"]["accuracy"]["value"] = float(written)
    path.write_text(json.dumps(record))
    assert f'"value": {written}' in path.read_text()
    said = refused(capsys, now, "--baseline", before)
    assert said == f"kdc: error: accuracy is {float(written)} in {path.parent}; it decides nothing; run it again"
    record["variants"][0]["quality"]["metrics"]["accuracy"]["value"] = None
    path.write_text(json.dumps(record))
    said = refused(capsys, now, "--baseline", before)
    assert said.startswith(f"kdc: error: {path} is damaged: variants.0.quality.metrics.accuracy.value: ")


@pytest.mark.parametrize("place", ["a_folder", "missing/summary.md"])
def test_a_job_summary_that_cannot_be_written(
    place: str, before: Path, now: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before minutes of timing, and before any other file is written."""
    (tmp_path / "a_folder").mkdir()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / place))
    said = refused(capsys, now, "--baseline", before, "--junit", tmp_path / "gate.xml")
    assert said.removeprefix("kdc: error: ") == (
        f"cannot write {tmp_path / place}; name a file in a folder that is there and can be written"
    )
    assert not (tmp_path / "gate.xml").exists()
