"""`torchrun --nproc-per-node 2 -m kdc run ...`: one run, one record, one line where it fails, nothing half-written."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from kdc.cli.main import main
from kdc.record import RunRecord
from kdc.store import Store
from tests import runs
from tests.torchrun import torchrun

pytestmark = pytest.mark.slow

WORDS = (
    *("compress=prune_ffn", "compress.prune_ffn.recover={epochs: 1}"),
    *("runtime=torch", "train.precision=fp32", "train.batch_size=9", "hydra.run.dir=out"),
    *("teacher.learning_rate=1e-2", "train.learning_rate=5e-3", "train.schedule=constant"),
    "teacher.architecture.hidden_dropout_prob=0",
    "teacher.architecture.attention_probs_dropout_prob=0",
)
"""The last of 64 rows is a batch by itself."""
GONE = "another process of this run is gone; torchrun says which, and how it ended"
STOPPED = "torchrun stopped this run; its own lines say why"
PLUGIN = """
import os, time
from kdc import timing
from kdc.distill.signals import CachedSignals
from tests import runs

timing.time_variants = runs.untimed
answer = CachedSignals.__call__

def failing(self, rows):
    if os.environ.get("RANK") == "{rank}" and "{how}" != "not":
        print("a word of another process", flush=True)
        if "{how}" == "killed":
            os.kill(os.getpid(), 9)
        raise LookupError("the disk caught fire")
    return answer(self, rows)

CachedSignals.__call__ = failing
"""


def start(folder: Path, *words: str, rank: int = 0, how: str = "not") -> subprocess.Popen[str]:
    """A small run in `folder`, untimed; process `rank` may fail while it trains the student."""
    folder.mkdir(exist_ok=True)
    (folder / "helping.py").write_text(PLUGIN.format(rank=rank, how=how))
    runs.write_csv(folder / "train.csv")
    given = runs.words(folder / "train.csv", folder / "cache", *WORDS, "plugins=[helping]", *words)
    return torchrun("-m", "kdc", "run", *given, cwd=folder, paths=[folder])


def end(process: subprocess.Popen[str]) -> tuple[str, list[str]]:
    """Its stdout, and the lines of kdc's on stderr."""
    output, errors = process.communicate(timeout=240)
    return output, [line for line in errors.splitlines() if line.startswith("kdc: ")]


def test_two_processes_make_the_run_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(tmp_path / "two")
    (tmp_path / "one").mkdir()
    train = runs.write_csv(tmp_path / "one" / "train.csv")
    monkeypatch.setattr("kdc.timing.time_variants", runs.untimed)
    monkeypatch.chdir(tmp_path / "one")
    assert main(["run", *runs.words(train, tmp_path / "one" / "cache", *WORDS)]) == 0
    output, errors = end(process)
    assert process.returncode == 0, errors
    assert output.count("report: ") == 1
    one, two = (RunRecord.load(tmp_path / name / "out") for name in ("one", "two"))
    assert [stage.name for stage in two.stages] == [stage.name for stage in one.stages]
    assert not any(stage.cached for stage in two.stages)
    for ours, theirs in zip(two.stages, one.stages, strict=True):
        if theirs.train is not None:
            assert ours.train is not None
            assert ours.train.steps == theirs.train.steps == (8 if ours.name == "recover prune_ffn" else 16)
            assert len(ours.train.history) == len(theirs.train.history)
            for row, other in zip(ours.train.history, theirs.train.history, strict=True):
                norms = [entry.pop("grad_norm", 0.0) for entry in (row, other)]
                assert norms[0] == pytest.approx(norms[1], rel=1e-3)
                assert row == pytest.approx(other, rel=1e-5, abs=1e-6)
    store = Store(tmp_path / "two" / "cache")
    assert sorted(entry.name for entry in store.entries()) == sorted(
        entry.name for entry in Store(tmp_path / "one" / "cache").entries()
    )
    assert store.verify() == []
    left = {path.name for path in (tmp_path / "two").iterdir()} - {"__pycache__"}
    assert left == {"cache", "helping.py", "out", "train.csv"}
    assert sorted(path.name for path in (tmp_path / "two" / "out").iterdir()) == sorted(
        path.name for path in (tmp_path / "one" / "out").iterdir()
    )


def failed(folder: Path) -> RunRecord:
    """The record of a run that failed while it trained the student, of which the store has nothing half-done."""
    record = RunRecord.load(folder / "out")
    assert (record.run.status, record.run.failed_stage) == ("failed", "student")
    assert {entry.name for entry in Store(folder / "cache").entries() if not entry.unfinished} == {
        "data", "teacher", "signals"
    }  # fmt: skip
    assert list((folder / "cache" / "tmp").iterdir()) == []
    return record


@pytest.mark.parametrize(
    ("rank", "how", "line"),
    [
        (0, "raises", "unexpected LookupError: the disk caught fire; KDC_DEBUG=1 shows the traceback"),
        (1, "raises", "process 1: unexpected LookupError: the disk caught fire; KDC_DEBUG=1 shows the traceback"),
        (1, "killed", GONE),
    ],
)
def test_a_process_that_fails_ends_the_run_with_one_line(rank: int, how: str, line: str, tmp_path: Path) -> None:
    started = time.monotonic()
    process = start(tmp_path, rank=rank, how=how)
    output, errors = end(process)
    assert process.returncode == 1
    if line is GONE and STOPPED in errors[0]:
        line = STOPPED  # torchrun was faster than the connection's end
    assert errors == [f"kdc: error: {line}"]
    assert "a word" not in output or rank == 0
    assert time.monotonic() - started < 120
    assert failed(tmp_path).run.error in (line, "LookupError: the disk caught fire")


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path) -> None:
    process = start(tmp_path, "train.epochs=2000")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cache").glob("scratch/student-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = end(process)
    assert process.returncode != 0
    assert errors == ["kdc: interrupted; finished stages are kept, run the same command to go on"]
    assert failed(tmp_path).run.error == "interrupted"


def test_a_configuration_that_is_refused_is_refused_once(tmp_path: Path) -> None:
    process = start(tmp_path, "train.epoch=1")
    _, errors = end(process)
    assert process.returncode == 1
    assert [line.partition(";")[0] for line in errors] == ["kdc: error: train.epoch: no such key of train"]
    assert not (tmp_path / "out").exists()


def test_a_sweep_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["run", "-m", "seed=1,2"]) == 2
    assert capsys.readouterr().err.startswith("kdc: error: -m: torchrun's processes share one run, not the jobs of a")


def test_numbers_that_torchrun_did_not_set_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert main(["run"]) == 2
    assert "RANK or WORLD_SIZE is set, but torchrun did not set them" in capsys.readouterr().err
