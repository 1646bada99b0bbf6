"""What ships of a run."""

from typing import Any

import pytest

from kdc.record import RunRecord
from kdc.shipped import shipped


def variant(name: str, *, accuracy: float, p50: float | None = None, high: bool = True) -> dict[str, Any]:
    stage, runtime = name.split(".")
    metric = {"value": accuracy, "ci95": [accuracy - 0.01, accuracy + 0.01], "primary": True, "higher_is_better": high}
    metrics = {"size": {"value": 1.0}, "metric": metric}
    timed = {"workload": {"batch": 1}, "p50_ms": p50, "throughput": 1.0, "samples": []}
    return {
        "name": name, "stage": stage, "runtime": runtime, "precision": "fp32",
        "quality": {"split": "test", "n": 10, "metrics": metrics}, "latency": [timed] if p50 else [],
    }  # fmt: skip


def ships(*variants: dict[str, Any]) -> str | None:
    run = {"id": "1", "name": "run", "command": "kdc run", "status": "ok", "started_at": "2030-01-01T12:00:00"}
    found = shipped(RunRecord.model_validate({"schema": "kdc.record/1", "run": run, "variants": list(variants)}))
    return found.name if found else None


TEACHER = variant("teacher.a", accuracy=0.9, p50=1.0)


def test_the_fastest_of_the_last_step() -> None:
    made = [variant(f"student.{name}", accuracy=0.88, p50=p50) for name, p50 in (("a", 4.0), ("b", 2.0), ("c", 3.0))]
    assert ships(TEACHER, *made) == "student.b"
    assert ships(*made, TEACHER) == "teacher.a"
    assert ships() is None


def test_the_last_where_nothing_was_timed() -> None:
    assert ships(TEACHER, variant("student.a", accuracy=0.88), variant("student.b", accuracy=0.87)) == "student.b"


@pytest.mark.parametrize(("accuracy", "name"), [(0.871, "student.b"), (0.869, "student.a")])
def test_speed_does_not_pay_for_answers(accuracy: float, name: str) -> None:
    slow, fast = variant("student.a", accuracy=0.88, p50=4.0), variant("student.b", accuracy=accuracy, p50=2.0)
    assert ships(TEACHER, slow, fast) == name


@pytest.mark.parametrize(("loss", "name"), [(0.329, "student.b"), (0.331, "student.a")])
def test_where_less_is_better(loss: float, name: str) -> None:
    slow = variant("student.a", accuracy=0.32, p50=4.0, high=False)
    assert ships(slow, variant("student.b", accuracy=loss, p50=2.0, high=False)) == name
