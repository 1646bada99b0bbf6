"""`kdc compare` from the command line; what it compares is tested in `tests/test_compare.py`."""

from pathlib import Path

import pytest

from kdc.cli.main import main
from tests.test_compare import write_run

Capture = pytest.CaptureFixture[str]


def test_runs_side_by_side(workdir: Path, capsys: Capture) -> None:
    write_run(workdir / "one", right=[True] * 30 + [False] * 10, seed=1)
    write_run(workdir / "two", right=[True] * 28 + [False] * 12, seed=2)
    write_run(workdir / "three", right=None, seed=2)
    assert main(["compare", "one", "two", "three"]) == 0
    said = capsys.readouterr().out
    assert said.split()[:4] == ["setting", "one", "two", "three"]
    assert "accuracy 75.0%" in said
    assert "−5.0 points" in said
    assert "not timed together" in " ".join(said.split())


def test_one_run_is_refused(workdir: Path, capsys: Capture) -> None:
    write_run(workdir / "one", right=None)
    assert main(["compare", "one"]) == 2
    assert capsys.readouterr().err == (
        "kdc: error: one run cannot be compared; name at least two: kdc compare RUN RUN...\n"
    )


def test_what_is_no_run_is_refused(workdir: Path, capsys: Capture) -> None:
    write_run(workdir / "one", right=None)
    assert main(["compare", "one", "nowhere"]) == 2
    assert "there is no record of a run in nowhere" in capsys.readouterr().err
