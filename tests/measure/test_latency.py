import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdc.errors import KdcError
from kdc.measure import rounds
from kdc.measure.latency import VariantTiming, how_timed, time_variants
from kdc.measure.noise import NoiseFloor
from kdc.measure.rounds import Contender
from kdc.measure.settings import BenchConfig
from kdc.record import Variant
from tests.workers import Workers

pytestmark = pytest.mark.slow

BENCH = BenchConfig(name="tiny", batches=[1, 2], lengths=[8, 128], rounds=3, calls=5, seconds=0.2, rows=4, threads=1)


def test_real_artifacts_in_real_processes(text_artifacts, texts):
    seen = []
    contenders = {name: Contender(path, rows=texts, against=("torch",)) for name, path in text_artifacts.items()}
    timings = time_variants(contenders, BENCH, progress=lambda *step: seen.append(step))
    assert seen == [
        (0, 6, "torch"), (1, 6, "onnxruntime"), (2, 6, "onnxruntime"),
        (3, 6, "torch"), (4, 6, "torch"), (5, 6, "onnxruntime"),
    ]  # fmt: skip
    timing = timings["onnxruntime"]
    assert [entry.workload for entry in timing.latency] == [
        {"batch": 1, "length": 8, "threads": 1}, {"batch": 2, "length": 8, "threads": 1},
        {"rows": 4, "batch": 1, "end_to_end": True, "threads": 1},
    ]  # fmt: skip
    assert timing.notes[0] == "not timed at length 128: the model takes at most 32"
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
    assert timing.memory.peak_gpu_bytes is None
    assert timing.load_seconds < timings["torch"].load_seconds
    Variant(
        name="x", stage="s", runtime="onnxruntime", precision="fp32", latency=timing.latency, memory=timing.memory,
        load_seconds=timing.load_seconds, first_call_ms=timing.first_call_ms,
    )  # fmt: skip


def test_an_artifact_that_fails_does_not_cost_the_others_their_timing(text_artifacts, texts, tmp_path):
    """For real: the graph of one is no graph."""
    broken = tmp_path / "broken"
    shutil.copytree(text_artifacts["onnxruntime"], broken)
    (broken / "forward.onnx").write_bytes(b"nonsense")
    paths = {"broken": broken, "whole": text_artifacts["onnxruntime"], "again": text_artifacts["onnxruntime"]}
    contenders = {name: Contender(path, rows=texts, against=("broken", "whole")) for name, path in paths.items()}
    said: list[str] = []
    timings = time_variants(contenders, BENCH.model_copy(update={"rounds": 2}), notify=said.append)
    failed = timings["broken"]
    assert (failed.latency, failed.memory, failed.load_seconds, failed.first_call_ms) == ([], None, None, None)
    assert [timing.processes for timing in timings.values()] == [0, 2, 2]
    assert failed.notes[-1].startswith("NOT TIMED: the process ended with exit code 1: ")
    assert len(failed.notes[-1].splitlines()) == 1
    assert said == [f"broken: {failed.notes[-1]}"]
    for entry in timings["again"].latency:
        assert [len(entry.samples), *(versus.against for versus in entry.versus)] == [2, "whole"]
    with pytest.raises(KdcError, match=r"^timing broken: the process ended with exit code 1: "):
        time_variants({"broken": Contender(broken)}, BENCH)


def test_images_have_batches_and_no_lengths(image_artifacts, images):
    quick = BENCH.model_copy(update={"rounds": 1})
    timing = time_variants({"student": Contender(image_artifacts["onnxruntime"], rows=images)}, quick)["student"]
    assert [entry.workload for entry in timing.latency] == [
        {"batch": 1, "threads": 1}, {"batch": 2, "threads": 1},
        {"rows": 4, "batch": 1, "end_to_end": True, "threads": 1},
    ]  # fmt: skip


@pytest.fixture
def no_artifacts(monkeypatch):
    from kdc.export.artifact import Artifact

    monkeypatch.setattr(Artifact, "open", lambda *_: SimpleNamespace(task="any"))
    monkeypatch.setattr(rounds, "grid", lambda *_: ([{"batch": 4}], []))


MEDIANS = {"a": [4.0, 8.0, 2.0], "b": [2.0, 2.0, 2.0]}


def test_ratios_come_from_common_rounds(no_artifacts, monkeypatch):
    Workers(MEDIANS).install(monkeypatch)
    timings = time_variants({"a": Contender(Path("a")), "b": Contender(Path("b"), against=("b", "a"))}, BENCH)
    (entry,) = timings["b"].latency
    assert [versus.against for versus in entry.versus] == ["a"]
    assert entry.versus[0].ratio == pytest.approx((2 * 4 * 1) ** (1 / 3))
    assert entry.samples == [[2.0] * 30] * 3
    assert (entry.p50_ms, entry.p90_ms, entry.p99_ms, entry.throughput) == (2.0, 2.0, None, 2000.0)
    assert timings["a"].latency[0].versus == []
    assert timings["a"].load_seconds == 4.0
    assert (entry.joules, timings["a"].notes, timings["b"].notes) == (None, [], [])


def test_energy_is_that_of_the_median_process(no_artifacts, monkeypatch):
    Workers(MEDIANS, joules=0.25).install(monkeypatch)
    timing = time_variants({"a": Contender(Path("a"))}, BENCH)["a"]
    assert timing.latency[0].joules == 0.25


def test_a_workload_that_many_processes_never_found_steady_is_noted(no_artifacts, monkeypatch):
    Workers(MEDIANS, steady=False).install(monkeypatch)
    timing = time_variants({"b": Contender(Path("b"))}, BENCH)["b"]
    assert timing.notes == ["not steady after its warm-up at: batch 4 (3 of 3 processes)"]


def test_the_record_says_how_it_was_timed():
    timings = [VariantTiming([], processes=3), VariantTiming([], processes=3)]
    told = how_timed(timings, BENCH, seconds=12.34567, floor=None)
    assert (told.rounds, told.processes, told.wall_seconds, told.noise_floor) == (3, 6, 12.346, None)
    known = NoiseFloor(
        floor=0.021, rounds=8, workload={}, runtime="torch", precision="fp32", machine=told.machine, measured_at="now"
    )
    assert how_timed(timings, BENCH, seconds=1, floor=known).noise_floor == 0.021


def test_a_worker_that_hangs_ends_the_timing(text_artifacts):
    with pytest.raises(KdcError, match=r"timing torch: the process was still running after 0.05 s"):
        time_variants({"torch": Contender(text_artifacts["torch"])}, BENCH, worker_seconds=0.05)
