"""Time rules: what is settled without timing, what rounds decide, and once with real processes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdc import machine
from kdc.errors import KdcError
from kdc.gate import latency
from kdc.gate.latency import Timer, latency_results
from kdc.gate.report import Result
from kdc.gate.rules import load_rules
from kdc.gate.side import open_baseline, open_candidate
from kdc.measure import decision
from kdc.measure.noise import NoiseFloor
from kdc.measure.size import artifact_size
from kdc.record import RunRecord
from tests import tiny
from tests.artifacts import texts
from tests.gates import NAME, WORKLOAD, answers, fake_timing, write_run

pytestmark = pytest.mark.slow

__all__ = ["texts"]

NOISE = NoiseFloor(
    floor=0.08, rounds=8, workload=WORKLOAD, runtime="onnxruntime", precision="fp32", machine="m",
    measured_at="2030-01-02T03",
)  # fmt: skip


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    return write_run(tmp_path / "baseline", answers(rows=20, wrong=2))


@pytest.fixture
def now(tmp_path: Path) -> Path:
    return write_run(tmp_path / "now", answers(rows=20, wrong=2), weights=b"other weights")


def judged(now: Path, before: Path, *words: str, noise: NoiseFloor | None = None) -> list[Result]:
    rule = load_rules("default", words).latency
    assert rule is not None
    candidate = open_candidate(now)
    return latency_results(rule, candidate, open_baseline(before, candidate), Timer(noise))


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing should be timed")


@pytest.mark.parametrize(("milliseconds", "outcome"), [(10.1, "pass"), (11.5, "fail"), (9.0, "pass")])
def test_rounds_decide(
    milliseconds: float, outcome: str, now: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "timed_rounds", fake_timing(milliseconds))
    (result,) = judged(now, baseline)
    assert (result.rule, result.limit, result.outcome) == ("latency.max_slowdown", "5.0%", outcome)
    assert result.estimate == pytest.approx(milliseconds / 10 - 1, abs=0.02)
    assert result.low is not None
    assert result.high is not None
    assert result.low < result.estimate < result.high
    assert "at batch 1 x 32 tokens (95% bounds" in result.why
    assert result.why.endswith("5.0% is allowed")


def test_more_rounds_where_few_decide_nothing(now: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = fake_timing(10.49, noise=0.01)
    monkeypatch.setattr(latency, "timed_rounds", timed)
    (result,) = judged(now, baseline)
    assert result.outcome == "inconclusive"
    assert timed.rounds.count == decision.LOOKS[-1]  # type: ignore[attr-defined]
    assert "32 rounds" in result.why


def test_a_difference_below_the_floor_never_fails(now: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "timed_rounds", fake_timing(11.5))
    (result,) = judged(now, baseline, "latency.floor=3ms")
    assert result.outcome == "pass"
    assert result.limit == "3 ms"


def test_an_absolute_limit_needs_no_baseline(now: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = fake_timing(10.0)
    monkeypatch.setattr(latency, "timed_rounds", timed)
    results = judged(now, baseline / "record.json", "latency.max=15ms")
    assert [(result.rule, result.outcome) for result in results] == [
        ("latency.max_slowdown", "informational"), ("latency.max", "pass"),
    ]  # fmt: skip
    assert list(timed.rounds.workloads) == ["now"]  # type: ignore[attr-defined]
    (result,) = judged(now, baseline, "latency={max: 8ms}")
    assert result.outcome == "fail"
    assert result.why.endswith("at most 8.00 ms is wanted")


def test_one_timing_serves_both_limits(now: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = fake_timing(11.5)
    monkeypatch.setattr(latency, "timed_rounds", timed)
    assert [result.outcome for result in judged(now, baseline, "latency.max=20ms")] == ["fail", "pass"]
    assert timed.rounds.count == decision.LOOKS[0]  # type: ignore[attr-defined]


def test_equal_files_are_equally_fast(tmp_path: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "timed_rounds", never)
    (result,) = judged(write_run(tmp_path / "same", answers(rows=20, wrong=2)), baseline)
    assert (result.outcome, result.why) == ("pass", "latency: the files are the same")


def test_times_without_a_counterpart_here_are_told_and_not_judged(
    tmp_path: Path, now: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "timed_rounds", never)
    (result,) = judged(now, baseline / "record.json")
    assert (result.outcome, result.baseline) == ("informational", "10.0 ms (recorded)")
    assert result.why.endswith("record.json is a bare record, with nothing to time again")
    elsewhere = write_run(
        tmp_path / "elsewhere",
        answers(rows=20, wrong=2),
        change=lambda r: r["environment"]["cpu"].update(model="other"),
    )
    (result,) = judged(now, elsewhere)
    assert result.outcome == "informational"
    assert result.why.endswith("elsewhere is of another machine; save a baseline on this one")
    (baseline / "artifacts" / NAME / "forward.onnx").unlink()
    (baseline / "artifacts" / NAME).rmdir()
    (result,) = judged(now, baseline)
    assert result.outcome == "informational"
    assert result.why.endswith("baseline is gone")


def test_a_baseline_that_was_changed_is_refused(now: Path, baseline: Path) -> None:
    (baseline / "artifacts" / NAME / "forward.onnx").write_bytes(b"something else")
    with pytest.raises(KdcError, match=r"baseline/artifacts/.* was changed since its record was written"):
        judged(now, baseline)


def test_a_margin_below_the_noise_is_refused(now: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "timed_rounds", never)
    (result,) = judged(now, baseline, noise=NOISE)
    assert result.outcome == "refused"
    assert result.why.startswith(
        "latency: a margin of 5.0% is below the noise of this machine, 8.0% (measured on 2030-01-02); ask for at least"
    )
    monkeypatch.setattr(latency, "timed_rounds", fake_timing(10.0))
    assert judged(now, baseline, "latency.max_slowdown=9%", noise=NOISE)[0].outcome == "pass"
    assert judged(now, baseline, "latency.floor=1ms", noise=NOISE)[0].outcome == "pass"  # 10% of 10 ms


def test_a_floor_is_held_against_the_noise_by_what_was_timed_not_by_what_was_recorded(
    tmp_path: Path, now: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(record: dict[str, Any]) -> None:
        record["variants"][0]["latency"][0]["p50_ms"] = 15.0

    before = write_run(tmp_path / "slow", answers(rows=20, wrong=2), change=slow)
    monkeypatch.setattr(latency, "timed_rounds", fake_timing(10.0))
    (result,) = judged(now, before, "latency.floor=1ms", noise=NOISE)
    assert (result.outcome, result.limit) == ("pass", "1 ms")
    (result,) = judged(now, before, "latency.floor=0.7ms", noise=NOISE)
    assert (result.outcome, result.limit) == ("refused", "0.7 ms")
    assert result.why.startswith("latency: a margin of 6.8% is below the noise of this machine, 8.0%")  # of 10.3 ms


@pytest.mark.parametrize(
    ("changed", "seen"),
    [
        ({"runtime": "torch"}, "torch fp32 at batch 1 x 32 tokens on 2 threads"),
        ({"precision": "int8"}, "onnxruntime int8 at batch 1 x 32 tokens on 2 threads"),
        ({"workload": {**WORKLOAD, "threads": 1}}, "onnxruntime fp32 at batch 1 x 32 tokens on 1 thread"),
        ({"workload": {**WORKLOAD, "length": 128}}, "onnxruntime fp32 at batch 1 x 128 tokens on 2 threads"),
    ],
)
def test_noise_that_was_measured_with_something_else_is_said_to_be(
    changed: dict[str, Any], seen: str, now: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "timed_rounds", fake_timing(10.0))
    noise = NOISE.model_copy(update=changed)
    other = f"with {seen}, not with onnxruntime fp32 at batch 1 x 32 tokens on 2 threads"
    (result,) = judged(now, baseline, noise=noise)
    assert f"8.0% (measured on 2030-01-02 {other}); ask for" in result.why
    said: list[str] = []
    candidate = open_candidate(now)
    rule = load_rules("default", ["latency.max_slowdown=9%"]).latency
    assert rule is not None
    latency_results(rule, candidate, open_baseline(baseline, candidate), Timer(noise, notify=said.append))
    assert said == [f"the noise of this machine was measured {other}; again: kdc bench ARTIFACT --noise"]
    latency_results(rule, candidate, open_baseline(baseline, candidate), Timer(NOISE, notify=said.append))
    assert len(said) == 1


def test_the_workload_is_the_runs_unless_the_rule_says(
    tmp_path: Path, now: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(contenders: Any, bench: Any, **_: Any) -> Any:
        seen.append((bench.batches, bench.lengths, bench.threads))
        raise KeyError

    monkeypatch.setattr(latency, "timed_rounds", look)
    untimed = write_run(
        tmp_path / "untimed", answers(rows=20, wrong=2), weights=b"x", change=lambda r: r["variants"][0].pop("latency")
    )
    for run, word in (
        (now, "memory=null"),
        (now, "latency.workload={batch: 8, threads: 1}"),
        (untimed, "latency.workload.batch=4"),
    ):
        with pytest.raises(KeyError):
            judged(run, baseline, word)
    assert seen == [([1], [32], 2), ([8], [32], 1), ([4], [1], machine.threads())]
    with pytest.raises(KdcError, match=r"was not timed in its run; name a latency.workload.batch, and for texts a lat"):
        judged(untimed, baseline)


def test_a_graph_that_runs_other_workloads_only_is_refused(
    now: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not timed at what it does run: that is not what was asked for, and the two may differ in it."""
    timed = fake_timing(10.0)

    @contextlib.contextmanager
    def at_another_batch(*contenders: Any, **settings: Any) -> Iterator[Any]:
        with timed(*contenders, **settings) as rounds:
            rounds.workloads["baseline"] = [{**WORKLOAD, "batch": 8}]
            rounds.notes["baseline"] = ["not timed at batch 1: the graph takes 8 only"]
            yield rounds

    monkeypatch.setattr(latency, "timed_rounds", at_another_batch)
    with pytest.raises(KdcError, match=r"cannot be timed: not timed at batch 1: the graph takes 8 only"):
        judged(now, baseline)


