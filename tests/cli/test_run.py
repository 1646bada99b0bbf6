"""`kdc run` from its words to the pipeline's doorstep: what is refused, where results go, what the exit code is."""

import os
from pathlib import Path
from typing import Any

import pytest

from kdc.cli.main import main
from tests.cli.fake_pipeline import CRASHES, EXITS, FAILS, INTERRUPTED

Calls = list[dict[str, Any]]
Capture = pytest.CaptureFixture[str]


def run(*words: str) -> int:
    return main(["run", *words])


def refused(words: list[str], capsys: Capture) -> str:
    """The one line on stderr of a run that must end with exit 2 and leave nothing behind."""
    before = sorted(Path().rglob("*"))
    assert run(*words) == 2
    assert sorted(Path().rglob("*")) == before
    line = capsys.readouterr().err
    assert line.startswith("kdc: error: ")
    assert "Traceback" not in line
    return line.removeprefix("kdc: error: ").rstrip("\n")


def test_run(workdir: Path, pipeline: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["kdc", "run", "train.epochs=2", "dataset.files={}"])
    assert run("train.epochs=2", "seed=7") == 0
    (call,) = pipeline
    assert call["config"].train.epochs == 2
    assert call["config"].seed == 7
    assert call["overrides"] == ["train.epochs=2", "seed=7"]
    assert call["command"] == "kdc run train.epochs=2 'dataset.files={}'"
    folder: Path = call["folder"]
    assert folder.is_absolute()
    assert folder.parents[1] == workdir / "outputs"
    assert folder.name.endswith("-bert_tiny-layers")
    assert [path.name for path in folder.iterdir()] == ["record.json"]
    assert os.readlink("outputs/latest") == f"{folder.parent.name}/{folder.name}"  # noqa: PTH115


def test_latest_moves_on_with_success_only(workdir: Path, pipeline: Calls) -> None:
    assert run() == 0
    first = Path("outputs/latest").resolve()
    assert run(f"seed={FAILS}") == 1
    assert Path("outputs/latest").resolve() == first
    assert run() == 0
    assert Path("outputs/latest").resolve() == pipeline[-1]["folder"] != first


def test_latest_that_is_a_folder_is_left_alone(workdir: Path, pipeline: Calls, capsys: Capture) -> None:
    (workdir / "outputs" / "latest" / "mine").mkdir(parents=True)
    assert run() == 0
    assert (workdir / "outputs" / "latest" / "mine").is_dir()
    assert "does not point to this run" in capsys.readouterr().err
    assert not list((workdir / "outputs").glob(".latest*"))


def test_a_folder_of_ones_own(workdir: Path, pipeline: Calls, capsys: Capture) -> None:
    assert run("hydra.run.dir=mine") == 0
    assert sorted(path.name for path in workdir.iterdir()) == ["mine"]
    message = refused(["hydra.run.dir=mine"], capsys)
    assert message == "mine already holds a record; choose another folder with hydra.run.dir=PATH, or delete it"


def test_output_folder_that_cannot_be_written(workdir: Path, locked: Path, pipeline: Calls, capsys: Capture) -> None:
    (workdir / "file").touch()
    message = refused(["hydra.run.dir=file/sub"], capsys)
    assert message.startswith("cannot write the output folder file/sub: Not a directory; choose another")
    for folder in (locked / "sub", locked):
        message = refused([f"hydra.run.dir={folder}"], capsys)
        assert message.startswith(f"cannot write the output folder {folder}: Permission denied; choose another")
    assert list(locked.iterdir()) == []
    assert pipeline == []


def test_failure_keeps_its_exit_code_and_one_line(workdir: Path, pipeline: Calls, capsys: Capture) -> None:
    assert run(f"seed={FAILS}") == 1
    assert capsys.readouterr().err == "kdc: error: the disk is full; free some\n"
    assert run(f"seed={CRASHES}") == 1
    assert capsys.readouterr().err == (
        "kdc: error: unexpected ZeroDivisionError: division by zero; KDC_DEBUG=1 shows the traceback\n"
    )
    assert run(f"seed={EXITS}") == 1


