"""Wrong settings of the report through the real command: one line each, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdc.cli.main import main
from tests import runs
from tests.test_evaluate import write_csv

WRONG = {
    "report.slices=[sorce]": "report.slices: the test rows have no column 'sorce'; did you mean 'source'?",
    "report.slices=[url]": "report.slices: column 'url' has 60 values in 60 test rows, 60 of them in one row only;",
    "report.robustness=[noise]": "report.robustness: noise is not for texts, which dataset csv holds; for them",
    "report.robustness=[typo]": "did you mean 'typos'?",
    "report.attributions=integrated_gradient": "report.attributions: input should be 'none', 'input_x_gradient' or",
    "report.flips=-1": "report.flips: input should be greater than or equal to 0",
    "report.flips=21": "report.flips: input should be less than or equal to 20",
    "report.example=false": "report.example: no such key of report; did you mean 'examples'?",
}


@pytest.mark.parametrize("word", WRONG)
def test_wrong_settings(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        main(["run", *runs.words(write_csv(tmp_path / "train.csv"), tmp_path / "cache", "dataset.test=0.5", word)]) == 2
    )
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("kdc: error: ")
    assert WRONG[word] in lines[-1]
    assert not list((tmp_path / "cache").glob("stages/teacher*")), "said before anything is trained"


def test_attributions_cannot_be_shown_without_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("report.examples=false", "report.attributions=input_x_gradient")
    assert main(["run", *runs.words(write_csv(tmp_path / "train.csv"), tmp_path / "cache", *words)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("kdc: error: report: attributions show pieces of the rows, which examples=false keeps out")
