"""Records as runs write them: whole ones of text and images, and one that stopped half-way."""

import pytest

from kdc.record import RunRecord
from tests.artifacts import image_artifacts, images, text_artifacts, texts

__all__ = ["image_artifacts", "images", "text_artifacts", "texts"]

CPU = {"model": "Test CPU", "cores": 4, "flags": ["avx2", "avx512_vnni"]}


def variant(name, runtime, precision, *, accuracy, ci95, size, p50=None, versus=(), retained=None, files=None):
    """One entry of `variants`; `versus` holds (against, ratio, ci95)."""
    workloads = [{"batch": 1, "length": 32, "threads": 2}, {"rows": 100, "batch": 1, "end_to_end": True, "threads": 2}]
    held = [{"against": a, "ratio": ratio, "ci95": ci} for a, ratio, ci in versus]
    timed = [
        {
            "workload": workload, "p50_ms": p50 * (1 + i), "p90_ms": p50 * 1.5, "throughput": 1000 / p50,
            "samples": [[p50] * 50] * 3, "versus": held,
        }
        for i, workload in enumerate(workloads)
    ]  if p50 else []  # fmt: skip
    return {
        "name": f"{name}-{runtime}",
        "stage": name,
        "runtime": runtime,
        "precision": precision,
        "artifact": {
            "path": f"artifacts/{name}-{runtime}", "sha256": "0" * 64, "bytes": size, "model_bytes": size - 1000,
            "gzip_bytes": size // 2, "files": files or {"forward.onnx": size - 1000, "tokenizer.json": 1000},
        },
        "quality": {
            "split": "test", "n": 1821, "retained": retained, "agreement": {"argmax": 0.95},
            "metrics": {"accuracy": {"value": accuracy, "ci95": ci95, "primary": True}, "mcc": {"value": 0.77}},
        },
        "latency": timed,
        "memory": {"peak_rss_bytes": 250_000_000, "idle_rss_bytes": 12_000_000},
    }  # fmt: skip


def text_run():
    teacher, fair = "teacher-torch", "teacher-onnxruntime"
    return {
        "schema": "kdc.record/1",
        "run": {
            "id": "2030-01-01/12-00-00", "name": "sst2", "command": "kdc run compress=int8", "status": "ok",
            "started_at": "2030-01-01T12:00:00", "wall_seconds": 700.0, "seed": 0,
        },
        "environment": {"python": "3.11.9", "packages": {"torch": "2.13.0"}, "cpu": CPU, "threads": 2},
        "config": {"bench": {"threads": None}},
        "dataset": {
            "name": "sst2", "fingerprint": "f" * 64, "splits": {"train": 67349, "test": 1821},
            "labels": ["negative", "positive"], "overlap": {"test": 3, "validation": 0},
        },
        "stages": [
            {"name": "teacher", "key": "1a2b3c4d5e6f77", "cached": True, "wall_seconds": 0.2, "notes": ["saved 5 min"]},
            {
                "name": "student", "key": "a" * 64, "cached": False, "wall_seconds": 300.0,
                "train": {
                    "epochs": 2, "steps": 4210, "samples_per_second": 345.6,
                    "history": [
                        {"step": step, "loss": 1.0 / step, "kl": 0.5 / step, **({"accuracy": 0.9} if step > 25 else {})}
                        for step in range(1, 31)
                    ],
                },
            },
        ],
        "variants": [
            variant("teacher", "torch", "fp32", accuracy=0.897, ci95=(0.883, 0.911), size=91_000_000, p50=11.9),
            variant(
                "teacher", "onnxruntime", "fp32", accuracy=0.897, ci95=(0.883, 0.911), size=91_000_000, p50=6.2,
                versus=[(teacher, 1.92, (1.9, 1.94))], retained=1.0,
            ),
            variant(
                "student+int8", "onnxruntime", "int8", accuracy=0.864, ci95=(0.849, 0.88), size=17_800_000, p50=1.47,
                versus=[(teacher, 8.1, (7.8, 8.4)), (fair, 4.2, (4.1, 4.3))], retained=0.963,
            ),
        ],
        "baseline": teacher,
        "notes": ["student: not timed at length 128: the model takes at most 64"],
    }  # fmt: skip


@pytest.fixture
def text_record() -> RunRecord:
    return RunRecord.model_validate(text_run())


@pytest.fixture
def image_record() -> RunRecord:
    """No lengths, one timing round without intervals, torch only, and nothing timed for the teacher's copy."""
    teacher = variant("teacher", "torch", "fp32", accuracy=0.98, ci95=(0.97, 0.99), size=950_000, p50=0.05)
    student = variant(
        "student", "torch", "fp32", accuracy=0.985, ci95=(0.977, 0.99), size=480_000, p50=0.08,
        versus=[("teacher-torch", 0.625, None)], retained=1.005,
        files={"forward.pt2": 479_000, "config.json": 500, "preprocessor_config.json": 500},
    )  # fmt: skip
    for one in (teacher, student):
        one["latency"][0]["workload"] = {"batch": 1, "threads": 2}
    run = text_run() | {"variants": [teacher, student], "baseline": "teacher-torch", "notes": []}
    return RunRecord.model_validate(run)


@pytest.fixture
def failed_record() -> RunRecord:
    run = text_run()
    run["run"] |= {"status": "failed", "failed_stage": "measure", "error": "timing student: killed; free some memory"}
    teacher = run["variants"][0] | {"latency": [], "memory": None}
    bare = {"name": "student-torch", "stage": "student", "runtime": "torch", "precision": "fp32"}
    return RunRecord.model_validate(run | {"variants": [teacher, bare], "dataset": None, "environment": None})
