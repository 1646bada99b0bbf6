"""Real processes that end in every way there is."""

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

from kdc import processes
from kdc.errors import KdcError
from kdc.processes import run_worker, worker_environment

JOB = {"plugins": [], "threads": 1, "workloads": [{"batch": 1, "length": 8}], "calls": 3, "seconds": 0.01, "rows": None}


def timed(job, seconds=None):
    smaller = "bench.batches can be smaller"
    return run_worker(job, name="timing student", module="kdc.measure.worker", smaller=smaller, seconds=seconds)


def test_threads_are_set_before_libraries_load_and_the_import_path_is_handed_on(monkeypatch):
    monkeypatch.syspath_prepend("/somewhere/plugins")
    environment = worker_environment(3)
    assert {environment[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS")} == {"3"}
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == "/somewhere/plugins"
    command = [sys.executable, "-P", "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "3\n"


def test_the_working_folder_is_no_place_to_import_from(tmp_path, monkeypatch):
    (tmp_path / "here.py").write_text("")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "here_too.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", ".", "lib", *sys.path])
    probe = "from importlib.util import find_spec; print(*map(find_spec, ('here', 'here_too')), bool(find_spec('kdc')))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", probe], env=worker_environment(1), capture_output=True, text=True, check=True
    )
    assert done.stdout == "None None True\n"


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (signal.SIGTERM, r"ended with signal 15$"),
        (signal.SIGKILL, r"was killed; out of memory\? bench\.batches can be smaller$"),
    ],
)
def test_a_worker_that_is_killed_is_named(sent, said, text_artifacts):
    """For real: the process is killed while it makes calls without end."""
    job = {**JOB, "artifact": str(text_artifacts["onnxruntime"]), "calls": 10**9, "seconds": 60}

    def kill():
        while not (children := psutil.Process().children()):
            time.sleep(0.01)
        time.sleep(0.2)
        children[0].send_signal(sent)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(KdcError, match=rf"^timing student: the process {said}") as caught:
        timed(job)
    killer.join()
    assert caught.value.exit_code == 1


def test_a_worker_that_hangs_is_stopped_and_gone(text_artifacts):
    job = {**JOB, "artifact": str(text_artifacts["onnxruntime"]), "calls": 10**9, "seconds": 60}
    with pytest.raises(
        KdcError, match=r"still running after 0.5 s and was stopped; bench.batches can be smaller; or free"
    ) as caught:
        timed(job, seconds=0.5)
    assert caught.value.exit_code == 1
    assert psutil.Process().children() == []


def test_a_worker_that_runs_out_of_memory_is_told_how_to_need_less(text_artifacts):
    job = {**JOB, "artifact": str(text_artifacts["onnxruntime"]), "workloads": [{"batch": 10**11, "length": 32}]}
    with pytest.raises(
        KdcError, match=r"timing student: the process ended: .*MemoryError.*; out of memory\? bench"
    ) as e:
        timed(job)
    assert e.value.exit_code == 1


def test_an_artifact_that_went_missing_is_one_line(tmp_path):
    with pytest.raises(KdcError, match=r"^timing student: .*gone is no kdc artifact: it has no kdc.json") as caught:
        timed({**JOB, "artifact": str(tmp_path / "gone")})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("returncode", "stderr", "said"),
    [
        (1, "Traceback\nValueError: no such file", "the process ended with exit code 1: ValueError: no such file"),
        (-11, "", "the process ended with signal 11"),
        (-9, "", "the process was killed; out of memory? bench.batches can be smaller"),
        (1, "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", "out of memory?"),
        (1, "onnxruntime::BFCArena: Failed to allocate memory for requested buffer", "out of memory?"),
    ],
)
def test_what_a_worker_says_at_its_end_is_told(returncode, stderr, said, monkeypatch):
    done = SimpleNamespace(returncode=returncode, stderr=stderr, stdout="")
    monkeypatch.setattr(processes.subprocess, "run", lambda *args, **kwargs: done)
    with pytest.raises(KdcError) as caught:
        timed(JOB, seconds=5)
    assert str(caught.value).startswith("timing student: ")
    assert said in str(caught.value)
    assert caught.value.exit_code == 1
