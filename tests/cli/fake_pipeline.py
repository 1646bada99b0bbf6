"""A pipeline that does what its seed says, so that the command line can be tested without training anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdc.config import RunConfig
from kdc.errors import KdcError
from kdc.record import Latency, MetricValue, Quality, Run, RunRecord, Variant, Versus

FAILS, CRASHES, INTERRUPTED, EXITS = 13, 14, 15, 16
calls: list[dict[str, Any]] = []


def run_pipeline(
    config: RunConfig, folder: Path, *, command: str, overrides: list[str], time_later: object = None
) -> RunRecord:
    calls.append({"config": config, "folder": folder, "command": command, "overrides": overrides})
    record = RunRecord(
        run=Run(id="x", command=command, overrides=overrides, started_at="now", seed=config.seed), baseline="teacher"
    )
    if config.dry_run:
        return record
    if config.seed == INTERRUPTED:
        raise KeyboardInterrupt
    if config.seed in (FAILS, CRASHES, EXITS):
        error = {
            FAILS: KdcError("the disk is full", "free some", exit_code=1),
            CRASHES: ZeroDivisionError("division by zero"),
            EXITS: SystemExit(3),
        }[config.seed]
        record.run.status, record.run.error = "failed", str(error)
        record.save(folder / "record.json")
        raise error
    record.run.status = "ok"
    record.variants.append(
        Variant(
            name="student+int8-onnxruntime",
            stage="export",
            runtime="onnxruntime",
            precision="int8",
            quality=Quality(
                split="test", n=100, metrics={"accuracy": MetricValue(value=0.876, primary=True)}, retained=0.985
            ),
            latency=[
                Latency(
                    workload={"batch": 1, "length": 32},
                    p50_ms=1.25,
                    throughput=800,
                    samples=[[1.25]],
                    versus=[Versus(against="teacher", ratio=8.1)],
                )
            ],
        )
    )
    record.save(folder / "record.json")
    return record
