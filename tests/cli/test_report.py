"""`kdc report`: pages made again from records alone, and what it refuses, each in one line."""

import shutil
from pathlib import Path

import pytest

from kdc.cli.main import main
from kdc.record import RunRecord
from tests.report.pages import check
from tests.report.sweeps import sweep_records

GOLDEN = Path(__file__).parent.parent / "golden"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(workdir: Path) -> Path:
    folder = workdir / "run"
    folder.mkdir()
    shutil.copy(GOLDEN / "record.json", folder)
    return folder


def error_of(capsys: Capture) -> str:
    said = capsys.readouterr().err
    assert said.startswith("kdc: error: ")
    assert said.count("\n") == 1
    return said.removeprefix("kdc: error: ").rstrip()


def test_a_runs_pages_are_made_again(run: Path, capsys: Capture) -> None:
    assert main(["report", "run"]) == 0
    assert sorted(path.name for path in run.iterdir()) == ["record.json", "report.html", "report.md"]
    check((run / "report.html").read_text())
    said = capsys.readouterr().out
    assert "student+int8 in onnxruntime" in said
    assert said.splitlines()[-1] == "report: run/report.html"


def test_a_bare_record_into_another_folder(run: Path, workdir: Path) -> None:
    assert main(["report", "run/record.json", "--output", "public/here"]) == 0
    assert [path.name for path in run.iterdir()] == ["record.json"]
    assert sorted(path.name for path in (workdir / "public" / "here").iterdir()) == ["report.html", "report.md"]


def test_a_sweep_with_a_run_that_failed(workdir: Path, capsys: Capture) -> None:
    for folder, record in sweep_records().items():
        (workdir / "sweep" / folder).mkdir(parents=True)
        record.save(workdir / "sweep" / folder / "record.json")
    assert main(["report", "sweep"]) == 0
    said = capsys.readouterr().out
    assert "11 of them finished" in said
    assert "7-bert-layers: The run failed in stage student: the loss became nan; lower it" in said
    assert said.count("●") == 4
    assert said.splitlines()[-1] == "report: sweep/report.html"
    check((workdir / "sweep" / "report.html").read_text())
    assert (workdir / "sweep" / "report.md").exists()


@pytest.mark.parametrize("status", ["failed", "running"])
def test_a_run_that_came_to_nothing(status: str, workdir: Path, capsys: Capture) -> None:
    raw = {"run": {"id": "x", "command": "kdc run", "started_at": "now", "status": status, "error": "no space"}}
    (workdir / "run").mkdir()
    RunRecord.model_validate(raw).save(workdir / "run" / "record.json")
    assert main(["report", "run"]) == 0
    said = capsys.readouterr().out
    assert ("The run failed: no space" if status == "failed" else "The run has not ended.") in said


def test_a_newer_record_is_refused(run: Path, capsys: Capture) -> None:
    text = (run / "record.json").read_text().replace("kdc.record/1", "kdc.record/2")
    (run / "record.json").write_text(text)
    assert main(["report", "run"]) == 2
    expected = "run/record.json: kdc.record/2 is newer than this kdc reads (kdc.record/1); upgrade kdc"
    assert error_of(capsys) == expected
    assert [path.name for path in run.iterdir()] == ["record.json"]


def test_a_damaged_record_is_refused_in_a_run_and_in_a_sweep(run: Path, workdir: Path, capsys: Capture) -> None:
    (run / "record.json").write_text('{"schema": "kdc.record/1", "ru')
    assert main(["report", "run"]) == 2
    assert error_of(capsys).startswith("run/record.json is damaged: it is not JSON")
    assert main(["report", "."]) == 2
    assert error_of(capsys).startswith("run/record.json is damaged: it is not JSON")


def test_a_folder_without_a_record_is_refused(workdir: Path, capsys: Capture) -> None:
    (workdir / "empty").mkdir()
    assert main(["report", "empty"]) == 2
    assert error_of(capsys).startswith("there is no record of a run in empty; name the folder of a run or")
    assert main(["report", "nowhere"]) == 2
    assert error_of(capsys) == "nowhere does not exist; name the folder of a run or of a sweep"


def test_what_cannot_be_written_is_said(run: Path, workdir: Path, capsys: Capture) -> None:
    (workdir / "file").touch()
    assert main(["report", "run", "--output", "file/below"]) == 2
    assert error_of(capsys).startswith("cannot write file")
    (workdir / "public" / "report.html").mkdir(parents=True)
    assert main(["report", "run", "--output", "public"]) == 2
    assert error_of(capsys) == "cannot write public/report.html: Is a directory; choose another folder with --output"
    assert sorted(path.name for path in (workdir / "public").iterdir()) == ["report.html", "report.md"]
