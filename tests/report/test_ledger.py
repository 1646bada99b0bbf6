"""The ledger: what each step is held against, and what is said where it gained nothing."""

from __future__ import annotations

from typing import Any

import pytest

from kdc.record import (
    Artifact,
    Churn,
    Comparison,
    Count,
    Difference,
    Latency,
    MacsCount,
    Run,
    RunRecord,
    Variant,
    Versus,
)
from kdc.report.ledger import ledger, steps, told
from kdc.report.markdown import markdown

SIZES = {"teacher": (1000, 900), "student": (500, 450), "student+prune": (500, 200), "student+prune+int8": (520, 190)}
SPEED: dict[str, tuple[float, tuple[float, float] | None]] = {
    "student": (2.0, (1.8, 2.2)), "student+prune": (1.01, (0.97, 1.05)), "student+prune+int8": (0.8, (0.7, 0.9)),
}  # fmt: skip


def variant(stage: str, runtime: str, **changes: Any) -> Variant:
    parent = {"student": "teacher"}.get(stage, stage.rpartition("+")[0])
    size, zipped = SIZES[stage]
    ratio = SPEED.get(stage)
    against = [Versus(against=f"{parent}.{runtime}", ratio=ratio[0], ci95=ratio[1])] if ratio else []
    return Variant(
        name=f"{stage}.{runtime}", stage=stage, parents=[parent] if parent else [], runtime=runtime, precision="fp32",
        artifact=Artifact(path="x", sha256="0", bytes=size, model_bytes=size, gzip_bytes=zipped, files={"a": size}),
        parameters=Count(total=size // 4, nonzero=size // 5), macs=MacsCount(total=10 * size),
        latency=[Latency(workload={"batch": 1}, p50_ms=1.0, throughput=1.0, samples=[[1.0]], versus=against)],
        **changes,
    )  # fmt: skip


@pytest.fixture
def record() -> RunRecord:
    found = [variant(stage, "onnxruntime") for stage in SIZES]
    difference = Difference(value=-0.012, ci95=(-0.02, -0.004), test="McNemar, exact")
    churn = Churn(n=100, right_to_wrong=3, wrong_to_right=1, changed=5)
    found[1].comparisons = [
        Comparison(against="teacher.onnxruntime", role="before", metrics={"accuracy": difference}, churn=churn)
    ]
    return RunRecord(
        run=Run(id="r", command="kdc run", started_at="now", status="ok"), baseline="teacher.torch",
        variants=[variant("teacher", "torch"), *found],
    )  # fmt: skip


def test_each_step_has_the_one_before_it_in_its_runtime(record: RunRecord) -> None:
    assert [(step.before.name, step.after.name) for step in steps(record)] == [
        ("teacher.onnxruntime", "student.onnxruntime"),
        ("student.onnxruntime", "student+prune.onnxruntime"),
        ("student+prune.onnxruntime", "student+prune+int8.onnxruntime"),
    ]
    head, rows = ledger(record).head, ledger(record).rows
    assert head[2:8] == ["parameters", "non-zero", "MACs", "size", "zipped", "quality"]
    assert [(cell.main, cell.detail) for cell in rows[0][2:7]] == [  # type: ignore[union-attr]
        ("125", "2.0x"), ("100", "2.0x"), ("5.00 k", "2.0x"), ("500", "2.0x"), ("450", "2.0x"),
    ]  # fmt: skip


def test_what_gained_nothing_is_said(record: RunRecord) -> None:
    assert told(record) == [
        "student.onnxruntime against teacher.onnxruntime: −1.2 points (−2.0 to −0.4), 2.0x faster (1.80–2.2), 2.0x "
        "smaller",
        "student+prune.onnxruntime against student.onnxruntime: no faster within noise: 1.01x (0.97–1.05), no smaller, "
        "2.2x smaller zipped",
        "student+prune+int8.onnxruntime against student+prune.onnxruntime: **slower**: 0.80x (0.70–0.90), **bigger**: "
        "1.04x the size",
    ]


def test_without_an_interval_a_tenth_is_nothing(record: RunRecord) -> None:
    for ratio, said in ((1.05, "no faster within noise: 1.05x"), (1.3, "1.30x faster"), (0.8, "**slower**: 0.80x")):
        record.variants[2].latency[0].versus = [Versus(against="teacher.onnxruntime", ratio=ratio)]
        assert said in told(record)[0]


def test_it_stands_in_the_report_where_there_are_steps(record: RunRecord, text_record: RunRecord) -> None:
    assert "## Step by step\n\n- student.onnxruntime against teacher.onnxruntime: −1.2 points" in markdown(record)
    for one in record.variants:
        one.parents = []
    assert "Step by step" not in markdown(record)
