from pathlib import Path

import numpy as np
import pytest

from kdc import machine
from kdc.errors import KdcError
from kdc.measure.decision import judge
from kdc.measure.noise import FEWEST_ROUNDS, LOOK_CONFIDENCE, keep_floor, known_floor, measure_floor
from kdc.measure.rounds import Contender
from kdc.measure.settings import BenchConfig
from tests.workers import Workers

BENCH = BenchConfig(name="tiny", batches=[1, 8], lengths=[8, 16], threads=1)


def test_the_floor_is_the_margin_that_a_gate_would_need_to_pass_the_same_files(text_artifacts, monkeypatch):
    first, again = [1.0, 1.02, 1.01, 0.99, 1.0, 1.03, 1.0, 1.01], [1.03, 1.0, 1.05, 1.0, 0.99, 1.02, 1.04, 1.0]
    workers = Workers({"A": first, "A again": again}).install(monkeypatch)
    floor = measure_floor(Contender(text_artifacts["onnxruntime"]), BENCH, rounds=8)
    differences = np.log(np.array(again) / np.array(first))
    for d, margin in ((differences, floor.floor), (-differences, floor.floor)):
        assert judge(d, 1.001 * margin, confidence=LOOK_CONFIDENCE).outcome == "pass"
    passed = [judge(d, 0.999 * floor.floor, confidence=LOOK_CONFIDENCE).outcome for d in (differences, -differences)]
    assert "inconclusive" in passed
    assert (floor.rounds, floor.runtime, floor.precision) == (8, "onnxruntime", "fp32")
    assert floor.workload == {"batch": 1, "length": 8, "threads": 1}
    assert floor.machine == machine.fingerprint()
    name, job = workers.jobs[0]
    assert (name, job["artifact"], job["rows"]) == ("A", str(text_artifacts["onnxruntime"]), None)
    assert len(job["workloads"]) == 1


def test_a_floor_is_taken_with_the_gates_own_calls_and_seconds(text_artifacts, monkeypatch):
    """A quieter way of timing would let margins pass that the gate cannot resolve."""
    workers = Workers({"A": [1.0] * 6, "A again": [1.0] * 6}).install(monkeypatch)
    long = BENCH.model_copy(update={"calls": 1000, "seconds": 60.0})
    measure_floor(Contender(text_artifacts["onnxruntime"]), long, rounds=6)
    gate = BenchConfig.of_gate(batch=1, length=8, threads=1)
    assert {(job["calls"], job["seconds"], job["threads"]) for _, job in workers.jobs} == {
        (gate.calls, gate.seconds, gate.threads)
    }


def test_rounds_that_bound_nothing_are_refused(text_artifacts):
    differences = np.linspace(-0.01, 0.01, FEWEST_ROUNDS)
    assert np.isfinite(judge(differences, 0.0, confidence=LOOK_CONFIDENCE).high)
    assert not np.isfinite(judge(differences[1:], 0.0, confidence=LOOK_CONFIDENCE).high)
    with pytest.raises(KdcError, match=r"5 rounds bound no noise; take at least 6"):
        measure_floor(Contender(text_artifacts["onnxruntime"]), BENCH, rounds=5)


def test_more_rounds_than_a_gate_has_are_refused(text_artifacts):
    with pytest.raises(KdcError, match=r"a gate has no 33 rounds .*; take at most 32"):
        measure_floor(Contender(text_artifacts["onnxruntime"]), BENCH, rounds=33)


def test_a_workload_that_cannot_be_run_is_refused_before_any_worker_starts(text_artifacts, monkeypatch):
    workers = Workers({}).install(monkeypatch)
    long = BENCH.model_copy(update={"lengths": [128, 16]})
    with pytest.raises(KdcError, match=r"nothing of the bench: not timed at length 128: the model takes at most 32; "):
        measure_floor(Contender(text_artifacts["onnxruntime"]), long, rounds=6)
    assert workers.jobs == []


def test_a_floor_is_remembered_for_its_machine(text_artifacts, tmp_path: Path, monkeypatch):
    assert known_floor(tmp_path) is None
    Workers({"A": [1.0] * 6, "A again": [1.0] * 6}).install(monkeypatch)
    floor = measure_floor(Contender(text_artifacts["onnxruntime"]), BENCH, rounds=6)
    assert floor.floor == pytest.approx(0)
    kept = keep_floor(floor, tmp_path)
    assert kept == tmp_path / "noise" / f"{machine.fingerprint()}.json"
    assert known_floor(tmp_path) == floor
    again = floor.model_copy(update={"floor": 0.5})
    keep_floor(again, tmp_path)
    assert known_floor(tmp_path) == again
    monkeypatch.setattr(machine, "fingerprint", lambda: "another")
    assert known_floor(tmp_path) is None


def test_a_damaged_floor_says_how_to_have_a_new_one(tmp_path):
    path = tmp_path / "noise" / f"{machine.fingerprint()}.json"
    path.parent.mkdir()
    path.write_text('{"floor": ')
    with pytest.raises(KdcError, match=r"holds no noise floor; measure it again: kdc bench ARTIFACT --noise"):
        known_floor(tmp_path)
