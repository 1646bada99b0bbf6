import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.measure import latency, machine_lock
from kdc.measure.latency import rotations, time_variants, worker_environment
from kdc.measure.settings import BenchConfig
from kdc.record import Variant

BENCH = BenchConfig(name="tiny", batches=[1, 2], lengths=[8, 128], rounds=3, calls=5, seconds=0.2, rows=4, threads=1)


def test_every_round_starts_every_variant_once_in_turned_order():
    assert rotations(["a", "b", "c"], 4) == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_real_artifacts_in_real_processes(text_artifacts, texts):
    seen = []
    timings = time_variants(
        text_artifacts, BENCH, rows=texts, baselines=["torch"], progress=lambda *step: seen.append(step)
    )
    assert seen == [
        (0, 6, "torch"), (1, 6, "onnxruntime"), (2, 6, "onnxruntime"),
        (3, 6, "torch"), (4, 6, "torch"), (5, 6, "onnxruntime"),
    ]  # fmt: skip
    timing = timings["onnxruntime"]
    assert [entry.workload for entry in timing.latency] == [
        {"batch": 1, "length": 8, "threads": 1}, {"batch": 2, "length": 8, "threads": 1},
        {"rows": 4, "batch": 1, "end_to_end": True, "threads": 1},
    ]  # fmt: skip
    assert timing.notes[0] == "onnxruntime: not timed at length 128: the model takes at most 32"
    for entry in timing.latency:
        pooled = sorted(ms for process in entry.samples for ms in process)
        assert len(entry.samples) == 3
        assert pooled[0] <= entry.p50_ms <= pooled[-1]
        assert entry.p90_ms is None
        assert entry.throughput == pytest.approx(1000 * entry.workload["batch"] * len(pooled) / sum(pooled))
        assert [versus.against for versus in entry.versus] == ["torch"]
        assert entry.versus[0].ci95[0] <= entry.versus[0].ratio <= entry.versus[0].ci95[1]
    assert all(entry.versus == [] for entry in timings["torch"].latency)
    # What a process with torch holds, one with onnxruntime does not.
    assert timing.memory.peak_rss_bytes < timings["torch"].memory.peak_rss_bytes
    assert timing.load_seconds < timings["torch"].load_seconds
    Variant(
        name="x", stage="s", runtime="onnxruntime", precision="fp32", latency=timing.latency, memory=timing.memory,
        load_seconds=timing.load_seconds, first_call_ms=timing.first_call_ms,
    )  # fmt: skip


def test_images_have_batches_and_no_lengths(image_artifacts, images):
    quick = BENCH.model_copy(update={"rounds": 1})
    only = {"onnxruntime": image_artifacts["onnxruntime"]}
    timing = time_variants(only, quick, rows=images, baselines=[])["onnxruntime"]
    assert [entry.workload for entry in timing.latency] == [
        {"batch": 1, "threads": 1}, {"batch": 2, "threads": 1},
        {"rows": 4, "batch": 1, "end_to_end": True, "threads": 1},
    ]  # fmt: skip


@pytest.fixture
def fake_workers(monkeypatch):
    """Workers that answer at once: variant `a` takes 4, 8, 2 ms in the three rounds, `b` always 2 ms."""
    medians = {"a": iter([4.0, 8.0, 2.0]), "b": iter([2.0, 2.0, 2.0])}

    def answer(job, name, seconds):
        center = next(medians[name])
        timed = [{"samples": [center] * 30, "steady": name == "a"} for _ in job["workloads"]]
        memory = dict.fromkeys(("idle_rss_bytes", "loaded_rss_bytes", "peak_rss_bytes"), 10)
        return {"timed": timed, "load_seconds": center, "first_call_ms": 9.0, **memory}

    monkeypatch.setattr(latency, "_run_worker", answer)
    monkeypatch.setattr(latency, "_grid", lambda *_: ([{"batch": 4}], []))


def test_ratios_come_from_common_rounds(fake_workers):
    bench = BENCH.model_copy(update={"rows": 0})
    timings = time_variants({"a": Path("a"), "b": Path("b")}, bench, rows=Examples({"text": []}), baselines=["a"])
    (entry,) = timings["b"].latency
    assert entry.versus[0].ratio == pytest.approx((2 * 4 * 1) ** (1 / 3))
    assert entry.samples == [[2.0] * 30] * 3
    assert (entry.p50_ms, entry.p90_ms, entry.p99_ms, entry.throughput) == (2.0, 2.0, None, 2000.0)
    assert timings["a"].load_seconds == 4.0
    assert timings["b"].notes == ["b did not become steady in its warm-up at: batch 4"]
    assert timings["a"].notes == []


def test_all_that_a_container_may_use_unless_the_bench_says(fake_workers, monkeypatch):
    jobs = []
    answer = latency._run_worker
    monkeypatch.setattr(latency, "_run_worker", lambda job, *rest: jobs.append(job) or answer(job, *rest))
    monkeypatch.setattr("kdc.machine.threads", lambda: 3)
    bench = BENCH.model_copy(update={"rows": 0, "rounds": 1, "threads": None})
    time_variants({"b": Path("b")}, bench, rows=Examples({}), baselines=[], plugins=["mine"])
    assert (jobs[0]["threads"], jobs[0]["plugins"]) == (3, ["mine"])


def test_the_machine_is_held_while_workers_run(fake_workers, monkeypatch):
    held = []

    class Timing:
        def __enter__(self):
            held.append("in")

        def __exit__(self, *_):
            held.append("out")

    monkeypatch.setattr(machine_lock, "timing", lambda notify: Timing())
    bench = BENCH.model_copy(update={"rows": 0, "rounds": 1})
    time_variants({"b": Path("b")}, bench, rows=Examples({}), baselines=[], progress=lambda *step: held.append(step[2]))
    assert held == ["in", "b", "out"]


def test_threads_are_set_before_libraries_load_and_the_import_path_is_handed_on(monkeypatch):
    monkeypatch.syspath_prepend("/somewhere/plugins")
    environment = worker_environment(3)
    assert {environment[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS")} == {"3"}
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == "/somewhere/plugins"
    command = [sys.executable, "-P", "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "3\n"


@pytest.mark.parametrize(
    ("returncode", "stderr", "said"),
    [
        (1, "Traceback\nValueError: no such file", "timing student: the process ended with exit code 1: ValueError"),
        (-9, "", "timing student: the process ended with signal 9; out of memory"),
    ],
)
def test_a_worker_that_dies_is_named(returncode, stderr, said, monkeypatch):
    done = SimpleNamespace(returncode=returncode, stderr=stderr, stdout="")
    monkeypatch.setattr(latency.subprocess, "run", lambda *args, **kwargs: done)
    with pytest.raises(KdcError, match=said) as caught:
        latency._run_worker({"threads": 1}, "student", 5)
    assert caught.value.exit_code == 1


def test_a_worker_that_hangs_is_stopped(text_artifacts, texts):
    with pytest.raises(KdcError, match=r"still running after 0.05 s and was stopped; time less"):
        time_variants(text_artifacts, BENCH, rows=texts, baselines=[], worker_seconds=0.05)
