"""A made-up sweep of twelve runs, one of which failed: what a leaderboard is made from."""

from __future__ import annotations

from itertools import product

from kdc.record import RunRecord
from tests.report.conftest import text_run, variant

QUALITY = {2: 0.84, 3: 0.87, 4: 0.89}


def sweep_records(*, together: bool = True) -> dict[str, RunRecord]:
    """By folder: layers x compression x temperature; more layers are better and slower, int8 is faster and worse."""
    records = {}
    for number, (layers, compress, temperature) in enumerate(product((2, 3, 4), ("none", "int8"), (1, 4))):
        raw = text_run()
        name = "student" if compress == "none" else "student+int8"
        p50 = layers * (0.5 if compress == "int8" else 1.0) + 0.01 * temperature
        quality = QUALITY[layers] - (0.01 if compress == "int8" else 0) - 0.001 * temperature
        raw["variants"][2] = variant(
            name, "onnxruntime", "fp32", accuracy=quality, ci95=(quality - 0.01, quality + 0.01), size=layers * 10**7,
            p50=p50, versus=[("teacher-torch", 11.9 / p50, None)], retained=quality / 0.897,
        )  # fmt: skip
        raw["run"] |= {
            "id": f"id{number}",
            "overrides": [
                "dataset=sst2", f"student.layers={layers}", f"compress={compress}",
                f"loss.terms.kl.temperature={temperature}",
            ],
        }  # fmt: skip
        raw["timing"] = {
            "rounds": 5, "processes": 60, "wall_seconds": 300.0, "machine": "m",
            "together": [f"id{i}" for i in range(12)] if together else [],
        }  # fmt: skip
        if number == 7:
            raw["run"] |= {"status": "failed", "failed_stage": "student", "error": "the loss became nan; lower it"}
            raw["variants"] = []
        records[f"{number}-bert-layers"] = RunRecord.model_validate(raw)
    return records
