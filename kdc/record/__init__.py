"""RunRecord: the whole result of a run, and the vocabulary that measure and report share. No torch.

Field names are an interface: extend freely, rename never.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from kdc.errors import KdcError
from kdc.files import read_json, write_atomically
from kdc.record.part import Part
from kdc.record.quality import (
    Calibration,
    CalibrationBin,
    Churn,
    Comparison,
    Difference,
    Flip,
    GroupChange,
    MetricValue,
    Quality,
    Role,
)
from kdc.record.run import Audit, Cpu, Dataset, Environment, Run, Stage, TermAudit, Timing, Train
from kdc.record.variant import (
    Artifact,
    Control,
    Count,
    Gain,
    KernelCount,
    Latency,
    MacsCount,
    Memory,
    Replicate,
    Variant,
    Versus,
)

__all__ = [
    "SCHEMA", "Artifact", "Audit", "Calibration", "CalibrationBin", "Churn", "Comparison", "Control", "Count",
    "Cpu", "Dataset", "Difference", "Environment", "Flip", "Gain", "GroupChange", "KernelCount", "Latency",
    "MacsCount", "Memory", "MetricValue", "Quality", "Replicate", "Role", "Run", "RunRecord", "Stage", "TermAudit",
    "Timing", "Train", "Variant", "Versus",
]  # fmt: skip

SCHEMA: Literal["kdc.record/1"] = "kdc.record/1"


class RunRecord(Part):
    schema_: Literal["kdc.record/1"] = Field(default=SCHEMA, alias="schema")
    run: Run
    environment: Environment | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    dataset: Dataset | None = None
    stages: list[Stage] = Field(default_factory=list)
    variants: list[Variant] = Field(default_factory=list)
    controls: list[Control] = Field(default_factory=list)
    timing: Timing | None = None
    baseline: str | None = None
    verdict: str | None = None
    gain_verdict: list[str] = Field(default_factory=list)
    """What the teacher was worth, a sentence a control."""
    notes: list[str] = Field(default_factory=list)

    def variant(self, name: str) -> Variant:
        return next(v for v in self.variants if v.name == name)

    def save(self, path: Path) -> None:
        write_atomically(path, self.model_dump_json(indent=2, by_alias=True) + "\n")

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """The record in a file or in a run's folder; KdcError where there is none, or a newer or damaged one."""
        file = path / "record.json" if path.is_dir() else path
        raw = read_json(file) if file.exists() else None
        kind, _, version = str(raw.get("schema") if isinstance(raw, dict) else None).partition("/")
        if kind != "kdc.record":
            raise KdcError(f"there is no record of a run in {path}", "name the folder of a run, or its record.json")
        if version.isdecimal() and int(version) > int(SCHEMA.partition("/")[2]):
            raise KdcError(f"{file}: {kind}/{version} is newer than this kdc reads ({SCHEMA})", "upgrade kdc")
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            said = "{0}: {msg}".format(".".join(map(str, error.errors()[0]["loc"])), **error.errors()[0])
            raise KdcError(f"{file} is damaged: {said}", "run it again") from error
