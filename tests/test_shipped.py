"""What ships of a run."""

from collections.abc import Sequence
from typing import Any

import pytest

from kdc.record import RunRecord
from kdc.shipped import shipped


def variant(
    name: str,
    *,
    accuracy: float,
    p50: float | None = None,
    high: bool = True,
    to: tuple[str, float, float | None] | None = None,
) -> dict[str, Any]:
    """`to`: the variant that it was held against, the difference and half of its interval."""
    stage, runtime = name.split(".")
    metric = {"value": accuracy, "ci95": [accuracy - 0.01, accuracy + 0.01], "primary": True, "higher_is_better": high}
    metrics = {"size": {"value": 1.0}, "metric": metric}
    comparisons = []
    if to is not None:
        other, value, half = to
        difference = {"value": value, "ci95": half and [value - half, value + half], "p": 0.5, "test": "a test"}
        churn = {"n": 10, "right_to_wrong": 0, "wrong_to_right": 0, "changed": 0}
        comparisons = [{"against": other, "role": "runtime", "metrics": {"metric": difference}, "churn": churn}]
    timed = {"workload": {"batch": 1}, "p50_ms": p50, "throughput": 1.0, "samples": []}
    return {
        "name": name, "stage": stage, "runtime": runtime, "precision": "fp32",
        "quality": {"split": "test", "n": 10, "metrics": metrics}, "latency": [timed] if p50 else [],
        "comparisons": comparisons,
    }  # fmt: skip


def ships(*variants: dict[str, Any], runtimes: Sequence[str] = ()) -> str | None:
    config = {"runtime": {f"my_{name}": {"name": name} for name in runtimes}}
    run = {"id": "1", "name": "run", "command": "kdc run", "status": "ok", "started_at": "2030-01-01T12:00:00"}
    whole = {"schema": "kdc.record/1", "run": run, "config": config if runtimes else {}, "variants": list(variants)}
    found = shipped(RunRecord.model_validate(whole))
    return found.name if found else None


TEACHER = variant("teacher.a", accuracy=0.9, p50=1.0)


def test_the_fastest_of_the_last_step() -> None:
    made = [variant(f"student.{name}", accuracy=0.88, p50=p50) for name, p50 in (("a", 4.0), ("b", 2.0), ("c", 3.0))]
    assert ships(TEACHER, *made) == "student.b"
    assert ships(*made, TEACHER) == "teacher.a"
    assert ships() is None


def test_the_last_where_nothing_was_timed() -> None:
    assert ships(TEACHER, variant("student.a", accuracy=0.88), variant("student.b", accuracy=0.87)) == "student.b"


@pytest.mark.parametrize(
    ("difference", "half", "high", "name"),
    [
        (-0.009, 0.01, True, "student.b"),
        (-0.011, 0.01, True, "student.a"),
        (0.009, 0.01, False, "student.b"),
        (0.011, 0.01, False, "student.a"),
        (-0.011, 0.01, False, "student.b"),
        (-0.001, None, True, "student.a"),  # one row: no interval
        (0.0, None, True, "student.b"),
    ],
)
def test_speed_does_not_pay_for_answers(difference: float, half: float | None, high: bool, name: str) -> None:
    slow = variant("student.a", accuracy=0.88, p50=4.0, high=high)
    held = ("student.a", difference, half)
    fast = variant("student.b", accuracy=0.88 + difference, p50=2.0, high=high, to=held)
    assert ships(TEACHER, slow, fast) == name


def test_the_first_is_passed_over_too() -> None:
    fast, slow = variant("student.a", accuracy=0.8, p50=1.0), variant("student.b", accuracy=0.88, p50=2.0)
    assert ships(fast, slow) == "student.a"
    slow = variant("student.b", accuracy=0.88, p50=2.0, to=("student.a", 0.08, 0.02))
    assert ships(fast, slow) == "student.b"
    worse = variant("student.c", accuracy=0.8, to=("student.a", 0.0, 0.02))
    untimed = variant("student.b", accuracy=0.88, to=("student.a", 0.08, 0.02))
    assert ships(variant("student.a", accuracy=0.8), untimed, worse) == "student.b"


def test_what_was_measured_as_a_baseline_alone_never_ships() -> None:
    baseline = variant("teacher.torch", accuracy=0.9, p50=1.0)
    asked = variant("teacher.openvino", accuracy=0.9, p50=2.0)
    assert ships(baseline, asked, runtimes=["openvino"]) == "teacher.openvino"
    assert ships(baseline, asked, runtimes=["openvino", "torch"]) == "teacher.torch"
    assert ships(baseline, asked) == "teacher.torch"
