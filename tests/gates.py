"""Runs to be gated, written in milliseconds: a record with predictions and an artifact of nonsense that all agree."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from kdc import machine
from kdc.data.examples import Examples
from kdc.measure.size import artifact_size
from kdc.record import RunRecord
from tests import tiny

NAME = "student.onnxruntime"
WORKLOAD = {"batch": 1, "length": 32, "threads": 2}
TRUTH = np.arange(2000) % 2
"""The labels of the test rows."""


def answers(*, wrong: int = 200, moved: int = 0, rows: int = len(TRUTH)) -> np.ndarray:
    """Answers of which `wrong` are wrong; with `moved`, that many of them are wrong on other rows instead."""
    chosen = TRUTH[:rows].copy()
    places = [*range(wrong - moved), *range(rows - moved, rows)]
    chosen[places] = 1 - chosen[places]
    return chosen


def write_run(
    folder: Path,
    answered: np.ndarray,
    *,
    ids: Sequence[str] | None = None,
    weights: bytes = b"weights",
    stages: Mapping[str, str] | None = None,
    change: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Path:
    """A finished run of one variant that gave `answered`, whose artifact holds `weights`."""
    truth = TRUTH[: len(answered)]
    logits = np.eye(2, dtype=np.float32)[answered] * 3
    artifact = folder / "artifacts" / NAME
    artifact.mkdir(parents=True)
    (artifact / "forward.onnx").write_bytes(weights)
    (folder / "predictions").mkdir()
    columns = {
        "id": list(ids or map(str, range(len(truth)))),
        "label": [tiny.LABELS[label] for label in truth],
        "prediction": [tiny.LABELS[label] for label in answered],
        "correct": answered == truth,
        "logits": list(logits),
    }
    parquet.write_table(pa.table(columns), folder / "predictions" / f"{NAME}.parquet")
    scores = tiny.task().score({"logits": logits}, Examples({"label": truth}, tiny.LABELS))
    metrics = {name: {"value": value, "primary": name == "accuracy"} for name, value in scores.items()}
    record = {
        "schema": "kdc.record/1",
        "run": {"id": folder.name, "command": "kdc run", "status": "ok", "started_at": "2030-01-01T12:00:00"},
        "environment": machine.environment().model_dump(),
        "config": {
            "dataset": {"task": "text-classification"},
            "compress": {"int8": {"name": "int8"}, "cut": {"name": "of_a_plugin"}},
        },
        "dataset": {"name": "toy", "fingerprint": "f", "splits": {"test": len(truth)}, "labels": list(tiny.LABELS)},
        "stages": [
            {"name": name, "key": key, "cached": False, "wall_seconds": 1.0}
            for name, key in (stages or {"student": folder.name}).items()
        ],
        "variants": [
            {
                "name": NAME, "stage": "student", "runtime": "onnxruntime", "precision": "fp32",
                "artifact": artifact_size(artifact, path=f"artifacts/{NAME}").model_dump(),
                "quality": {"split": "test", "n": len(truth), "metrics": metrics},
                "latency": [{"workload": WORKLOAD, "p50_ms": 10.0, "throughput": 100.0, "samples": [[10.0]]}],
                "memory": {"peak_rss_bytes": 200_000_000, "idle_rss_bytes": 10_000_000},
            }
        ],
    }  # fmt: skip
    change(record)
    RunRecord.model_validate(record).save(folder / "record.json")
    return folder


class FakeRounds:
    """In the place of `Rounds`: the median of round r is `medians[name](r)`."""

    def __init__(self, medians: Mapping[str, Callable[[int], float]]) -> None:
        self._medians = medians
        self.count = 0
        self.workloads = {name: [WORKLOAD] for name in medians}
        self.notes: dict[str, list[str]] = {name: [] for name in medians}

    def more(self, rounds: int) -> None:
        self.count += rounds

    def medians(self, name: str, workload: Mapping[str, Any]) -> np.ndarray:
        assert workload == WORKLOAD
        return np.array([self._medians[name](round_) for round_ in range(self.count)])


def fake_timing(now: float, baseline: float = 10.0, *, noise: float = 0.01) -> Callable[..., Any]:
    """In the place of `timed_rounds`: medians around these milliseconds, drifting together."""
    random = np.random.default_rng(0)
    drift, own, other = random.normal(0, 0.1, 64), random.normal(0, noise, 64), random.normal(0, noise, 64)

    @contextlib.contextmanager
    def timed(contenders: Mapping[str, Any], bench: Any, **_: Any) -> Iterator[FakeRounds]:
        assert (bench.batches, bench.lengths, bench.threads, bench.rows) == ([1], [32], 2, 0)
        told = {
            "baseline": lambda round_: float(baseline * np.exp(drift[round_] + other[round_])),
            "now": lambda round_: float(now * np.exp(drift[round_] + own[round_])),
        }
        timed.rounds = FakeRounds({name: told[name] for name in contenders})  # type: ignore[attr-defined]
        yield timed.rounds  # type: ignore[attr-defined]

    return timed