def test_debug_shows_the_traceback(
    workdir: Path, pipeline: Calls, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDC_DEBUG", "1")
    assert run(f"seed={CRASHES}") == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupt(workdir: Path, pipeline: Calls, capsys: Capture) -> None:
    assert run(f"seed={INTERRUPTED}") == 130
    error = capsys.readouterr().err
    assert error == "kdc: interrupted; finished stages are kept, run the same command to go on\n"


def test_dry_run_leaves_nothing(workdir: Path, pipeline: Calls) -> None:
    assert run("dry_run=true") == 0
    assert pipeline[0]["config"].dry_run
    assert [path for path in workdir.rglob("*") if path.is_file() or path.is_symlink()] == []
    assert list((workdir / "outputs").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["teacher=brt"], "teacher=brt: no such choice; did you mean 'bert'?"),
        (["teachr=bert"], "teachr: no such key; did you mean 'teacher'?"),
        (["train.epoch=1"], "train.epoch: no such key of train; did you mean 'epochs'?"),
        (["train.epochs=abc"], "train.epochs: input should be a valid number"),
        (["dataset.metric=acuracy"], "dataset.metric: text-classification has no metric 'acuracy'; did you mean"),
        (["loss.terms.kl.temperature=-1"], "loss.terms.kl.temperature: must be above 0 at all times (got -1)"),
        (["train.batch_size=0"], "train.batch_size: input should be greater than 0 (got 0)"),
        (["compress=none,int8"], "compress: several values make a sweep; add -m, or write compress='[none,int8]'"),
        (["--config-dir", "nowhere"], "--config-dir: no folder 'nowhere'"),
        (["-m", "--cfg", "job"], "argument -c/--cfg: not allowed with argument -m/--multirun"),
        (["--resolve"], "--resolve goes with --cfg alone; add --cfg job, or leave it out"),
        (["-m", "--package", "train", "seed=1,2"], "--package goes with --cfg alone; add --cfg job"),
        (["--bogus"], "unrecognized arguments: --bogus; see `kdc run --help`"),
        (["train"], "'train' is not key=value; write train=CHOICE"),
    ],
)
def test_what_is_refused(words: list[str], message: str, workdir: Path, pipeline: Calls, capsys: Capture) -> None:
    assert refused(words, capsys).startswith(message)
    assert pipeline == []


def test_broken_yaml_is_told_with_file_and_line(workdir: Path, pipeline: Calls, capsys: Capture) -> None:
    broken = workdir / "mine" / "experiment" / "broken.yaml"
    broken.parent.mkdir(parents=True)
    broken.write_text("# @package _global_\n# broken\ntrain:\n  epochs: [1\nseed: 2\n")
    message = refused(["--config-dir", "mine", "experiment=broken"], capsys)
    assert message.startswith(f"{Path('mine/experiment/broken.yaml')}, line 5: ")
    broken.write_bytes(b"# caf\xe9\n")
    assert "broken.yaml: not UTF-8 (byte 5)" in refused(["--config-dir", "mine", "experiment=broken"], capsys)
    broken.write_text("just words\n")
    assert "holds str, not keys with values" in refused(["--config-dir", "mine", "experiment=broken"], capsys)
    broken.write_text("# @package _global_\n# wrong\ndefaults:\n  - override /teacher: nobody\n")
    assert "Could not find 'teacher/nobody'" in refused(["--config-dir", "mine", "experiment=broken"], capsys)


def test_config_dir_adds_and_never_replaces(workdir: Path, pipeline: Calls, capsys: Capture) -> None:
    mine = workdir / "my configs" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\n# mine\nseed: 42\n")
    assert run("experiment=mine", "--config-dir", "my configs") == 0
    assert pipeline[0]["config"].seed == 42
    mine.with_name("sst2_minilm.yaml").write_text("# taken\n")
    assert "kdc ships a file of that name" in refused(["--config-dir", "my configs"], capsys)


def test_cfg_prints_the_composed_config_and_runs_nothing(workdir: Path, pipeline: Calls, capsys: Capture) -> None:
    assert run("teacher.epochs=9", "--cfg", "job") == 0
    printed = capsys.readouterr().out
    assert "  epochs: 9\n" in printed
    assert "name: ${teacher.name}-${student.name}\n" in printed
    assert "hydra" not in printed
    assert run("--cfg", "job", "--resolve", "--package", "name") == 0
    assert capsys.readouterr().out == "bert_tiny-layers\n"
    assert pipeline == []
    assert list(workdir.iterdir()) == []


def test_values_that_hydras_grammar_refuses(workdir: Path, pipeline: Calls) -> None:
    assert run("dataset=csv", "dataset.files.train=~/données #1=a.csv", "dataset.columns.text=a b") == 0
    dataset = pipeline[0]["config"].dataset
    assert dataset.files.train == str(Path.home() / "données #1=a.csv")
    assert dataset.columns["text"] == "a b"


def test_number_of_layers_chooses_the_student_that_has_them(workdir: Path, pipeline: Calls) -> None:
    assert run("student.layers=2") == 0
    assert pipeline[0]["config"].student.name == "layers"
    assert pipeline[0]["config"].student.layers == 2


def test_help_shows_groups_and_examples(capsys: Capture) -> None:
    assert run("--help") == 0
    printed = capsys.readouterr().out
    assert "kdc run -m compress=none,int8" in printed
    assert "bert_tiny*" in printed
    assert "powered by hydra" not in printed.lower()
