"""`kdc run -m`: all jobs are typed before the first starts, none hides another, and the summary comes last."""

from pathlib import Path
from typing import Any

import pytest

from kdc.cli.main import main
from tests.cli.fake_pipeline import CRASHES, EXITS, FAILS, INTERRUPTED

pytestmark = pytest.mark.slow

Calls = list[dict[str, Any]]
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("where", ["first", "last", "between"])
def test_flag_before_and_after(where: str, workdir: Path, pipeline: Calls, capsys: Capture) -> None:
    sweep = ["compress=none,int8", "student.layers=2,3"]
    words = {"first": ["-m", *sweep], "last": [*sweep, "-m"], "between": [sweep[0], "--multirun", sweep[1]]}[where]
    assert main(["run", *words]) == 0
    seen = [(list(call["config"].compress), call["config"].student.layers) for call in pipeline]
    assert seen == [([], 2), ([], 3), (["int8"], 2), (["int8"], 3)]
    folders = [call["folder"] for call in pipeline]
    assert [folder.name for folder in folders] == [f"{i}-bert_tiny-layers" for i in range(4)]
    assert all((folder / "record.json").exists() for folder in folders)
    assert Path("outputs/latest").resolve() == folders[0].parent
    table = capsys.readouterr().out
    assert table.count("8.1x") == 4
    assert table.count("87.6%") == 4
    assert table.splitlines()[0].split()[:4] == ["run", "compress", "layers", "accuracy"]
    rows = [line.split()[:4] for line in table.splitlines()[2:6]]
    words = [("none", "2"), ("none", "3"), ("int8", "2"), ("int8", "3")]
    assert rows == [["run", str(number), *word] for number, word in enumerate(words)]
    assert max(map(len, table.splitlines()[:6])) <= 80
    assert (folders[0].parent / "report.html").exists()


def test_a_failing_job_hides_no_other(workdir: Path, pipeline: Calls, capsys: Capture) -> None:
    assert main(["run", "-m", f"seed=1,{FAILS},{CRASHES},{EXITS},2"]) == 1
    assert [call["config"].seed for call in pipeline] == [1, FAILS, CRASHES, EXITS, 2]
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split()[:3] == ["run", "seed", "status"]
    assert [line.split()[3] for line in out.splitlines()[2:7]] == ["ok", "ok", "failed", "failed", "failed"]
    assert "1-bert_tiny-layers: The run failed: the disk is full; free some" in out
    assert "2-bert_tiny-layers: The run failed: division by zero" in out
    assert "kdc: error: the disk is full; free some" in err
    assert "kdc: error: unexpected ZeroDivisionError" in err
    assert "kdc: error: unexpected RuntimeError: a library ended the job (exit code 3)" in err
    assert "Traceback" not in err
    assert Path("outputs/latest").exists()


def test_all_jobs_are_typed_before_the_first_starts(workdir: Path, pipeline: Calls, capsys: Capture) -> None:
    assert main(["run", "-m", "seed=1,-1", "compress=int8,bf16"]) == 2
    assert pipeline == []
    assert list(workdir.iterdir()) == []
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "kdc: error: the sweep was not started:"
    assert lines[1].strip().startswith("job 2 (seed=1 compress=bf16): compress=bf16: no chosen runtime computes bf16")
    assert lines[2].strip().startswith("job 3 (seed=-1 compress=int8) and 1 more: seed: input should be greater")


def test_what_is_wrong_with_every_job_is_said_once(workdir: Path, pipeline: Calls, capsys: Capture) -> None:
    assert main(["run", "-m", "seed=1,2", "train.epoch=3"]) == 2
    assert capsys.readouterr().err == ("kdc: error: train.epoch: no such key of train; did you mean 'epochs'?\n")


def test_interrupt_ends_the_sweep(workdir: Path, pipeline: Calls, capsys: Capture) -> None:
    assert main(["run", "-m", f"seed=1,{INTERRUPTED},2"]) == 130
    assert len(pipeline) == 2


def test_a_folder_that_holds_a_sweep_is_refused(workdir: Path, pipeline: Calls, capsys: Capture) -> None:
    assert main(["run", "-m", "seed=1,2", "hydra.sweep.dir=mine"]) == 0
    assert main(["run", "-m", "seed=3,4", "hydra.sweep.dir=mine"]) == 2
    assert "mine already holds a record; choose another folder with hydra.sweep.dir=PATH" in capsys.readouterr().err
    assert len(pipeline) == 2


def test_a_sweep_and_a_run_leave_each_others_folders_alone(workdir: Path, pipeline: Calls, capsys: Capture) -> None:
    assert main(["run", "hydra.run.dir=single"]) == 0
    assert main(["run", "-m", "seed=1,2", "hydra.sweep.dir=several"]) == 0
    before = sorted(workdir.rglob("*"))
    capsys.readouterr()
    assert main(["run", "-m", "seed=1,2", "hydra.sweep.dir=single"]) == 2
    assert "single already holds a record; choose another folder with hydra.sweep.dir=PATH" in capsys.readouterr().err
    assert main(["run", "hydra.run.dir=several"]) == 2
    assert "several already holds a record; choose another folder with hydra.run.dir=PATH" in capsys.readouterr().err
    assert sorted(workdir.rglob("*")) == before
    assert len(pipeline) == 3


def test_lists_and_paths_sweep_too(workdir: Path, pipeline: Calls) -> None:
    assert main(["run", "-m", "compress=[],[int8]", "dataset=csv", "dataset.files.train=~/a,é.csv"]) == 0
    seen = [(list(call["config"].compress), call["config"].dataset.files.train) for call in pipeline]
    home = str(Path.home() / "a")
    assert seen == [([], home), ([], "é.csv"), (["int8"], home), (["int8"], "é.csv")]