def test_real_artifacts_in_real_processes(
    tmp_path: Path, texts: Any, now: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six layers against one: slower by far more than any noise."""
    monkeypatch.setattr(decision, "LOOKS", (5,))
    monkeypatch.setattr(latency, "LOOKS", (5,))
    for run, layers in ((baseline, 1), (now, 6)):
        folder = run / "artifacts" / NAME
        (folder / "forward.onnx").unlink()
        built = tiny.built_bert(texts, layers=layers)
        tiny.artifact(folder, built, texts, runtime="onnxruntime")
        record = RunRecord.load(run)
        record.variants[0].artifact = artifact_size(folder, path=f"artifacts/{NAME}")
        record.save(run / "record.json")
    words = ("latency.workload={batch: 1, length: 16, threads: 1}", "latency.floor=0.001ms")
    (result,) = judged(now, baseline, *words)
    assert result.outcome == "fail"
    assert result.estimate is not None
    assert result.estimate > 0.5
    with pytest.raises(KdcError, match=r"cannot be timed: not timed at length 128: the model takes at most 32"):
        judged(now, baseline, "latency.workload.length=128")
    record = RunRecord.load(now)
    record.variants[0].latency = []
    record.save(now / "record.json")
    with pytest.raises(KdcError, match=r"cannot be timed: batch 4 is not .*, and for texts a latency.workload.length"):
        judged(now, baseline, "latency.workload.batch=4")
